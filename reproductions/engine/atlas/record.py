"""What the atlas says as a whole: plain frozen data, committed as reproductions/atlas.json, printed by pages.

Computed by `compute`, never typed. The file's first line holds a digest of the rest and of what it was made from
(results, experiments, statements, attempts); `kd verify` makes it anew and compares. Nothing here reads a result.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from reproductions.engine.files import significant, write_atomic

ROOT = Path(__file__).resolve().parents[3]
FILE = "reproductions/atlas.json"
SCHEMA = 1
DIGITS = 6  # significant digits of a figure

Interval = tuple[float, float]


@dataclass(frozen=True)
class Cell:
    """A metric of an arm over the seeds of its league: its mean, and the 95 % interval of that mean.

    `letters`: its tie groups on this metric; `ranks`: the best and the worst that it may have ('' and None for what is
    no quality).
    """

    metric: str
    mean: float
    interval: Interval | None
    letters: str
    ranks: tuple[int, int] | None


@dataclass(frozen=True)
class Row:
    """An arm in a league table.

    `behind`: the best arm minus this one on the seeds of both, with its interval at the level of a look. `generated`:
    tokens that the student wrote in a training, the mean over seeds; None where that was not counted.
    """

    key: str
    testbed: str
    title: str
    recipe: str
    papers: tuple[str, ...]
    seeds: int
    rate: float | None
    cells: tuple[Cell, ...]
    behind: float
    behind_interval: Interval | None
    generated: float | None = None

    @property
    def letters(self) -> str:
        """Its tie groups on what the table is sorted by."""
        return self.cells[0].letters

    @property
    def ranks(self) -> tuple[int, int]:
        """The best and the worst rank that it may have there."""
        return self.cells[0].ranks or (0, 0)

    def cell(self, metric: str) -> Cell | None:
        """Its figure on a metric, None where it has none."""
        return next((cell for cell in self.cells if cell.metric == metric), None)


@dataclass(frozen=True)
class Column:
    """A metric of a league."""

    metric: str
    title: str
    unit: str
    higher_is_better: bool


@dataclass(frozen=True)
class Correlation:
    """Over the arms of a league that have both metrics."""

    one: str
    other: str
    arms: int
    spearman: float
    pearson: float


@dataclass(frozen=True)
class Table:
    """A league: arms of equal budget, best first by `columns[0]`. `left_out`: arms without that metric."""

    name: str
    scale: str
    testbeds: tuple[str, ...]
    budget: str
    student: str
    examples: int
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    left_out: int
    pairs: int
    apart: int
    correlations: tuple[Correlation, ...]


@dataclass(frozen=True)
class Contrast:
    """Two arms of one league that differ in what a statement names; + speaks for the statement."""

    more: str
    less: str
    keys: tuple[str, str]
    papers: tuple[str, ...]
    seeds: int
    difference: float
    standard_error: float
    interval: Interval


@dataclass(frozen=True)
class PooledRow:
    """A statement on a metric in a league; the pooled figures are None where there is one contrast only."""

    statement: str
    title: str
    says: str
    league: str
    scale: str
    metric: str
    metric_title: str
    unit: str
    mean: float | None
    interval: Interval | None
    tau: float | None
    prediction: Interval | None
    shared: float | None
    contrasts: tuple[Contrast, ...]


@dataclass(frozen=True)
class OrderRow:
    """A paper's arms in one of its settings: (arm, the paper's number, ours)."""

    paper: str
    setting: str
    metric: str
    arms: tuple[tuple[str, float, float], ...]
    kendall: float
    spearman: float


@dataclass(frozen=True)
class AgreementRow:
    """How far papers' orders are found again at one scale on the testbeds of one task, today or `earlier`."""

    scale: str
    testbeds: tuple[str, ...]
    earlier: bool
    mean: float | None
    interval: Interval | None
    mean_spearman: float | None
    spearman_interval: Interval | None
    papers: int
    same: int
    opposite: int
    orders: tuple[OrderRow, ...]


@dataclass(frozen=True)
class SideRow:
    """What some papers say in a dispute."""

    says: str
    papers: tuple[str, ...]


@dataclass(frozen=True)
class AnswerRow:
    """What recorded arms say to a dispute, a row a league; `missing`: arms that no contrast has yet, in words."""

    says: str
    rows: tuple[PooledRow, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class DisputeRow:
    """A question that papers answer differently. `unanswered`: why nothing recorded can answer the question itself."""

    id: str
    asks: str
    unanswered: str
    sides: tuple[SideRow, ...]
    answers: tuple[AnswerRow, ...]


@dataclass(frozen=True)
class Record:
    """All of it. `made_from` is the digest of what it was computed from; `level` that of a pair of arms."""

    made_from: str
    level: float
    tables: tuple[Table, ...] = ()
    statements: tuple[PooledRow, ...] = ()
    agreement: tuple[AgreementRow, ...] = ()
    disputes: tuple[DisputeRow, ...] = ()


def text(record: Record) -> str:
    """What the committed file holds: a line about it, then a row of each table on a line of its own."""
    plain = dataclasses.asdict(record)
    body = f"{{\n{_lines(plain, 1)}\n}}\n"
    return f"{json.dumps({'schema': SCHEMA, 'digest': _digest(body)})}\n{body}"


def read(root: Path | None = None) -> Record | None:
    """The committed record as it stands; None where there is none, or somebody edited it."""
    try:
        head, _, body = ((root or ROOT) / FILE).read_text(encoding="utf-8").partition("\n")
        if json.loads(head) != {"schema": SCHEMA, "digest": _digest(body)}:
            return None
        made: Record = _made(Record, json.loads(body))
        return made
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write(record: Record, root: Path | None = None) -> bool:
    """Commit a record, all of it or nothing; whether anything changed."""
    path, new = (root or ROOT) / FILE, text(record)
    if path.is_file() and path.read_text(encoding="utf-8") == new:
        return False
    write_atomic(path, new)
    return True


def inputs(root: Path | None = None) -> str:
    """The digest of everything that a record is computed from, results by their JSON: it has theirs."""
    folder = (root or ROOT) / "reproductions"
    patterns = (
        "results/*/*.json",
        "results/*/*/*.json",
        "papers/*.yaml",
        "testbeds/*.yaml",
        "tuning/*/*.json",
        "attempts/*.json",
        "gates/*.json",
    )
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    digest = hashlib.sha256()
    for path in [*paths, folder / "statements.yaml", folder / "disputes.yaml"]:
        if path.is_file():
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _digest(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:16]


def _lines(value: Mapping[str, Any], depth: int) -> str:
    """JSON with a line for every row of every table: a change shows as a change of lines."""
    pad, parts = " " * depth, []
    for name, item in value.items():
        shown = json.dumps(item, ensure_ascii=False)
        if _is_rows(item):
            rows = [
                f"{pad} {{\n{_lines(row, depth + 2)}\n{pad} }}"
                if any(map(_is_rows, row.values())) and depth < 2
                else f"{pad} {json.dumps(row, ensure_ascii=False)}"
                for row in item
            ]
            shown = "[\n" + ",\n".join(rows) + f"\n{pad}]"
        parts.append(f"{pad}{json.dumps(name)}: {shown}")
    return ",\n".join(parts)


def _is_rows(item: Any) -> bool:
    return isinstance(item, list | tuple) and bool(item) and isinstance(item[0], Mapping)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _made(kind: Any, plain: Any) -> Any:
    """A dataclass from its plain form. Raises TypeError or KeyError where that has another shape."""
    hints = _hints(kind)
    later = {field.name for field in dataclasses.fields(kind) if field.default is not dataclasses.MISSING}
    if not set(hints) - later <= set(plain) <= set(hints):  # an older file may lack what came later
        raise TypeError(f"{kind.__name__} has {sorted(hints)}")
    return kind(**{name: _value(hint, plain[name]) for name, hint in hints.items() if name in plain})


def _value(hint: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if value is None else _value(next(a for a in arguments if a is not types.NoneType), value)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], item) for item in value)
        return tuple(_value(of, item) for of, item in zip(arguments, value, strict=True))
    if dataclasses.is_dataclass(hint):
        return _made(hint, value)
    return value


def short(value: float) -> float:
    """A figure as it is committed."""
    return significant(value, DIGITS)


def maybe(value: float | None) -> float | None:
    """A figure that may not be there."""
    return None if value is None else short(value)


def pair(bounds: Interval | None) -> Interval | None:
    """Both ends of an interval."""
    return None if bounds is None else (short(bounds[0]), short(bounds[1]))
