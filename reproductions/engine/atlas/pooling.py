"""One figure from many contrasts: random effects after Hartung and Knapp, for contrasts that share arms.

Contrast i has the difference d_i with the variance v_i. Differences of contrasts are correlated: their arms may be the
same, their seeds are (one start and one order of the data a seed), their held-out examples too. With C the covariances
(zero on the diagonal), weights w_i = 1 / (v_i + tau^2) and shares a = w / sum w:

    mean = a.d        q = sum w_i (d_i - mean)^2        E q = k - 1 - (sum w) a'Ca    where tau^2 is the true one
    tau^2: where q meets that expectation (Paule and Mandel 1982, with the covariances), zero where it is below at zero
    variance of the mean = max(q, E q) / ((k - 1) sum w)  +  max(0, a'Ca) k / (k - 1)

The first part is Hartung and Knapp's (2001), never below the classical one (Rover, Knapp and Friede 2015); the second
is what the contrasts have in common and q therefore cannot see. Negative common parts count as zero, which is
conservative. Degrees of freedom: k - 1 for the first part, seeds - 1 for the second, by Satterthwaite. With C = 0 this
is the usual method. The prediction interval (Higgins, Thompson and Spiegelhalter 2009) is for the next contrast of the
kind: mean +- t_{k-2} sqrt(tau^2 + variance of the mean).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from reproductions.engine.metrics import Array

LEVEL = 0.95
_ROUNDS = 100


@dataclass(frozen=True)
class Pooled:
    """The mean of k contrasts, its interval at LEVEL, the spread between contrasts, and where the next one may lie.

    `prediction` is None for fewer than three contrasts; `shared` is what the contrasts have in common of the
    `standard_error`: the root of the second part of its square.
    """

    mean: float
    standard_error: float
    degrees: float
    interval: tuple[float, float]
    tau: float
    prediction: tuple[float, float] | None
    count: int
    shared: float


def pool(
    differences: Sequence[float] | Array,
    variances: Sequence[float] | Array,
    covariances: Array | None = None,
    *,
    seeds: int | None = None,
    level: float = LEVEL,
) -> Pooled:
    """Pool at least two contrasts. `covariances` (k, k), its diagonal is not read; `seeds`: what C was estimated from.

    Raises ValueError where there are fewer than two, or a variance that is not above zero.
    """
    d, v = np.asarray(differences, dtype=np.float64), np.asarray(variances, dtype=np.float64)
    count = len(d)
    if count < 2 or len(v) != count or not (v > 0).all():
        raise ValueError("at least two contrasts, each with a variance above zero")
    common = np.zeros((count, count)) if covariances is None else np.array(covariances, dtype=np.float64)
    np.fill_diagonal(common, 0.0)
    tau2 = _tau_squared(d, v, common)
    w = 1 / (v + tau2)
    total, shares = float(w.sum()), w / w.sum()
    mean = float(shares @ d)
    q = float(w @ (d - mean) ** 2)
    own = max(q, _expected(w, common)) / ((count - 1) * total)
    shared = max(0.0, float(shares @ common @ shares)) * count / (count - 1)
    variance = own + shared
    degrees = float(count - 1)
    if shared > 0 and seeds is not None and seeds > 1:
        degrees = variance**2 / (own**2 / (count - 1) + shared**2 / (seeds - 1))
    half = float(stdtrit(degrees, (1 + level) / 2)) * math.sqrt(variance)
    prediction = None
    if count > 2:
        reach = float(stdtrit(count - 2, (1 + level) / 2)) * math.sqrt(tau2 + variance)
        prediction = (mean - reach, mean + reach)
    return Pooled(
        mean,
        math.sqrt(variance),
        degrees,
        (mean - half, mean + half),
        math.sqrt(tau2),
        prediction,
        count,
        math.sqrt(shared),
    )


def _tau_squared(d: Array, v: Array, common: Array) -> float:
    """Where the weighted sum of squares meets its expectation, by bisection; 0 where it is below at 0."""

    def excess(tau2: float) -> float:
        w = 1 / (v + tau2)
        mean = float(w @ d / w.sum())
        return float(w @ (d - mean) ** 2) - _expected(w, common)

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, float(d.var()) + float(v.max())
    while excess(high) > 0 and high < 1e12:
        high *= 2
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def _expected(w: Array, common: Array) -> float:
    """E q where the weights are the true ones: what contrasts have in common does not spread them."""
    return max(0.0, len(w) - 1 - max(0.0, float(w @ common @ w) / float(w.sum())))
