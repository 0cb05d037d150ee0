import numpy as np
import pytest

from reproductions.engine.metrics import KINDS
from reproductions.engine.verdicts import statistics
from reproductions.engine.verdicts.statistics import (
    Comparison,
    contrast_bootstrap,
    holm,
    verdict,
    verdict_within,
)


def contrast(arms, weights, **options):
    arms = [np.asarray(array, dtype=np.float64)[..., None] for array in arms]
    return contrast_bootstrap("mean", arms, weights, **{"higher_is_better": True, **options})


def compare(better, worse, **options):
    return contrast([better, worse], [1.0, -1.0], **options)


def first_edition_bootstrap(kind, better, worse, *, higher_is_better, margin, resamples, seed):
    """How the first edition compared two arms, for all its recorded verdicts: written out once more."""
    seeds, examples, _ = better.shape
    sign, finish = (1.0 if higher_is_better else -1.0), KINDS[kind].finish
    difference = sign * float((finish(better.mean(axis=1)) - finish(worse.mean(axis=1))).mean())
    generator, draws = np.random.default_rng(seed), np.empty(resamples)
    counts = statistics._resampled_counts(examples, resamples, seed)
    both = np.concatenate([better, worse])
    flat = both.transpose(1, 0, 2).reshape(examples, -1)
    for start in range(0, resamples, 500):
        weights = counts[start : start + 500] / examples
        values = finish((weights @ flat).reshape(len(weights), 2 * seeds, -1))
        per_seed = sign * (values[:, :seeds] - values[:, seeds:])
        chosen = generator.integers(0, seeds, size=per_seed.shape)
        centre = per_seed.mean(axis=1)
        deviation = np.take_along_axis(per_seed, chosen, axis=1).mean(axis=1) - centre
        draws[start : start + 500] = centre + deviation * np.sqrt(
            seeds / generator.chisquare(seeds - 1, size=len(weights))
        )
    return Comparison(difference, statistics.interval(draws), statistics.two_sided_p(draws, margin))


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("kind, width", [("mean", 1), ("ece", 10), ("ratio", 2), ("excess_ratio", 2)])
def test_two_arms_come_out_as_in_the_first_edition_to_the_last_bit(kind, width, higher_is_better):
    rng = np.random.default_rng(7)
    better, worse = rng.uniform(0.1, 1, size=(2, 5, 40, width))
    options = {"higher_is_better": higher_is_better, "margin": 0.01, "resamples": 1_200, "seed": 11}
    found = contrast_bootstrap(kind, [better, worse], [1.0, -1.0], **options)
    assert found == first_edition_bootstrap(kind, better, worse, **options)


def test_a_contrast_is_the_weighted_sum_of_its_arms():
    rng = np.random.default_rng(8)
    noise = rng.normal(size=(5, 30))
    steps = [noise + level for level in (4.0, 3.0, 2.5, 2.0)]
    gap = contrast(steps, [1.0, -1.0, -1.0, 1.0])
    assert gap.difference == pytest.approx(0.5) and gap.interval == pytest.approx((0.5, 0.5))
    assert contrast(steps[:2], [1.0, -0.5], higher_is_better=False).difference == pytest.approx(
        -(4 - 1.5) - 0.5 * noise.mean()
    )


def test_one_arm_stands_against_a_number():
    rng = np.random.default_rng(9)
    arm = 3.0 + 0.1 * rng.normal(size=(5, 400))
    above = contrast([arm], [1.0], against=2.0)
    assert above.difference == pytest.approx(arm.mean() - 2) and above.interval[0] > 0 and above.p < 0.001
    assert contrast([arm], [1.0], against=2.0, higher_is_better=False).interval[1] < 0


def test_arms_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        contrast([np.zeros((3, 10)), np.zeros((3, 11))], [1.0, -1.0])
    with pytest.raises(ValueError, match="differ in shape"):
        contrast([np.zeros((3, 10)), np.zeros((3, 10))], [1.0])


@pytest.mark.parametrize(
    "interval, word",
    [
        ((-0.9, 0.9), "reproduced"),
        ((-0.9, 1.1), "inconclusive"),
        ((-1.0, 0.5), "inconclusive"),
        ((1.1, 2.0), "not reproduced"),
        ((-2.0, -1.1), "not reproduced"),
        ((-2.0, 2.0), "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_verdicts_of_equivalence_follow_the_interval(interval, word):
    assert verdict_within(Comparison(0.0, interval, None), 1.0) == word


def test_a_constant_difference_has_an_interval_of_no_width():
    worse = np.random.default_rng(0).normal(size=(5, 30))
    found = compare(worse + 2, worse)
    assert found.difference == pytest.approx(2)
    assert found.interval == pytest.approx((2, 2))
    assert found.p == pytest.approx(2 / 10_001)


def test_equal_arms_are_never_significant():
    same = np.random.default_rng(0).normal(size=(5, 30))
    found = compare(same, same)
    assert found.difference == 0 and found.p == 1


def test_lower_is_better_turns_the_sign():
    better, worse = np.zeros((3, 10)), np.ones((3, 10))
    assert compare(better, worse).difference == -1
    assert compare(better, worse, higher_is_better=False).difference == 1


def test_pairing_by_seed_and_example_matters():
    rng = np.random.default_rng(1)
    worse = rng.normal(size=(5, 1)) * 3 + rng.normal(size=(1, 40)) * 3
    better = worse + 0.2 + 0.05 * rng.normal(size=(5, 40))
    paired = compare(better, worse)
    assert paired.interval[0] > 0.1
    shuffled = compare(better[[1, 2, 3, 4, 0]], worse)
    assert shuffled.interval[0] < 0 < shuffled.interval[1]


def test_the_margin_moves_the_test_not_the_difference():
    rng = np.random.default_rng(2)
    worse = rng.normal(size=(5, 200))
    better = worse + 0.5 + 0.1 * rng.normal(size=(5, 200))
    assert compare(better, worse).p < 0.01
    beyond = compare(better, worse, margin=0.5)
    assert beyond.difference == compare(better, worse).difference and beyond.p > 0.05


def test_one_seed_says_nothing_about_other_seeds():
    found = compare(np.ones((1, 10)), np.zeros((1, 10)))
    assert found == Comparison(1.0, None, None)


def test_a_second_call_gives_the_same_numbers():
    rng = np.random.default_rng(3)
    arrays = rng.normal(size=(2, 4, 25))
    assert compare(*arrays) == compare(*arrays)


def test_a_ratio_of_sums_is_resampled_as_one():
    rng = np.random.default_rng(4)
    b = rng.uniform(1, 2, size=(3, 60))
    better, worse = np.stack([1.1 * b, b], -1), np.stack([1.5 * b, b], -1)
    found = contrast_bootstrap("excess_ratio", [better, worse], [1.0, -1.0], higher_is_better=False)
    assert found.difference == pytest.approx(40) and found.interval == pytest.approx((40, 40))


@pytest.mark.parametrize(
    "seed_spread, example_spread, within",
    [(1.0, 0.1, (0.91, 0.99)), (0.0, 1.0, (0.91, 1.0)), (0.2, 1.0, (0.91, 1.0))],
)
def test_five_seeds_cover_the_truth_in_about_95_of_100_worlds(seed_spread, example_spread, within):
    rng = np.random.default_rng(5)
    covered = 0
    for world in range(200):
        seeds, examples = rng.normal(size=(5, 1)) * seed_spread, rng.normal(size=(1, 40)) * example_spread
        noise = 0.2 * rng.normal(size=(5, 40))
        found = compare(seeds + examples + noise, np.zeros((5, 40)), resamples=500, seed=world)
        covered += found.interval[0] <= 0 <= found.interval[1]
    assert within[0] <= covered / 200 <= within[1]


def test_holm_done_by_hand():
    # Sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04; made monotone: 0.04, 0.06, 0.06, 0.06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@pytest.mark.parametrize(
    "comparison, p_holm, margin, word",
    [
        (Comparison(2.0, (1.0, 3.0), 0.001), 0.01, 0.0, "reproduced"),
        (Comparison(2.0, (1.0, 3.0), 0.001), 0.01, 1.5, "inconclusive"),
        (Comparison(-2.0, (-3.0, -1.0), 0.001), 0.01, 0.0, "not reproduced"),
        (Comparison(1.0, (0.5, 1.5), 0.001), 0.01, 2.0, "not reproduced"),
        (Comparison(2.0, (1.0, 3.0), 0.03), 0.09, 0.0, "inconclusive"),
        (Comparison(0.1, (-1.0, 1.0), 0.9), 0.9, 0.0, "inconclusive"),
        (Comparison(2.0, None, None), None, 0.0, "inconclusive"),
    ],
)
def test_verdicts(comparison, p_holm, margin, word):
    assert verdict(comparison, p_holm, margin) == word


def test_interval_of_a_mean_is_students():
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = statistics.mean_over_seeds(values)
    half = 2.776 * np.std(values, ddof=1) / np.sqrt(5)
    assert found.difference == 3
    assert found.interval == pytest.approx((3 - half, 3 + half), abs=0.25)
    assert statistics.mean_over_seeds([1.0]).interval is None
