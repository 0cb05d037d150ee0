"""What the site's page of the evidence shows: plain values, and charts as HTML that this room has escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reproductions.engine.atlas.record import PooledRow, Record, Row, Table
from reproductions.engine.show.view import ClaimRow, Outcome
from reproductions.engine.verdicts.words import VERDICTS
from tools.pages.atlas import Atlas, told
from tools.pages.evidence import encoders
from tools.pages.evidence.charts import Scale, axis, interval, sharpness
from tools.pages.evidence.page import drawn
from tools.pages.evidence.told import agrees, figure, holds, league_name, place, rules, sharp, stated

REACH = 4.0  # smallest effects to either side that a forest plot shows
MOST = 250  # claims in one plot; every paper's page has its own


@dataclass(frozen=True)
class Bar:
    """A line of a forest plot: what it is, its drawing, and its figures in words."""

    outcome: Outcome
    paper: str
    claim: ClaimRow
    drawing: Markup


@dataclass(frozen=True)
class Forest:
    """The claims of a scale on a testbed, by verdict and size, in units of the smallest effect that matters."""

    scale: str
    testbed: str
    bars: tuple[Bar, ...]
    claims: int


def evidence(atlas: Atlas, marks: dict[str, str]) -> dict[str, Any]:
    """The page's values."""
    record = atlas.record
    return {
        "counts": [told(found, marks).replace("**", "") for found in atlas.evidence.values()],
        "forests": forests(atlas),
        "record": record,
        "league_name": league_name,
        "stated": [] if record is None else [_stated(league, rows) for league, rows in stated(record)],
        "others": [] if record is None else _others(record),
        "leagues": [] if record is None else [_league(found) for found in record.tables],
        "encoders": {"about": encoders.ABOUT, "head": encoders.HEAD, "rows": encoders.rows(atlas)},
        "agreement": [] if record is None else [
            (place(row), agrees(row), row.orders) for row in record.agreement if row.mean is not None
        ],
        "scatters": [] if record is None else [found for table in record.tables if (found := _scatter(table))],
        "rules": [] if record is None else rules(record),
    }  # fmt: skip


def forests(atlas: Atlas) -> list[Forest]:
    """One plot for each scale and testbed where claims were judged."""
    found: dict[tuple[str, str], list[tuple[str, ClaimRow, Outcome]]] = {}
    for scale in atlas.evidence:
        for paper, view in atlas.views.items():
            for claim in view.claims:
                for outcome in claim.outcomes:
                    if outcome.scale == scale and outcome.has_verdict and outcome.interval is not None:
                        found.setdefault((scale, outcome.testbed), []).append((paper, claim, outcome))
    at = axis([-REACH, REACH], 2, 98, room=0)[2]
    made = []
    for (scale, testbed), rows in found.items():
        rows.sort(key=lambda row: (VERDICTS.index(row[2].kind), -_middle(row[1], row[2]), row[0], row[1].id))
        bars = tuple(
            Bar(outcome, paper, claim, _bar(at, claim, outcome)) for paper, claim, outcome in rows[:MOST]
        )
        made.append(Forest(scale, testbed, bars, len(rows)))
    return made


def unit(claim: ClaimRow, outcome: Outcome) -> float:
    """What one step of a plot's axis is for a claim, in its metric's unit: the smallest effect, or a claim's bound."""
    return claim.within or outcome.effect or abs(outcome.difference or 0.0) or 1.0


def _middle(claim: ClaimRow, outcome: Outcome) -> float:
    return ((outcome.difference or 0.0) - claim.margin) / unit(claim, outcome)


def _bar(at: Scale, claim: ClaimRow, outcome: Outcome) -> Markup:
    size = unit(claim, outcome)
    assert outcome.interval is not None  # noqa: S101 - `forests` keeps only those
    low, high = ((end - claim.margin) / size for end in outcome.interval)
    drawing = interval(
        at,
        outcome.kind.replace(" ", "-"),
        middle=_middle(claim, outcome),
        bounds=(low, high),
        band=(-1.0, 1.0) if claim.within or outcome.effect else None,
        limits=(-REACH, REACH),
    )
    return Markup(drawing)  # noqa: S704 - numbers and an escaped class


def _stated(league: Table, rows: Sequence[PooledRow]) -> dict[str, Any]:
    """A league's statements with their drawings on one axis."""
    values = [0.0]
    for row in rows:
        values += [one.difference for one in row.contrasts]
        shown = (row.interval or row.contrasts[0].interval, row.prediction)
        values += [end for bounds in shown if bounds is not None for end in bounds]
    low, high = max(min(values), -3 * _reach(rows)), min(max(values), 3 * _reach(rows))
    low, high, at = axis([low, high], 2, 98, room=0.02)
    return {
        "league": league,
        "low": low,
        "high": high,
        "rows": [
            {
                "row": row,
                "holds": holds(row),
                "figure": figure(row),
                "drawing": Markup(  # noqa: S704 - numbers alone
                    interval(
                        at,
                        _direction(row),
                        middle=row.contrasts[0].difference if row.mean is None else row.mean,
                        bounds=row.contrasts[0].interval if row.mean is None else row.interval,
                        wide=row.prediction,
                        dots=[one.difference for one in row.contrasts] if row.mean is not None else (),
                        limits=(low, high),
                    )
                ),
            }
            for row in rows
        ],
    }


def _reach(rows: Sequence[PooledRow]) -> float:
    """The largest distance from zero of a pooled interval's end: a prediction may go far beyond."""
    ends = [abs(end) for row in rows for end in (row.interval or row.contrasts[0].interval)]
    return max(ends, default=1.0) or 1.0


def _direction(row: PooledRow) -> str:
    low, high = row.interval or row.contrasts[0].interval
    return "reproduced" if low > 0 else "reversed" if high < 0 else "open"


def _others(record: Record) -> list[tuple[PooledRow, str, str]]:
    """Statements on further metrics."""
    first = {table.name: table.columns[0].metric for table in record.tables}
    return [
        (row, holds(row), figure(row)) for row in record.statements if row.metric != first.get(row.league)
    ]


def _league(found: Table) -> dict[str, Any]:
    """A league table with a drawing a row: how far behind the best."""
    ends = [end for row in found.rows if row.behind_interval for end in row.behind_interval]
    furthest = sorted(row.behind for row in found.rows)
    limit = max(2.5 * furthest[(3 * len(furthest)) // 4], 1e-9)
    low, high = min([0.0, *ends]), min(max([1e-9, *ends]), limit)
    _, _, at = axis([-high, -low], 3, 97, room=0.02)
    return {"table": found, "rows": [(row, _behind(row, at, (-high, -low))) for row in found.rows[:MOST]]}


def _behind(row: Row, at: Scale, limits: tuple[float, float]) -> Markup:
    bounds = None if row.behind_interval is None else (-row.behind_interval[1], -row.behind_interval[0])
    kind = "best" if "a" in row.letters else "rest"
    return Markup(interval(at, kind, middle=-row.behind, bounds=bounds, limits=limits))  # noqa: S704 - numbers alone


def _scatter(found: Table) -> dict[str, Any] | None:
    pictures = [Markup(sharpness(found, metric, standalone=False)) for metric in drawn(found)]  # noqa: S704
    if not any(pictures):
        return None
    return {
        "table": found,
        "pictures": [picture for picture in pictures if picture],
        "lines": [sharp(found, one) for one in found.correlations],
    }
