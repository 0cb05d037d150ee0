"""Rank correlations beside scipy's, and their mean over papers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reproductions.engine.atlas.agreement import agreement, kendall, order_of, pearson, spearman


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(1)
    for size in (3, 5, 12):
        for ties in (False, True):
            x, y = rng.normal(size=size), rng.normal(size=size)
            if ties:
                x, y = np.round(x), np.round(y)
            if len(set(x)) < 2 or len(set(y)) < 2:
                continue
            assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)
            assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
            assert pearson(x, y) == pytest.approx(stats.pearsonr(x, y).statistic)
    assert math.isnan(kendall([1, 1, 1], [1, 2, 3])) and math.isnan(pearson([1, 1], [1, 2]))


def test_an_order_needs_three_arms_that_differ():
    assert order_of("p", "s", "m", {"a": (1, 2), "b": (2, 3)}) is None
    assert order_of("p", "s", "m", {"a": (1, 2), "b": (1, 3), "c": (1, 4)}) is None
    found = order_of("p", "s", "m", {"a": (1, 2), "b": (2, 3), "c": (3, 1)})
    assert found is not None and found.kendall == pytest.approx(-1 / 3)


def test_papers_count_once_whatever_settings_they_have():
    same = {"a": (1, 1), "b": (2, 2), "c": (3, 3)}
    turned = {"a": (1, 3), "b": (2, 2), "c": (3, 1)}
    orders = [order_of("many", f"s{place}", "m", turned) for place in range(4)]
    orders += [order_of("one", "s", "m", same), order_of("two", "s", "m", same)]
    found = agreement([order for order in orders if order], [1.0, 2.0, -1.0, 0.0])
    assert found.papers == 3 and found.mean == pytest.approx(1 / 3)
    half = stats.t.ppf(0.975, 2) * np.std([-1, 1, 1], ddof=1) / math.sqrt(3)
    assert found.interval == pytest.approx((1 / 3 - half, 1 / 3 + half))
    assert (found.same, found.opposite) == (2, 1)
    assert agreement([], []).mean is None
