"""Statements on what was recorded: their contrasts, pooled with what these have in common."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from reproductions.engine.atlas import record as kept
from reproductions.engine.atlas.entrants import Entrant, League
from reproductions.engine.atlas.pairs import correlation, difference, shared
from reproductions.engine.atlas.pooling import LEVEL, Pooled, pool
from reproductions.engine.atlas.record import pair, short
from reproductions.engine.atlas.statements import Statement, contrasts
from reproductions.engine.atlas.tables import column
from reproductions.engine.verdicts.statistics import Estimate

# What statements are pooled on beside the league's primary metric, where the league has it.
STATED = ("matched_exact_match", "matched_rouge_l", "rouge_l", "excess_error")


def pooled(statement: Statement, name: str, league: League) -> Iterator[kept.PooledRow]:
    """A statement on each metric of a league where it has a contrast."""
    pairs = contrasts(statement, league)
    for metric in [league.primary or "", *(other for other in STATED if other in league.known)]:
        row = pooled_on(metric, statement, pairs, name, league)
        if row is not None:
            yield row


def pooled_on(
    metric: str, statement: Statement, pairs: Sequence[tuple[Entrant, Entrant]], name: str, league: League
) -> kept.PooledRow | None:
    """Contrasts (more, less) of a league on a metric, pooled; None where none of them has it and a spread."""
    able = league.measured(metric)
    mine = [both for both in pairs if both[0] in able and both[1] in able]
    estimates = [difference(metric, *both) for both in mine]
    sure = [
        (both, found)
        for both, found in zip(mine, estimates, strict=True)
        if found.standard_error is not None and found.standard_error > 0
    ]
    if not sure:
        return None
    together = _together(metric, sure) if len(sure) > 1 else None
    about = column(metric, league)
    return kept.PooledRow(
        statement=statement.id,
        title=statement.title,
        says=statement.says,
        league=name,
        scale=league.scale,
        metric=metric,
        metric_title=about.title,
        unit=about.unit,
        mean=None if together is None else short(together.mean),
        interval=None if together is None else pair(together.interval),
        tau=None if together is None else short(together.tau),
        prediction=None if together is None else pair(together.prediction),
        shared=None if together is None else short(together.shared),
        contrasts=tuple(_contrast(both, found) for both, found in sure),
    )


def _together(metric: str, sure: Sequence[tuple[tuple[Entrant, Entrant], Estimate]]) -> Pooled:
    """The contrasts pooled, with the covariances that their common seeds, examples and arms give them."""
    errors = [found.standard_error or 0.0 for _, found in sure]
    covariances = np.zeros((len(sure), len(sure)))
    fewest = min(len(shared(pair)) for pair, _ in sure)
    for a, b in itertools.combinations(range(len(sure)), 2):
        covariances[a, b] = covariances[b, a] = (
            correlation(metric, sure[a][0], sure[b][0]) * errors[a] * errors[b]
        )
    return pool(
        [found.difference for _, found in sure], [error**2 for error in errors], covariances, seeds=fewest
    )


def _contrast(pair: tuple[Entrant, Entrant], found: Estimate) -> kept.Contrast:
    more, less = pair
    interval = found.interval(LEVEL)
    assert interval is not None and found.standard_error is not None  # noqa: S101 - only such are pooled
    return kept.Contrast(
        more=more.title,
        less=less.title,
        keys=(more.key, less.key),
        papers=tuple(sorted({*more.papers, *less.papers})),
        seeds=len(shared(pair)),
        difference=short(found.difference),
        standard_error=short(found.standard_error),
        interval=(short(interval[0]), short(interval[1])),
    )
