"""The estimate of a contrast over seeds and examples, in closed form: no random numbers. float64.

Every run answers the same examples, so the figures of S seeds and E examples are a two-way table, and a difference D of
seed s on example e is  mu + seed_s + example_e + interaction_se.  The variance of the mean over both is

    V = V1 + V2,   V1 = var(per-seed differences) / S            the seeds' part, with the interaction in it
                   V2 = max(0, MS_example - MS_interaction) / (S E)       the examples' part, counted once

and (estimate - truth) / sqrt(V) is referred to Student's t with Satterthwaite's degrees of freedom (Satterthwaite
1946: V squared over the sum of each mean square's term squared over its degrees). The per-seed figures are the metric
itself on that seed's examples. The mean squares are those of its *linearised contributions*: what each example adds to
the figure, to first order (an influence value: the mean's own column; for a ratio the delta method; for the expected
calibration error the sign of a bin's mean times the example's entry). So ratios and calibration errors need no
resampling either.

Where the task is drawn anew for each seed no two seeds answer the same examples: V = V1, with S - 1 degrees.

A bootstrap that draws examples jointly and seeds within them, as the first edition's did, has the interaction in its
variance three times: its "95 %" interval covered 99.3 %.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from reproductions.engine.metrics import KINDS, Array
from reproductions.engine.verdicts import words


@dataclass(frozen=True)
class Estimate:
    """A difference, its standard error and degrees of freedom (both None where one seed says nothing of others).

    `per_seed`: the difference of each seed, shape (S,); all of them + where they speak for the claim.
    """

    difference: float
    standard_error: float | None
    degrees: float | None
    per_seed: tuple[float, ...] = ()

    def interval(self, level: float = words.LEVEL) -> tuple[float, float] | None:
        """The central interval of Student's t at a two-sided level."""
        if self.standard_error is None or self.degrees is None:
            return None
        half = float(stdtrit(self.degrees, (1 + level) / 2)) * self.standard_error
        return self.difference - half, self.difference + half

    def p(self, against: float = 0.0) -> float | None:
        """Two-sided p value of the hypothesis that the true difference is `against`."""
        tails = self._tails(against)
        return None if tails is None else min(1.0, 2 * min(tails))

    def p_outside(self, size: float, centre: float = 0.0) -> float | None:
        """p value of the hypothesis that the true difference is not within +-size of `centre` (two one-sided tests)."""
        lower, upper = self._tails(centre - size), self._tails(centre + size)
        return None if lower is None or upper is None else max(lower[1], upper[0])

    def p_of_bound(self, size: float, centre: float = 0.0) -> float | None:
        """Two-sided p value of the hypothesis that the true difference lies just `size` from `centre`, on its side.

        Twice the smaller of the p values that it is not within +-size (`p_outside`) and that it is: so it is small
        both where the difference is shown to be within and where it is shown not to be.
        """
        outside = self.p_outside(size, centre)
        lower, upper = self._tails(centre - size), self._tails(centre + size)
        if outside is None or lower is None or upper is None:
            return None
        return min(1.0, 2 * min(outside, lower[0], upper[1]))

    def _tails(self, against: float) -> tuple[float, float] | None:
        """Chance of a difference as small as this, and as large, were `against` the truth."""
        if self.standard_error is None or self.degrees is None:
            return None
        distance = self.difference - against
        if self.standard_error == 0:
            return float(distance >= 0), float(distance <= 0)
        t = distance / self.standard_error
        return float(stdtr(self.degrees, t)), float(stdtr(self.degrees, -t))


def estimate(
    kind: str,
    arms: Sequence[Array],
    weights: Sequence[float],
    *,
    higher_is_better: bool,
    against: float = 0.0,
    groups: Sequence[Hashable] | None = None,
    own_examples: bool = False,
) -> Estimate:
    """sum of weight x metric(arm), minus `against`, turned so that + is the metric's better side.

    `arms` are per-example features, each of shape (seeds, examples, F). `groups` names, for each seed, whatever it
    shares with others, such as the draw of its teacher: where there are fewer groups than seeds (and more than one),
    the seeds' part is that between group means. All seeds in one group are taken as they are: the estimate is then
    about that one draw. `own_examples`: the seeds of different groups answer other examples, drawn with the group, so
    that what examples differ by is in the seeds' part and nowhere else. Raises ValueError where shapes differ.
    """
    if len({array.shape for array in arms}) != 1 or arms[0].ndim != 3 or len(arms) != len(weights):
        raise ValueError(f"features of the arms differ in shape: {[array.shape for array in arms]}")
    seeds = arms[0].shape[0]
    if groups is not None and len(groups) != seeds:
        raise ValueError(f"{len(groups)} groups for {seeds} seeds")
    sign = 1.0 if higher_is_better else -1.0
    finish, gradient = KINDS[kind].finish, KINDS[kind].gradient
    means = [array.mean(axis=1) for array in arms]
    figures = sum(weight * finish(mean) for weight, mean in zip(weights, means, strict=True)) - against
    per_seed = sign * np.asarray(figures, dtype=np.float64)
    if seeds < 2:
        return Estimate(float(per_seed.mean()), None, None, tuple(per_seed.tolist()))
    contributions = sum(
        np.einsum("sef,sf->se", array, weight * gradient(mean), optimize=True)
        for array, mean, weight in zip(arms, means, weights, strict=True)
    )
    table = np.asarray(contributions) - np.asarray(contributions).mean(axis=1, keepdims=True)
    return _two_way(per_seed, table, _sizes(groups, seeds), own_examples)


def over_seeds(values: Sequence[float]) -> Estimate:
    """The mean of one figure a seed, with Student's t over seeds (no error for a single seed)."""
    per_seed = np.asarray(values, dtype=np.float64)
    if per_seed.size < 2:
        return Estimate(float(per_seed.mean()), None, None, tuple(per_seed.tolist()))
    return _two_way(per_seed, np.zeros((per_seed.size, 1)), None, own_examples=False)


def decide_at(
    found: Estimate,
    *,
    bound: float = 0.0,
    smallest: float | None = None,
    within: bool = False,
    level: float = words.LEVEL,
) -> str:
    """The word for an estimate by its interval alone.

    A claim of "greater than bound" is read relative to its bound, against +-`smallest` (needed there); a claim of
    "within" is reproduced inside +-bound, reversed outside it.
    """
    interval = found.interval(level)
    if interval is None:
        return words.OPEN
    low, high = interval
    if within:
        if -bound < low and high < bound:
            return words.REPRODUCED
        return words.REVERSED if low > bound or high < -bound else words.OPEN
    if smallest is None or smallest <= 0:
        raise ValueError("a claim of a direction needs a smallest effect above zero")
    low, high = low - bound, high - bound
    inside = -smallest < low and high < smallest
    if low > 0:
        return words.WEAKER if inside else words.REPRODUCED
    if inside:
        return words.NO_DIFFERENCE
    return words.REVERSED if high < 0 else words.OPEN


def _two_way(per_seed: Array, table: Array, sizes: list[Array] | None, own_examples: bool) -> Estimate:
    """The estimate from per-seed differences (S,) and centred contributions (S, E); `sizes`: each group's seeds."""
    difference = float(per_seed.mean())
    rows = per_seed
    if sizes is None:
        seeds_part = float(per_seed.var(ddof=1)) / len(per_seed)
    else:
        # Groups of unequal size keep their share of the mean; for equal ones this is the variance of group means / G.
        shares = np.array([len(group) for group in sizes]) / len(per_seed)
        rows = np.array([per_seed[group].mean() for group in sizes])
        seeds_part = float((shares**2 * (rows - difference) ** 2).sum()) * len(sizes) / (len(sizes) - 1)
        table = np.stack([table[group].mean(axis=0) for group in sizes])
    count, examples = table.shape
    terms = [(seeds_part, count - 1.0)]
    if examples > 1:
        by_example = table.mean(axis=0)
        about_examples = 0.0 if own_examples else count * float(by_example @ by_example)
        example = about_examples / (examples - 1)
        rest = max(0.0, float(np.vdot(table, table)) - about_examples)
        interaction = rest / ((count if own_examples else count - 1) * (examples - 1))
        cells = count * examples
        if np.ptp(rows) <= 1e-12 * float(np.abs(rows).max()):
            # Seeds whose figures coincide, as counts of few right answers may, have not shown that seeds do not matter:
            # the least that they vary is what their disagreement on single examples says.
            terms = [(interaction / cells, count - 1.0)]
        if not own_examples and example > interaction:
            terms += [
                (example / cells, examples - 1.0),
                (-interaction / cells, (count - 1.0) * (examples - 1)),
            ]
    variance = sum(term for term, _ in terms)
    spread = sum(term**2 / degrees for term, degrees in terms)
    degrees = variance**2 / spread if spread > 0 else count - 1.0
    return Estimate(difference, math.sqrt(variance), degrees, tuple(per_seed.tolist()))


def _sizes(groups: Sequence[Hashable] | None, seeds: int) -> list[Array] | None:
    """The places of each group's seeds; None where every seed stands for itself or all of them share one draw."""
    if groups is None:
        return None
    places: dict[Hashable, list[int]] = {}
    for place, name in enumerate(groups):
        places.setdefault(name, []).append(place)
    return [np.array(found) for found in places.values()] if 1 < len(places) < seeds else None
