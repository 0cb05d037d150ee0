"""The estimate against oracles of other making: scipy, an analysis of variance by hand, derivatives by differences."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import scipy.stats

from reproductions.engine.metrics import KINDS
from reproductions.engine.verdicts import words
from reproductions.engine.verdicts.multiplicity import expected_wrong, over_looks, q_values
from reproductions.engine.verdicts.statistics import Estimate, decide_at, estimate, over_seeds


def of(table, **options):
    """The estimate of one arm's mean."""
    return estimate(
        "mean", [np.asarray(table, dtype=np.float64)[..., None]], [1.0], higher_is_better=True, **options
    )


def compare(better, worse, **options):
    arms = [np.asarray(array, dtype=np.float64)[..., None] for array in (better, worse)]
    return estimate("mean", arms, [1.0, -1.0], **{"higher_is_better": True, **options})


def table(seed=0, seeds=5, examples=12, parts=(1.0, 1.0, 1.0)):
    rng = np.random.default_rng(seed)
    return (
        parts[0] * rng.normal(size=(seeds, 1))
        + parts[1] * rng.normal(size=(1, examples))
        + parts[2] * rng.normal(size=(seeds, examples))
    )


def anova_by_hand(rows):
    """Mean, variance and degrees of the mean of a two-way table, in plain floats and loops."""
    seeds, examples = len(rows), len(rows[0])
    grand = math.fsum(math.fsum(row) for row in rows) / (seeds * examples)
    of_seed = [math.fsum(row) / examples for row in rows]
    of_example = [math.fsum(row[place] for row in rows) / seeds for place in range(examples)]
    ms_example = seeds * math.fsum((mean - grand) ** 2 for mean in of_example) / (examples - 1)
    rest = [rows[s][e] - of_seed[s] - of_example[e] + grand for s in range(seeds) for e in range(examples)]
    ms_rest = math.fsum(value**2 for value in rest) / ((seeds - 1) * (examples - 1))
    first = math.fsum((mean - grand) ** 2 for mean in of_seed) / (seeds - 1) / seeds
    second = (ms_example - ms_rest) / (seeds * examples)
    if second <= 0:
        return grand, first, seeds - 1.0
    parts = [
        (first, seeds - 1),
        (ms_example / (seeds * examples), examples - 1),
        (ms_rest / (seeds * examples), (seeds - 1) * (examples - 1)),
    ]
    degrees = (first + second) ** 2 / math.fsum(part**2 / free for part, free in parts)
    return grand, first + second, degrees


@pytest.mark.parametrize("parts", [(1, 1, 1), (0.1, 3, 1), (2, 0, 1), (0, 0.3, 2)])
@pytest.mark.parametrize("seed", range(4))
def test_the_estimate_is_the_analysis_of_variance_done_by_hand(seed, parts):
    made = table(seed, parts=parts)
    mean, variance, degrees = anova_by_hand(made.tolist())
    found = of(made)
    assert found.difference == pytest.approx(mean)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-9)
    assert found.degrees == pytest.approx(degrees, rel=1e-9)
    low, high = scipy.stats.t.interval(0.95, degrees, mean, math.sqrt(variance))
    assert found.interval(0.95) == pytest.approx((low, high))


def test_both_signs_of_the_examples_part_occur_above():
    clipped = [of(table(seed, parts=(0, 0, 1))).degrees == 4 for seed in range(20)]
    assert any(clipped) and not all(clipped)


@pytest.mark.parametrize("seeds", [2, 3, 5, 40])
def test_with_seeds_alone_it_is_students_t(seeds):
    values = np.random.default_rng(seeds).normal(0.3, 1.0, size=seeds)
    wanted = scipy.stats.ttest_1samp(values, 0.1)
    for found in (over_seeds(values), of(values[:, None])):
        assert found.p(0.1) == pytest.approx(wanted.pvalue)
        for level in (0.95, words.LEVEL):
            interval = wanted.confidence_interval(level)
            assert found.interval(level) == pytest.approx((interval.low, interval.high))


def test_two_one_sided_tests_are_scipys():
    values = np.random.default_rng(1).normal(0.2, 0.3, size=10)
    lower = scipy.stats.ttest_1samp(values, -0.5, alternative="greater").pvalue
    upper = scipy.stats.ttest_1samp(values, 0.5, alternative="less").pvalue
    assert over_seeds(values).p_outside(0.5) == pytest.approx(max(lower, upper))
    assert over_seeds(values).p_outside(0.4, 0.1) == pytest.approx(
        max(scipy.stats.ttest_1samp(values, -0.3, alternative="greater").pvalue, upper)
    )


@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.0, 0.3, 0.5, 3.0])
def test_a_difference_is_shown_to_be_within_or_not_to_be(shift):
    """By scipy: the p value is small on either side of the bound, and 1 on it; two-sided as that of a direction."""
    values = np.random.default_rng(2).normal(0, 0.2, size=10)
    values += shift - values.mean()
    inside = max(
        scipy.stats.ttest_1samp(values, -0.5, alternative="greater").pvalue,
        scipy.stats.ttest_1samp(values, 0.5, alternative="less").pvalue,
    )
    edge = 0.5 if shift > 0 else -0.5
    beyond = scipy.stats.ttest_1samp(values, edge, alternative="greater" if shift > 0 else "less").pvalue
    found = over_seeds(values).p_of_bound(0.5)
    assert found == pytest.approx(min(1, 2 * inside, 2 * beyond))
    assert (found < 0.05) == (abs(abs(shift) - 0.5) > 0.1)
    assert (decide_at(over_seeds(values), bound=0.5, within=True) == "open") == (found > 1 - words.LEVEL)


@pytest.mark.parametrize("kind, width", [("mean", 1), ("ece", 10), ("ratio", 2), ("excess_ratio", 2)])
def test_gradients_are_those_of_the_metric(kind, width):
    means = np.random.default_rng(3).uniform(0.1, 1.0, size=(4, width)) * np.where(
        np.arange(width) % 2, -1, 1
    )
    means[:, 1:2] = abs(means[:, 1:2]) if kind != "ece" else means[:, 1:2]
    found, step = KINDS[kind].gradient(means), 1e-6
    for place in range(width):
        moved = np.zeros(width)
        moved[place] = step
        slope = (KINDS[kind].finish(means + moved) - KINDS[kind].finish(means - moved)) / (2 * step)
        assert found[:, place] == pytest.approx(slope, rel=1e-5)


def test_a_ratios_examples_part_is_that_of_the_jackknife():
    """What a ratio loses with an example left out is its linearised contribution, to first order."""
    rng = np.random.default_rng(4)
    below = rng.uniform(1, 2, size=400)
    above = below * rng.uniform(0.5, 1.0, size=400)
    features = np.stack([above, below], -1)
    ratio = above.sum() / below.sum()
    left_out = (above.sum() - above) / (below.sum() - below)
    contribution = features @ KINDS["ratio"].gradient(features.mean(axis=0))
    assert contribution - contribution.mean() == pytest.approx((ratio - left_out) * 399, abs=5e-3)


def test_a_ratio_of_sums_is_compared_as_one():
    below = np.random.default_rng(4).uniform(1, 2, size=(3, 60))
    arms = [np.stack([1.1 * below, below], -1), np.stack([1.5 * below, below], -1)]
    found = estimate("excess_ratio", arms, [1.0, -1.0], higher_is_better=False)
    assert found.difference == pytest.approx(40) and found.interval() == pytest.approx((40, 40))


def test_a_contrast_is_the_weighted_sum_of_its_arms():
    noise = table(8)
    steps = [(noise + level)[..., None] for level in (4.0, 3.0, 2.5, 2.0)]
    gap = estimate("mean", steps, [1.0, -1.0, -1.0, 1.0], higher_is_better=True)
    assert gap.difference == pytest.approx(0.5) and gap.interval() == pytest.approx((0.5, 0.5))
    lower = estimate("mean", steps[:2], [1.0, -0.5], higher_is_better=False)
    assert lower.difference == pytest.approx(-(4 - 1.5) - 0.5 * noise.mean())
    assert of(noise, against=2.0).difference == pytest.approx(noise.mean() - 2)


def test_arms_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        compare(np.zeros((3, 10)), np.zeros((3, 11)))
    with pytest.raises(ValueError, match="differ in shape"):
        estimate("mean", [np.zeros((3, 10, 1))], [1.0, -1.0], higher_is_better=True)
    with pytest.raises(ValueError, match="4 groups for 3 seeds"):
        of(np.zeros((3, 10)), groups=[0, 0, 1, 1])


def test_pairing_by_seed_and_example_matters():
    worse = 3 * table(1, examples=40)
    better = worse + 0.2 + 0.05 * table(2, examples=40)
    assert (
        compare(better, worse).standard_error < 0.1 < compare(better[[1, 2, 3, 4, 0]], worse).standard_error
    )


def test_lower_is_better_turns_the_sign():
    better, worse = np.zeros((3, 10)), np.ones((3, 10))
    assert compare(better, worse).difference == -1
    assert compare(better, worse, higher_is_better=False).difference == 1


def test_one_seed_says_nothing_about_other_seeds():
    for found in (compare(np.ones((1, 10)), np.zeros((1, 10))), over_seeds([1.0])):
        assert found.difference == 1 and found.interval() is None and found.p() is None
        assert found.p_outside(5) is None and decide_at(found, smallest=0.5) == "open"


def test_a_constant_difference_has_an_interval_of_no_width():
    found = compare(table() + 2, table())
    assert found.interval() == pytest.approx((2, 2)) and found.p() < 1e-12 and found.p_outside(1) == 1
    same = compare(table(), table())
    assert (same.difference, same.interval(), same.p(), same.p_outside(0.1)) == (0, (0, 0), 1, 0)
    assert decide_at(same, smallest=0.1) == "no difference"


def test_one_example_leaves_the_seeds():
    found = of([[1.0], [2.0], [4.0]])
    assert (
        found.standard_error == pytest.approx(np.std([1, 2, 4], ddof=1) / math.sqrt(3)) and found.degrees == 2
    )


def test_a_ratio_without_any_denominator_is_zero_and_adds_no_noise():
    features = np.zeros((3, 8, 2))
    other = np.stack([table(1, 3, 8) ** 2, 1 + table(2, 3, 8) ** 2], -1)
    alone = estimate("ratio", [other], [1.0], higher_is_better=True)
    found = estimate("ratio", [other, features], [1.0, -1.0], higher_is_better=True)
    assert found == alone and math.isfinite(found.standard_error)


def test_seeds_whose_figures_coincide_have_not_shown_that_seeds_do_not_matter():
    """Five seeds that answer three of six rightly, each other ones."""
    rng = np.random.default_rng(6)
    rows = np.array([rng.permutation([1, 1, 1, 0, 0, 0]) for _ in range(5)], dtype=float)
    found = of(rows)
    assert found.standard_error > 0.02 and found.interval()[0] < 0.5 < found.interval()[1]


def test_groups_of_seeds_vary_as_their_means_do():
    """Ten seeds of five teachers: the variance between teachers, with four degrees."""
    made = (
        table(7, seeds=10, examples=30, parts=(0.1, 0.5, 1.0))
        + np.repeat(np.random.default_rng(1).normal(size=5), 2)[:, None]
    )
    groups = np.repeat(range(5), 2)
    found = of(made, groups=groups)
    means = made.reshape(5, 2, 30).mean(axis=1)
    wanted = of(means)
    assert found.difference == pytest.approx(wanted.difference)
    assert (found.standard_error, found.degrees) == pytest.approx((wanted.standard_error, wanted.degrees))
    assert found.standard_error > 1.2 * of(made).standard_error and found.degrees < of(made).degrees
    shuffled = np.argsort(np.arange(10) % 5, kind="stable")
    again = of(made[np.argsort(shuffled)], groups=groups[np.argsort(shuffled)])
    assert (again.standard_error, again.degrees) == pytest.approx((found.standard_error, found.degrees))


def test_as_many_groups_as_seeds_or_one_are_none():
    made = table(3)
    assert of(made, groups="abcde") == of(made) == of(made, groups="aaaaa")


def test_seeds_with_examples_of_their_own_vary_as_their_figures_do():
    """Nothing is shared by examples that stand in the same place: Student's t on one figure a seed."""
    made = table(5, seeds=6, examples=40, parts=(0.3, 2.0, 1.0))  # an example's part as if they were the same
    found, wanted = of(made, own_examples=True), over_seeds(made.mean(axis=1))
    assert (found.difference, found.standard_error) == pytest.approx(
        (wanted.difference, wanted.standard_error)
    )
    assert found.degrees == pytest.approx(5) and of(made).standard_error > 1.2 * found.standard_error
    twice = np.repeat(made, 2, axis=0)
    grouped = of(twice, groups=np.repeat(range(6), 2), own_examples=True)
    assert (grouped.standard_error, grouped.degrees) == pytest.approx((found.standard_error, found.degrees))


def test_seeds_with_examples_of_their_own_whose_figures_coincide():
    """By hand: three seeds of four examples, two of them right: the variance of a mean is (1/3) / 12."""
    rows = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], dtype=float)
    assert of(rows, own_examples=True).standard_error ** 2 == pytest.approx(1 / 36)


def test_groups_of_unequal_size_keep_their_share():
    values = [1.0, 1.0, 1.0, 4.0]
    found = of(np.array(values)[:, None], groups="aaab")
    assert found.difference == pytest.approx(1.75)
    wanted = 2 * ((0.75 * (1 - 1.75)) ** 2 + (0.25 * (4 - 1.75)) ** 2)
    assert found.standard_error**2 == pytest.approx(wanted) and found.degrees == 1


def test_a_claim_of_forty_seeds_and_four_thousand_examples_takes_milliseconds():
    rng = np.random.default_rng(0)
    arms = list(rng.uniform(0.1, 1, size=(2, 40, 4_000, 2)))
    estimate("ratio", arms, [1.0, -1.0], higher_is_better=True)
    times = []
    for _ in range(3):
        start = time.process_time()
        estimate("ratio", arms, [1.0, -1.0], higher_is_better=True)
        times.append(time.process_time() - start)
    assert min(times) < 0.05


def spanning(low, high):
    """An estimate whose interval at the level of a look is this one."""
    middle, half = (low + high) / 2, (high - low) / 2
    return Estimate(middle, half / float(scipy.stats.t.ppf((1 + words.LEVEL) / 2, 7)), 7.0)


@pytest.mark.parametrize(
    "interval, bound, word",
    [
        ((0.5, 3.0), 0.0, "reproduced"),
        ((0.1, 0.9), 0.0, "weaker"),
        ((-0.9, 0.9), 0.0, "no difference"),
        ((-0.9, -0.1), 0.0, "no difference"),
        ((-1.1, -0.1), 0.0, "reversed"),
        ((-3.0, -2.0), 0.0, "reversed"),
        ((-0.1, 1.1), 0.0, "open"),
        ((-1.1, 0.9), 0.0, "open"),
        ((0.5, 3.0), 0.4, "reproduced"),
        ((0.5, 1.3), 0.4, "weaker"),
        ((0.5, 3.0), 1.0, "open"),
        ((0.5, 3.0), 4.1, "reversed"),
        ((3.5, 4.5), 4.1, "no difference"),
    ],
)
def test_words_of_a_direction(interval, bound, word):
    """The smallest effect is 1, everything is relative to the bound."""
    found = spanning(*interval)
    assert found.interval() == pytest.approx(interval)
    assert decide_at(found, bound=bound, smallest=1.0) == word


@pytest.mark.parametrize(
    "interval, word",
    [
        ((-0.9, 0.9), "reproduced"),
        ((-0.9, 1.1), "open"),
        ((-1.01, 0.5), "open"),
        ((1.1, 2.0), "reversed"),
        ((-2.0, -1.1), "reversed"),
        ((-2.0, 2.0), "open"),
    ],
)
def test_words_of_an_equivalence(interval, word):
    assert decide_at(spanning(*interval), bound=1.0, within=True) == word


def test_no_interval_without_zero_stands_beside_open():
    """The first edition printed sixteen: its interval was uncorrected, its verdict was not."""
    rng = np.random.default_rng(5)
    for _ in range(2_000):
        low, high = np.sort(rng.normal(size=2))
        word = decide_at(spanning(low, high), smallest=float(rng.uniform(0.1, 2)))
        assert (word == "open") <= (low <= 0 <= high)


def test_a_direction_needs_a_smallest_effect():
    for smallest in (None, 0.0):
        with pytest.raises(ValueError, match="smallest effect"):
            decide_at(spanning(-1, 1), smallest=smallest)


@pytest.mark.parametrize(
    "cap, looks",
    [(40, (5, 10, 20, 40)), (5, (5,)), (3, (3,)), (12, (5, 10, 12)), (90, (5, 10, 20, 40)), (0, ())],
)
def test_looks_end_at_the_cap_and_are_never_more_than_four(cap, looks):
    assert words.looks(cap) == looks
    assert words.LEVEL == 0.9875 and all(len(words.looks(cap)) <= 4 for cap in range(99))


def test_q_values_done_by_hand():
    # Sorted .01 .02 .03 .5, times 4 over rank: .04 .04 .04 .5.
    assert q_values([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.04, 0.04, 0.5, 0.04])
    assert q_values([0.5, 0.9]) == pytest.approx([0.9, 0.9]) and q_values([]) == []
    made = np.random.default_rng(2).uniform(size=50) ** 2
    assert q_values(made.tolist()) == pytest.approx(scipy.stats.false_discovery_control(made).tolist())
    assert expected_wrong([0.04, 0.04, 0.02]) == pytest.approx(0.12) and expected_wrong([]) == 0
    assert over_looks(0.001) == pytest.approx(0.004) and over_looks(0.6) == 1
