"""The rows of `kd distill`: what is read, what is left out, what is held out for validation."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.recipe import columns_of as columns_of_terms
from methods.tokenizers.encoding import tokenized
from reproductions.engine.errors import KDError
from reproductions.models.sources import read_jsonl

if TYPE_CHECKING:
    from datasets import Dataset

FIELDS = ("prompt", "completion")
REFERENCE = "reference"  # the row's completion, as rewards call it
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


def columns_of(method: Mapping[str, Any]) -> list[str]:
    """What a canonical method reads of a row beside prompt and completion."""
    found: list[str] = ["thoughts"] if method["trainer"]["name"] == "latent-reasoning" else []
    sampler: Any = method.get("sampler")
    while isinstance(sampler, Mapping):
        found += [sampler.get("column", "domain")] if sampler["name"] == "domains" else []
        sampler = sampler.get("sampler")

    def walk(tree: Any) -> None:
        if isinstance(tree, Mapping):
            found.extend(part for part in tree.get("join", ()) if isinstance(part, str))
            if isinstance(tree.get("column"), str):  # of a reward, or of an advantage
                found.append(tree["column"])
            if tree.get("name") == "by-column" and "column" not in tree:
                found.append("domain")
            for item in tree.values():
                walk(item)
        elif isinstance(tree, list):
            for item in tree:
                walk(item)

    for part in ("data", "advantage", "rewards", "terms"):
        walk(method.get(part))
    found += columns_of_terms(method)
    return [name for name in dict.fromkeys(found) if name not in (*FIELDS, REFERENCE)]


def group_column(method: Mapping[str, Any]) -> str | None:
    """The column each of whose values must be held out too: the domains that a sampler weighs."""
    sampler: Any = method.get("sampler")
    while isinstance(sampler, Mapping):
        if sampler["name"] == "domains":
            return str(sampler.get("column", "domain"))
        sampler = sampler.get("sampler")
    return None


def read_rows(
    path: Path,
    tokenizer: Any,
    *,
    prompt_tokens: int,
    completion_tokens: int,
    validate: bool,
    seed: int,
    columns: Sequence[str] = (),
    values: Sequence[str] = (),
    group: str | None = None,
    needs: str = "",
) -> Rows:
    """The rows of a JSON Lines file that fit into the limits, its end-of-sequence token included.

    `columns` are read beside prompt and completion, text all but those among `values`, which may be numbers; `needs`
    says of the method that reads them what it needs.
    With `validate` a tenth of them, 64 at most, is drawn by the seed and not trained on, nor any row equal to one; of
    each value of the column `group` at least one. Raises KDError for a row that is not as expected, and where too few
    are left.
    """
    from datasets import Dataset

    rows = read_jsonl(path, FIELDS)
    for number, row in enumerate(rows, 1):
        for name in (*FIELDS, *columns):
            why = f"; {needs}" if name in columns and needs else ""
            said = row.get(name)
            if name in values and type(said) in (int, float):
                continue
            if not isinstance(said, str) or not said:
                what = "text or a number" if name in values else "text"
                raise KDError(f'{path}: row {number}: "{name}" must be {what}{why}')
            if not row[name].isprintable() and _has_half_a_character(row[name]):
                raise KDError(
                    f'{path}: row {number}: "{name}" holds half of a surrogate pair, which is no text'
                )
        spoken = [name for name in SPOKEN if row.get(name)]
        if spoken:
            raise KDError(
                f'{path}: row {number} has a field "{spoken[0]}", which would be left out: write it into "prompt", '
                "as the student is to read it, and take the field out"
            )
    read = [*FIELDS, *columns]
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
    held = _held_out([rows[i] for i in kept], group, seed) if validate else set()
    train = [i for place, i in enumerate(kept) if place not in held]
    if not train or (validate and not held):
        raise KDError(
            f"{path}: {len(kept)} different rows fit into {limits}; two are needed, one to validate with"
        )
    counts = {"read": len(rows), "too_long": len(rows) - len(kept), "held_out": len(held)}
    unused = sorted({name for row in rows for name in row} - set(read))
    validation = data.select([kept[place] for place in sorted(held)]) if validate else None
    return Rows(data.select(train), validation, counts, unused)


def _held_out(rows: Sequence[Mapping[str, Any]], group: str | None, seed: int) -> set[int]:
    """Places of the rows that are not trained on; equal rows stay together. Raises KDError for a group of one row."""
    said = [tuple(row[name] for name in FIELDS) for row in rows]
    groups: dict[Any, dict[tuple[str, ...], None]] = {}
    for row, text in zip(rows, said, strict=True):
        groups.setdefault(row[group] if group else None, {})[text] = None
    most = max(1, VALIDATION_ROWS // len(groups))
    draws, drawn = random.Random(f"validation:{seed}"), set()
    for name, different in groups.items():
        if group and len(different) < 2:
            raise KDError(f'only one row of {group} "{name}" fits; two are needed, one to validate with')
        number = min(most, max(1, int(VALIDATION_SHARE * len(different))), len(different) - 1)
        drawn |= set(draws.sample(list(different), number))
    return {place for place, text in enumerate(said) if text in drawn}


def _has_half_a_character(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
