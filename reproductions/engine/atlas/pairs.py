"""Two arms compared, and two such comparisons compared: on the seeds that all of their arms have."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from reproductions.engine.atlas.entrants import Entrant
from reproductions.engine.metrics import Array
from reproductions.engine.verdicts.statistics import Estimate, estimate


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
    groups = groups_of([first, second], seeds)
    return estimate(about.kind, tables, [1.0, -1.0], higher_is_better=about.higher_is_better, groups=groups)


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
    tables, groups = [entrant.features(metric, seeds) for entrant in arms], groups_of(arms, seeds)

    def variance(sign_one: float, sign_other: float) -> float:
        weights = [
            sign_one * ((arm.key == one[0].key) - (arm.key == one[1].key))
            + sign_other * ((arm.key == other[0].key) - (arm.key == other[1].key))
            for arm in arms
        ]
        found = estimate(about.kind, tables, weights, higher_is_better=True, groups=groups)
        return (found.standard_error or 0.0) ** 2

    scale = math.sqrt(variance(1, 0) * variance(0, 1))
    if scale == 0:
        return 0.0
    return float(np.clip((variance(1, 1) - variance(1, -1)) / (4 * scale), -1.0, 1.0))


def shared(entrants: Iterable[Entrant]) -> list[int]:
    """The seeds that all of some arms have."""
    first, *others = entrants
    return [seed for seed in first.arm.runs if all(seed in other.arm.runs for other in others)]


def groups_of(entrants: Iterable[Entrant], seeds: Sequence[int]) -> list[Any] | None:
    """Which draw of its teacher each seed learns from, where some arm's teacher is drawn several times."""
    draws = 0
    for entrant in entrants:
        for teacher in entrant.arm.spec["testbed"].get("teachers", {}).values():
            draws = max(draws, int((teacher or {}).get("draws", 0) or 0))
    return [seed % draws for seed in seeds] if draws > 1 else None
