"""A user's labelled texts: read, held out, and as each model's tokenizer makes them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.errors import nearest
from reproductions.distill.data import lacking
from reproductions.distill.data.files import BadRow, read_table
from reproductions.distill.data.spec import DataSpec
from reproductions.engine.errors import KDError

if TYPE_CHECKING:
    from reproductions.distill.classes.config import ClassesConfig

TEXT, LABEL = "text", "label"


@dataclass
class Labelled:
    """Texts with the names of their classes, and what was found in the files."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    bad: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    read: int = 0

    def part(self, rows: Sequence[int]) -> Labelled:
        """Some of the rows."""
        texts, labels, places = ([own[n] for n in rows] for own in (self.texts, self.labels, self.places))
        return Labelled(texts, labels, places, self.bad, self.told, self.read)


def read_labelled(spec: DataSpec, tell: Callable[..., Exception]) -> Labelled:
    """The labelled texts of a config's data. Raises `tell`'s error for columns that miss, KDError for a bad row."""
    table = read_table(spec)
    names = {ours: spec.columns.get(ours, ours) for ours in (TEXT, LABEL)}
    for ours in spec.columns:
        if ours not in names:
            raise tell(
                f'columns: "{ours}" is not read{nearest(ours, names)}; known: text, label', "columns", ours
            )
    for ours, theirs in names.items():
        if theirs not in table.columns:
            near = nearest(theirs, table.columns)
            raise tell(
                f'the rows have no column "{theirs}"{near}; they have {", ".join(table.columns)}: say '
                f"`columns: {{{ours}: NAME}}`"
            )
    found = Labelled(told=+table.told, read=len(table.rows))
    for row, place in zip(table.rows, table.places, strict=True):
        bad = row if isinstance(row, BadRow) else _bad(row, names)
        if bad is None:
            assert not isinstance(row, BadRow)
            found.texts.append(row[names[TEXT]])
            found.labels.append(_name(row[names[LABEL]]))
            found.places.append(place)
        elif spec.bad_rows == "refuse":
            raise KDError(f"{place}: {bad.why}; `bad_rows: skip` leaves such rows out and counts them")
        else:
            found.bad[bad.kind] += 1
    repeated = len(found.texts) - len(set(zip(found.texts, found.labels, strict=True)))
    found.told["repeated rows"] += repeated
    found.told = +found.told
    _check_contradictions(found)
    return found


def lacks(rows: Labelled, student: Any, teachers: Sequence[Any]) -> list[str]:
    """What the tokenizers lack of the texts, a sentence of each that lacks any; `told` counts it then too."""
    whose = {lacking.STUDENT: student, **lacking.of_teachers(teachers, student)}
    told, said = lacking.of_each(rows.texts, whose)
    rows.told.update(told)
    return said


def _check_contradictions(found: Labelled) -> None:
    """Texts that have several labels are counted: nobody can learn them."""
    labels: dict[str, set[str]] = {}
    for text, label in zip(found.texts, found.labels, strict=True):
        labels.setdefault(text, set()).add(label)
    several = sum(len(own) > 1 for own in labels.values())
    if several:
        found.told["texts with several labels"] = several


def _bad(row: Mapping[str, Any], names: Mapping[str, str]) -> BadRow | None:
    text, label = row.get(names[TEXT]), row.get(names[LABEL])
    if not isinstance(text, str) or not text.strip():
        return BadRow("no text", f'"{names[TEXT]}" is no text')
    if label is None or isinstance(label, float | list | dict) or not str(label).strip():
        return BadRow("no label", f'"{names[LABEL]}" is no label: a name, or a whole number')
    return None


def _name(label: Any) -> str:
    return str(label).strip()


def classes_in(rows: Labelled) -> list[str]:
    """The classes of the data: numbers in their order, names in that of the alphabet. Raises KDError for one alone."""
    found = sorted(
        set(rows.labels), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name)
    )
    if len(found) < 2:
        raise KDError(f"all rows have the label {found[0]!r}: there is nothing to tell apart")
    return found


def ids_of(rows: Labelled, classes: Sequence[str]) -> list[int]:
    """The number of each row's class; of a model whose classes have no names a label is the number itself.

    Raises KDError, at the row's place, for a label that is none of the classes.
    """
    known = {name: number for number, name in enumerate(classes)}
    unnamed = all(name == f"LABEL_{number}" for number, name in enumerate(classes))
    if unnamed:
        known |= {str(number): number for number in range(len(classes))}
    for label, place in zip(rows.labels, rows.places, strict=True):
        if label not in known:
            raise KDError(
                f'{place}: no class "{label}"{nearest(label, classes)}; the classes are {", ".join(classes)}'
            )
    return [known[label] for label in rows.labels]


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows to measure on, whose texts are different ones."""

    train: Labelled
    held: Labelled
    counts: Mapping[str, int]


def split_of(config: ClassesConfig) -> Split:
    """The config's rows: held out by the seed alone, half of all at most; no text of theirs is trained on."""

    def tell(*where: str) -> Callable[..., Exception]:
        return lambda message, *path: config.lines.error(message, *where, *path)

    rows = read_labelled(config.data, tell("data"))
    if config.held_data is not None:
        held = read_labelled(config.held_data, tell("evaluate", "data"))
        lost, chosen = sum(held.bad.values()), list[int]()
    else:
        lost, count = 0, min(config.held_rows, len(rows.texts) // 2)
        chosen = sorted(np.random.default_rng(config.seed).permutation(len(rows.texts))[:count].tolist())
        held = rows.part(chosen)
    taken, measured = set(chosen), set(held.texts)
    left = [n for n, text in enumerate(rows.texts) if n not in taken and text not in measured]
    train = rows.part(left)
    if len(train.texts) < 1 or len(held.texts) < 2:
        raise KDError(f"{config.data}: {len(rows.texts)} rows are too few to train and to measure on")
    counts = {
        "read": rows.read,
        "unreadable": sum(rows.bad.values()),
        "equal_to_evaluated": len(rows.texts) - len(taken) - len(left),
        "evaluated": len(held.texts),
        "evaluation_left_out": lost,
        "trained_on": len(left),
    }
    return Split(train, held, counts)
