"""Hierarchical bootstrap of contrasts over seeds and examples, and Holm's correction. float64, numpy only.

Examples are resampled once for all arms and all seeds (every run answers the same examples); seeds are resampled as
one (seed k of every arm shares data order and start). With five seeds the plain bootstrap of
a mean is too narrow: its spread is sqrt((S-1)/S) of the true one and its tails are lighter than Student's, so a "95 %"
interval covers about 84 %. The deviation that comes from seeds is therefore scaled, in each resample, by
sqrt(S / chi2(S-1)): the seed part then has the spread and the tails of Student's t, the example part stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reproductions.engine.metrics import KINDS, Array

RESAMPLES = 10_000
SEED = 2402_13116
LEVEL = 0.95
_CHUNK = 500


@dataclass(frozen=True)
class Comparison:
    """A contrast's mean over seeds, its 95 % interval, and the two-sided p against the margin."""

    difference: float
    interval: tuple[float, float] | None
    p: float | None


def contrast_bootstrap(
    kind: str,
    arms: Sequence[Array],
    weights: Sequence[float],
    *,
    higher_is_better: bool,
    against: float = 0.0,
    margin: float = 0.0,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Comparison:
    """sum of weight x metric(arm), minus `against`, turned so that + is the metric's better side.

    `arms` are per-example features, each of shape (seeds, examples, F). With one seed there is nothing to say about
    other seeds: interval and p are None. Every contrast over as many examples, seeds and resamples gets the same random
    numbers.
    """
    if len({array.shape for array in arms}) != 1 or arms[0].ndim != 3 or len(arms) != len(weights):
        raise ValueError(f"features of the arms differ in shape: {[array.shape for array in arms]}")
    seeds, examples, _ = arms[0].shape
    sign = 1.0 if higher_is_better else -1.0
    finish = KINDS[kind].finish
    observed = [finish(array.mean(axis=1)) for array in arms]
    difference = sign * float(_weighted(observed, weights, against).mean())
    if seeds < 2:
        return Comparison(difference, None, None)
    generator = np.random.default_rng(seed)
    counts = _resampled_counts(examples, resamples, seed)
    together = np.concatenate(arms)
    draws = np.empty(resamples)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        values = _resampled(finish, counts[start : start + size] / examples, together)
        by_arm = [values[:, place * seeds : (place + 1) * seeds] for place in range(len(arms))]
        draws[start : start + size] = _over_seeds(generator, sign * _weighted(by_arm, weights, against))
    return Comparison(difference, interval(draws), two_sided_p(draws, margin))


def mean_over_seeds(values: Sequence[float]) -> Comparison:
    """The mean of one figure a seed, with its interval over seeds (None for a single seed)."""
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2:
        return Comparison(float(array.mean()), None, None)
    generator = np.random.default_rng(SEED)
    draws = _over_seeds(generator, np.broadcast_to(array, (RESAMPLES, array.size)))
    return Comparison(float(array.mean()), interval(draws), two_sided_p(draws, 0.0))


def interval(draws: Array) -> tuple[float, float]:
    """The central 95 % of the draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def two_sided_p(draws: Array, margin: float) -> float:
    """Twice the smaller tail beyond the margin, (k + 1) / (B + 1) each (Davison and Hinkley 1997, section 4.2)."""
    below, above = int((draws <= margin).sum()), int((draws >= margin).sum())
    return min(1.0, 2.0 * (min(below, above) + 1) / (draws.size + 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def verdict(comparison: Comparison, p_holm: float | None, margin: float) -> str:
    """The word for a claim of "greater": on the right side of the margin, on the wrong side, or neither for sure."""
    if comparison.interval is None or p_holm is None or p_holm >= 1 - LEVEL:
        return "inconclusive"
    low, high = comparison.interval
    if low > margin:
        return "reproduced"
    if high < margin:
        return "not reproduced"
    return "inconclusive"


def verdict_within(comparison: Comparison, bound: float) -> str:
    """The word for a claim of "within": all of the interval inside +-bound, all of it outside, or neither for sure."""
    if comparison.interval is None:
        return "inconclusive"
    low, high = comparison.interval
    if -bound < low and high < bound:
        return "reproduced"
    if low > bound or high < -bound:
        return "not reproduced"
    return "inconclusive"


def _weighted(values: Sequence[Array], weights: Sequence[float], against: float) -> Array:
    """sum of weight x value, minus `against`; for weights 1 and -1 to the last bit the difference of the two."""
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total + weight * value
    return total - against


@lru_cache(maxsize=2)
def _resampled_counts(examples: int, resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each example was drawn: (resamples, examples). The same for all claims of a test split."""
    generator = np.random.default_rng([seed, examples])
    counts = np.empty((resamples, examples), dtype=np.uint16)
    for start in range(0, resamples, _CHUNK):
        size = min(_CHUNK, resamples - start)
        drawn = generator.integers(0, examples, size=(size, examples))
        drawn += np.arange(size)[:, None] * examples
        drawn_counts = np.bincount(drawn.ravel(), minlength=size * examples)
        counts[start : start + size] = drawn_counts.reshape(size, examples)
    return counts


def _resampled(finish: Callable[[Array], Array], weights: Array, features: Array) -> Array:
    """The metric of each seed on each resample: (resamples, seeds)."""
    seeds, examples, width = features.shape
    flat = features.transpose(1, 0, 2).reshape(examples, seeds * width)
    means = (weights @ flat).reshape(len(weights), seeds, width)
    return finish(means)


def _over_seeds(generator: np.random.Generator, per_seed: Array) -> Array:
    """Means over resampled seeds, (resamples,), from (resamples, seeds), with the small-sample scaling."""
    resamples, seeds = per_seed.shape
    centre = per_seed.mean(axis=1)
    chosen = generator.integers(0, seeds, size=(resamples, seeds))
    deviation = np.take_along_axis(per_seed, chosen, axis=1).mean(axis=1) - centre
    return centre + deviation * np.sqrt(seeds / generator.chisquare(seeds - 1, size=resamples))
