"""Random effects: by hand, by brute force, and by simulation where contrasts share arms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, stats

from reproductions.engine.atlas.pooling import pool


def test_equal_variances_by_hand():
    # s^2 = 4, so tau^2 = 4 - 1, Hartung and Knapp's variance s^2 / k = 4/3, t_2 = 4.302653, t_1 = 12.706205
    found = pool([0.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert found.mean == pytest.approx(2)
    assert found.tau == pytest.approx(math.sqrt(3), rel=1e-9)
    assert found.standard_error == pytest.approx(math.sqrt(4 / 3), rel=1e-12)
    assert found.degrees == 2 and found.shared == 0
    half = 4.302652729911275 * math.sqrt(4 / 3)
    assert found.interval == pytest.approx((2 - half, 2 + half), rel=1e-9)
    reach = 12.706204736174694 * math.sqrt(3 + 4 / 3)
    assert found.prediction == pytest.approx((2 - reach, 2 + reach), rel=1e-9)


def test_what_contrasts_have_in_common_by_hand():
    # equal covariances c: s^2 estimates tau^2 + v - c, and the mean's variance is s^2 / k + c
    common = np.full((3, 3), 0.25)
    found = pool([0.0, 2.0, 4.0], [1.0, 1.0, 1.0], common, seeds=5)
    assert found.tau == pytest.approx(math.sqrt(3.25), rel=1e-9)
    assert found.standard_error == pytest.approx(math.sqrt(4 / 3 + 0.25), rel=1e-9)
    assert found.shared == pytest.approx(0.5, rel=1e-9)
    degrees = (4 / 3 + 0.25) ** 2 / ((4 / 3) ** 2 / 2 + 0.25**2 / 4)
    assert found.degrees == pytest.approx(degrees, rel=1e-9)


def test_no_spread_is_no_better_than_the_classical_interval():
    found = pool([1.0, 1.0, 1.0, 1.0], [4.0, 4.0, 4.0, 4.0])
    assert found.tau == 0 and found.standard_error == pytest.approx(1.0)


def test_unequal_variances_by_brute_force():
    rng = np.random.default_rng(3)
    for count in (2, 4, 9):
        d, v = rng.normal(1, 2, count), rng.uniform(0.2, 3, count)

        def excess(tau2, d=d, v=v):
            w = [1 / (one + tau2) for one in v]
            mean = sum(a * b for a, b in zip(w, d, strict=True)) / sum(w)
            return sum(a * (b - mean) ** 2 for a, b in zip(w, d, strict=True)) - (len(d) - 1)

        tau2 = optimize.brentq(excess, 0, 1e6) if excess(0) > 0 else 0.0
        w = 1 / (v + tau2)
        mean = (w * d).sum() / w.sum()
        q = max((w * (d - mean) ** 2).sum() / (count - 1), 1.0)
        half = stats.t.ppf(0.975, count - 1) * math.sqrt(q / w.sum())
        found = pool(d, v)
        assert found.tau**2 == pytest.approx(tau2, rel=1e-6, abs=1e-9)
        assert found.interval == pytest.approx((mean - half, mean + half), rel=1e-6)
        assert (found.prediction is None) == (count < 3)


def test_negative_covariances_count_as_none():
    plain = pool([0.0, 2.0, 4.0], [1.0, 1.0, 1.0])
    assert pool([0.0, 2.0, 4.0], [1.0, 1.0, 1.0], np.full((3, 3), -0.4), seeds=5) == plain


@pytest.mark.parametrize("values", [([1.0], [1.0]), ([1.0, 2.0], [1.0, 0.0]), ([1.0, 2.0], [1.0])])
def test_what_cannot_be_pooled_is_refused(values):
    with pytest.raises(ValueError, match="at least two"):
        pool(*values)


def test_the_interval_covers_where_all_contrasts_share_an_arm():
    """Four arms against one and the same other: alike but for tau. Without the covariances it covers far less."""
    rng = np.random.default_rng(11)
    seeds, tau, rounds = 10, 0.3, 400
    with_common, without = 0, 0
    for _ in range(rounds):
        baseline = rng.normal(0, 1.5, seeds)
        effects = 2.0 + rng.normal(0, tau, 4)
        tables = np.array([effect + rng.normal(0, 0.6, seeds) - baseline for effect in effects])
        covariances = np.cov(tables) / seeds
        variances = np.diag(covariances)
        low, high = pool(tables.mean(axis=1), variances, covariances, seeds=seeds).interval
        with_common += low <= 2.0 <= high
        low, high = pool(tables.mean(axis=1), variances).interval
        without += low <= 2.0 <= high
    assert 0.92 <= with_common / rounds <= 0.985
    assert without / rounds < with_common / rounds - 0.03
