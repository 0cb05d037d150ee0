"""Sentences of film reviews, and whether they praise or pan; people rated each of them. Nothing is generated.

The movie review snippets that C.J. Hutto and E. Gilbert had rated for VADER (ICWSM 2014): sentences of Rotten Tomatoes,
each with the mean of about twenty people's ratings from -4 to 4. They are in the source archive of the Python package
vaderSentiment 0.5 (MIT), of which nothing else is used; sentences of the same reviews are those of SST-2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.models.archives import PackagedArchive, packaged_text
from reproductions.tasks.base import SPLITS, Limits, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.word_problems import order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SOURCE = PackagedArchive(
    "vaderSentiment==0.5",
    "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
    ("vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",),
    "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
)
VERSION = "1"  # of the splits
CLASSES = ("negative", "positive")
BEGINNING = 'The movie review in {} sentiment is: "'  # as ZeroGen asks, arXiv 2202.07922
SHOWN = 4  # unlabelled texts before a request, where there are any
GROUPS = 24  # of shown texts, for each class
# What a review may be about: films by kind, a list that anybody could write down.
KINDS = (
    *("action", "adventure", "animated", "biographical", "crime", "courtroom", "comedy", "dance"),
    *("disaster", "documentary", "family", "fantasy", "historical", "horror", "martial arts", "musical"),
    *("mystery", "romantic", "science fiction", "spy", "sports", "superhero", "thriller", "war"),
)


@task("reviews")
class Reviews(Task):
    """Sentences whose mean rating is `least` or more away from 0, as many that praise as that pan in every set.

    A sentence stands once, in one set. `test` has `test_texts`, `validation` (for choices) `validation_texts`, `pool`
    `pool_texts` whose labels only who asks people reads, `train` the first `train_texts` of the rest, `whole`. Every
    set begins with one that pans and goes on in turns, so that the first so many are balanced too.

    Sets without labels of people's: `names` are those of the two classes, `classes` a text for each to go on with,
    `kinds` the same for films of KINDS, `shown` the same behind SHOWN texts of the pool, without labels. Each has the
    class in `label`.
    """

    classifies = True

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        least: float = 1.0,
        train_texts: int = 200,
        pool_texts: int = 500,
        validation_texts: int = 1000,
        test_texts: int = 2000,
    ) -> None:
        rows = in_turns(rated(least))
        parts, begin = dict[str, list[dict[str, Any]]](), 0
        for name, count in (("test", test_texts), ("validation", validation_texts), ("pool", pool_texts)):
            parts[name] = rows[begin : begin + count]
            begin += count
        parts["whole"] = rows[begin:]
        parts["train"] = parts["whole"][:train_texts]
        if len(parts["train"]) < train_texts:
            raise KDError(f"reviews: {len(rows)} sentences are too few for {begin + train_texts}")
        parts |= {
            "names": [_asked(name, name) for name in CLASSES],
            "classes": [_asked(name, BEGINNING.format(name)) for name in CLASSES],
            "kinds": [
                _asked(name, BEGINNING.format(name).replace("movie", f"{kind} movie"))
                for kind in KINDS
                for name in CLASSES
            ],
            "shown": _shown([row["prompt"] for row in parts["pool"]]),
        }
        super().__init__(
            shelf="reviews",
            limits=limits,
            rows={name: as_made(dataset(part)) for name, part in parts.items()},
            revision=lambda: fingerprint([*(parts[name] for name in (*SPLITS, "pool")), VERSION]),
        )

    @property
    def classes(self) -> tuple[str, ...]:
        return CLASSES


def _asked(name: str, prompt: str) -> dict[str, str]:
    """A class as a row: what is asked, and how the class is called."""
    return {"prompt": prompt, "completion": name, "label": name}


def _shown(texts: Sequence[str]) -> list[dict[str, str]]:
    """Each class behind GROUPS groups of SHOWN texts; both classes see the same ones."""
    groups = [texts[n * SHOWN : (n + 1) * SHOWN] for n in range(min(GROUPS, len(texts) // SHOWN))]
    return [
        _asked(name, "".join(f'The movie review is: "{text}"\n' for text in group) + BEGINNING.format(name))
        for group in groups
        for name in CLASSES
    ]


def in_turns(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """As many rows of each class as the rarer one has, in turns, in their order."""
    by_class = [[dict(row) for row in rows if row["completion"] == name] for name in CLASSES]
    return list(chain.from_iterable(zip(*by_class, strict=False)))


@cache
def rated(least: float) -> tuple[Mapping[str, str], ...]:
    """Sentences and what they are, in a fixed shuffled order, each once; one that is rated both ways is left out."""
    found: dict[str, set[str]] = {}
    for number, line in enumerate(packaged_text(SOURCE).splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != 3:
            raise KDError(f"{SOURCE.file}:{number}: {len(parts)} fields, not 3")
        text, rating = " ".join(parts[2].split()), float(parts[1])
        if text and abs(rating) >= least:
            found.setdefault(text, set()).add(CLASSES[rating > 0])
    kept = [{"prompt": text, "completion": min(names)} for text, names in found.items() if len(names) == 1]
    return tuple(sorted(kept, key=lambda row: order(row["prompt"])))
