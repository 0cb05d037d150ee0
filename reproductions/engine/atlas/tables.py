"""League tables: arms of equal budget by what they reached, with ties shown as ties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reproductions.engine.atlas import record as kept
from reproductions.engine.atlas.agreement import pearson, spearman
from reproductions.engine.atlas.entrants import CONFIDENCE, Entrant, League
from reproductions.engine.atlas.pairs import difference, paired
from reproductions.engine.atlas.pooling import LEVEL
from reproductions.engine.atlas.record import pair, short
from reproductions.engine.atlas.ties import adjusted, places, told_apart
from reproductions.engine.metrics import KINDS
from reproductions.engine.verdicts import words
from reproductions.engine.verdicts.statistics import Estimate

T = TypeVar("T")
PAIR_LEVEL = words.LEVEL


def table(name: str, league: League) -> kept.Table:
    """The league's table: best arm first, on its primary metric."""
    metric = league.primary or ""
    names = [metric, *league.companions]
    ranked = {name: _ranked(name, league) for name in names}
    first = ranked[metric]
    rows = []
    for place, entrant in enumerate(first.entrants):
        behind = first.pairs[0, place] if place else Estimate(0.0, None, None)
        rows.append(
            kept.Row(
                key=entrant.key,
                testbed=entrant.arm.testbed,
                title=entrant.title,
                recipe=entrant.recipe,
                papers=entrant.papers,
                seeds=len(entrant.arm.runs),
                rate=entrant.rate,
                cells=tuple(one.cells[entrant.key] for one in ranked.values() if entrant.key in one.cells),
                behind=short(behind.difference),
                behind_interval=pair(behind.interval(PAIR_LEVEL)),
                generated=_generated(entrant),
            )
        )
    return kept.Table(
        name=name,
        scale=league.scale,
        testbeds=league.testbeds,
        budget=league.budget.told,
        student=league.student,
        examples=league.examples,
        columns=tuple(column(name, league) for name in names),
        rows=tuple(rows),
        left_out=len(league.entrants) - len(rows),
        pairs=len(first.pairs),
        apart=first.apart,
        correlations=tuple(_correlations(rows, names)),
    )


def _generated(entrant: Entrant) -> float | None:
    counts = [run.tokens.get("generated") for run in entrant.arm.runs.values()]
    known = [count for count in counts if count is not None]
    return short(sum(known) / len(known)) if known and len(known) == len(counts) else None


@dataclass(frozen=True, eq=False)
class _Ranked:
    """The arms of a league by one metric, best first; `pairs[i, j]`: arm i minus arm j."""

    entrants: list[Entrant]
    pairs: dict[tuple[int, int], Estimate]
    apart: int
    cells: dict[str, kept.Cell]


def _ranked(metric: str, league: League) -> _Ranked:
    entrants = league.measured(metric)
    about = entrants[0].metric(metric)
    tables = [entrant.features(metric, list(entrant.arm.runs)) for entrant in entrants]
    finish = KINDS[about.kind].finish
    figures = adjusted(
        [
            dict(zip(entrant.arm.runs, map(float, finish(features.mean(axis=1))), strict=True))
            for entrant, features in zip(entrants, tables, strict=True)
        ]
    )
    sign = -1 if about.higher_is_better else 1
    # As committed: the last bits depend on the machine's threads, and would put equal arms now this way, now that.
    order = sorted(range(len(entrants)), key=lambda at: (sign * short(figures[at]), entrants[at].key))
    entrants, tables, figures = _by(order, entrants), _by(order, tables), _by(order, figures)
    quality = metric != CONFIDENCE
    pairs = {
        (a, b): difference(metric, entrants[a], entrants[b], (tables[a], tables[b]))
        for a, b in itertools.combinations(range(len(entrants) if quality else 0), 2)
    }
    apart = told_apart(pairs, len(entrants), PAIR_LEVEL)
    where = places(apart)
    cells = {}
    for entrant, mean, features, place in zip(entrants, figures, tables, where, strict=True):
        own = paired([entrant], list(entrant.arm.runs), about, [features], [1.0])
        interval = own.interval(LEVEL)
        moved = mean - own.difference  # to the seeds of all
        cells[entrant.key] = kept.Cell(
            metric=metric,
            mean=short(mean),
            interval=None if interval is None else pair((interval[0] + moved, interval[1] + moved)),
            letters=place.letters if quality else "",
            ranks=(place.best, place.worst) if quality else None,
        )
    return _Ranked(entrants, pairs, int((apart > 0).sum()), cells)


def column(name: str, league: League) -> kept.Column:
    """What a heading says of a metric."""
    about = league.measured(name)[0].metric(name)
    return kept.Column(name, about.title, about.unit, about.higher_is_better)


def _by(order: Sequence[int], items: Sequence[T]) -> list[T]:
    return [items[at] for at in order]


def _correlations(rows: Sequence[kept.Row], names: Sequence[str]) -> Iterator[kept.Correlation]:
    """Between confidence, the primary metric and the sampled ones, over the arms that have both."""
    wanted = [(CONFIDENCE, name) for name in names if name != CONFIDENCE] if CONFIDENCE in names else []
    wanted += [(names[0], name) for name in names[1:] if name != CONFIDENCE]
    for one, other in wanted:
        both = [(row.cell(one), row.cell(other)) for row in rows]
        points = [(a.mean, b.mean) for a, b in both if a is not None and b is not None]
        if len(points) >= 4:
            x, y = [a for a, _ in points], [b for _, b in points]
            rho, r = spearman(x, y), pearson(x, y)
            if math.isfinite(rho) and math.isfinite(r):
                yield kept.Correlation(one, other, len(points), short(rho), short(r))
