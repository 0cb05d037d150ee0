"""Two arms compared, and two such comparisons compared: on the seeds that all of their arms have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from reproductions.engine.atlas.entrants import Entrant
from reproductions.engine.metrics import Array, Metric
from reproductions.engine.verdicts.statistics import Estimate, estimate
from reproductions.engine.verdicts.units import units_of


def difference(
    metric: str, first: Entrant, second: Entrant, features: tuple[Array, Array] | None = None
) -> Estimate:
    """The first arm minus the second on the seeds that both have, paired; + is better.

    `features` are those of all runs of each, where they were read already.
    """
    seeds, about = shared([first, second]), first.metric(metric)
    if features is not None and seeds == list(first.arm.runs) == list(second.arm.runs):
        tables = list(features)
    else:
        tables = [first.features(metric, seeds), second.features(metric, seeds)]
    return paired([first, second], seeds, about, tables, [1.0, -1.0], about.higher_is_better)


def correlation(metric: str, one: tuple[Entrant, Entrant], other: tuple[Entrant, Entrant]) -> float:
    """Of the estimates of two contrasts, on the seeds that all of their arms have: 0 where there are too few.

    From the variances of their sum and their difference: Var(A + B) - Var(A - B) = 4 Cov(A, B), by the same closed form
    as any estimate here.
    """
    arms = list({entrant.key: entrant for entrant in (*one, *other)}.values())
    seeds = shared(arms)
    if len(seeds) < 2:
        return 0.0
    about = arms[0].metric(metric)
    tables = [entrant.features(metric, seeds) for entrant in arms]

    def variance(sign_one: float, sign_other: float) -> float:
        weights = [
            sign_one * ((arm.key == one[0].key) - (arm.key == one[1].key))
            + sign_other * ((arm.key == other[0].key) - (arm.key == other[1].key))
            for arm in arms
        ]
        found = paired(arms, seeds, about, tables, weights)
        return (found.standard_error or 0.0) ** 2

    scale = math.sqrt(variance(1, 0) * variance(0, 1))
    if scale == 0:
        return 0.0
    return float(np.clip((variance(1, 1) - variance(1, -1)) / (4 * scale), -1.0, 1.0))


def shared(entrants: Iterable[Entrant]) -> list[int]:
    """The seeds that all of some arms have."""
    first, *others = entrants
    return [seed for seed in first.arm.runs if all(seed in other.arm.runs for other in others)]


def paired(
    entrants: Sequence[Entrant],
    seeds: Sequence[int],
    metric: Metric,
    tables: Sequence[Array],
    weights: Sequence[float],
    higher_is_better: bool = True,
) -> Estimate:
    """The sum of weight x metric(arm) on these seeds, `tables` being the arms' features; + is better."""
    units = units_of([entrant.arm.spec for entrant in entrants], seeds)
    return estimate(
        metric.kind,
        tables,
        weights,
        higher_is_better=higher_is_better,
        groups=units.groups,
        own_examples=units.own_examples,
    )
