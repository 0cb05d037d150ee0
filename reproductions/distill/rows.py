"""The rows of `kd distill`: what is read, what is left out, what is held out for validation."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.tokenizers.encoding import tokenized
from reproductions.engine.errors import KDError
from reproductions.models.sources import read_jsonl

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("prompt", "completion")
MORE = ("thoughts", "domain")  # that some methods read
# Fields that say something to a model: a row that has one and is read without it is not the row that was meant.
SPOKEN = (
    "system",
    "messages",
    "conversations",
    "instruction",
    "input",
    "context",
    "tools",
    "images",
    "history",
)
VALIDATION_ROWS, VALIDATION_SHARE = 64, 0.1


@dataclass
class Rows:
    """Rows to train on and to validate with (None where nobody asks), and where the others went."""

    train: Dataset
    validation: Dataset | None
    counts: dict[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # fields of the file that nothing reads


def read_rows(
    path: Path, tokenizer: Any, *, prompt_tokens: int, completion_tokens: int, validate: bool, seed: int
) -> Rows:
    """The rows of a JSON Lines file that fit into the limits, its end-of-sequence token included.

    With `validate` a tenth of them, 64 at most, is drawn by the seed and not trained on, nor any row equal to one.
    Raises KDError for a row that is not as expected, and where too few are left.
    """
    from datasets import Dataset

    rows = read_jsonl(path, FIELDS)
    for number, row in enumerate(rows, 1):
        for name in FIELDS:
            if not isinstance(row[name], str) or not row[name]:
                raise KDError(f'{path}: row {number}: "{name}" must be text')
        spoken = [name for name in SPOKEN if row.get(name)]
        if spoken:
            raise KDError(
                f'{path}: row {number} has a field "{spoken[0]}", which would be left out: write it into "prompt", '
                "as the student is to read it, and take the field out"
            )
    read = [*FIELDS, *(name for name in MORE if all(isinstance(row.get(name), str) for row in rows))]
    data = Dataset.from_list([{name: row[name] for name in read} for row in rows])
    ids, starts = tokenized(data, tokenizer)
    sizes = [(start, len(row) - start) for start, row in zip(starts, ids, strict=True)]
    kept = [
        i for i, (asked, said) in enumerate(sizes) if asked <= prompt_tokens and 0 < said <= completion_tokens
    ]
    limits = f"{prompt_tokens} + {completion_tokens} tokens"
    if not kept:
        longest = " + ".join(str(max(size[side] for size in sizes)) for side in (0, 1))
        raise KDError(f"{path}: no row fits into {limits}; the longest prompt and answer have {longest}")
    held = _held_out([tuple(rows[i][name] for name in FIELDS) for i in kept], seed) if validate else set()
    train = [i for place, i in enumerate(kept) if place not in held]
    if not train or (validate and not held):
        raise KDError(
            f"{path}: {len(kept)} different rows fit into {limits}; two are needed, one to validate with"
        )
    counts = {"read": len(rows), "too_long": len(rows) - len(kept), "held_out": len(held)}
    unused = sorted({name for row in rows for name in row} - set(read))
    validation = data.select([kept[place] for place in sorted(held)]) if validate else None
    return Rows(data.select(train), validation, counts, unused)


def _held_out(rows: list[tuple[str, ...]], seed: int) -> set[int]:
    """Places of the rows that are not trained on; equal rows stay together."""
    different = list(dict.fromkeys(rows))
    number = min(VALIDATION_ROWS, max(1, int(VALIDATION_SHARE * len(different))), len(different) - 1)
    drawn = set(random.Random(f"validation:{seed}").sample(different, number))
    return {place for place, row in enumerate(rows) if row in drawn}
