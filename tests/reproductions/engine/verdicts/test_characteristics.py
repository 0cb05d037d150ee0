"""Coverage, errors and power in worlds whose truth is known; and wrong rules, which the same tests find out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reproductions.engine.verdicts import characteristics, statistics, words
from reproductions.engine.verdicts.characteristics import (
    MIXES,
    RECORDED,
    coverage,
    coverage_of_ece,
    coverage_of_ratio,
    sequential,
)
from reproductions.engine.verdicts.statistics import Estimate

RIGHT = (0.93, 0.97)


def inside(share):
    return RIGHT[0] <= share <= RIGHT[1]


@pytest.mark.parametrize("seeds", words.LOOKS)
@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_the_interval_holds_the_truth_in_95_of_100_worlds(mix, seeds):
    assert inside(coverage(mix, seeds, worlds=2_000 if seeds <= 10 else 1_000))


@pytest.mark.parametrize("seeds", [5, 20])
def test_so_it_does_for_ratios_and_calibration_errors(seeds):
    assert inside(coverage_of_ratio(seeds)) and inside(coverage_of_ece(seeds))


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_the_level_of_a_look_holds_too(mix):
    assert 0.978 <= coverage(mix, 5, worlds=2_000, level=words.LEVEL) <= 0.996


def coverage_with_draws(seeds, grouped, worlds=1_500):
    """Of means over seeds that share five draws of a teacher, whose effect is as large as all other noise."""
    rng, held = np.random.default_rng([7, seeds]), 0
    draws = [seed % 5 for seed in range(seeds)]
    for _ in range(worlds):
        table = RECORDED.table(rng, seeds) + rng.standard_normal(5)[draws][:, None]
        found = statistics.estimate(
            "mean", [table[..., None]], [1.0], higher_is_better=True, groups=draws if grouped else None
        )
        low, high = found.interval(0.95)
        held += low <= 0 <= high
    return held / worlds


@pytest.mark.parametrize("seeds", [5, 10, 20])
def test_seeds_that_share_a_teacher_are_not_counted_as_if_each_had_its_own(seeds):
    assert inside(coverage_with_draws(seeds, grouped=True))
    if seeds > 10:
        assert coverage_with_draws(seeds, grouped=False) < RIGHT[0]


@pytest.mark.parametrize("seeds", [5, 20])
def test_the_interval_over_a_task_drawn_for_each_seed_holds_the_truth(seeds):
    """Each draw has its own effect and its own examples."""
    rng, held = np.random.default_rng([8, seeds]), 0
    for _ in range(2_000):
        made = rng.standard_normal((seeds, 1)) + 4 * rng.standard_normal((seeds, 60))
        found = statistics.estimate(
            "mean", [made[..., None]], [1.0], higher_is_better=True, groups=range(seeds), own_examples=True
        )
        low, high = found.interval(0.95)
        held += low <= 0 <= high
    assert inside(held / 2_000)


def parts(arms):
    """Seeds' part, examples' mean square and interaction's, over the number of cells, of one arm's mean."""
    table = arms[0][..., 0]
    seeds, examples = table.shape
    about = table - table.mean(axis=1, keepdims=True)
    of_example = about.mean(axis=0)
    example = seeds * of_example @ of_example / (examples - 1)
    rest = ((about**2).sum() - seeds * of_example @ of_example) / ((seeds - 1) * (examples - 1))
    return table.mean(axis=1), example / table.size, rest / table.size


def threefold(kind, arms, weights, **options):
    """The first edition's variance: examples drawn jointly, seeds within them; the interaction counts three times."""
    figures, example, rest = parts(arms)
    variance = figures.var(ddof=1) / len(figures) + max(0, example - rest) + 2 * rest
    return Estimate(figures.mean(), math.sqrt(variance), len(figures) - 1.0)


def examples_forgotten(kind, arms, weights, **options):
    """Student's t over seeds alone."""
    return statistics.over_seeds(parts(arms)[0])


def seeds_forgotten(kind, arms, weights, **options):
    """Every answer counted as if it were independent."""
    cells = arms[0].ravel()
    return Estimate(cells.mean(), cells.std(ddof=1) / math.sqrt(cells.size), cells.size - 1.0)


def normal(kind, arms, weights, **options):
    """The right variance read with as many degrees as there are cells."""
    found = statistics.estimate(kind, arms, weights, **options)
    return Estimate(found.difference, found.standard_error, float(arms[0].size))


def plain_bootstrap(kind, arms, weights, **options):
    """The variance of resampled seeds, which is (S - 1) / S of the right one, read with the normal distribution."""
    figures = parts(arms)[0]
    return Estimate(figures.mean(), figures.std(ddof=0) / math.sqrt(len(figures)), 1e6)


@pytest.mark.parametrize(
    "rule, mix, too_wide",
    [
        (threefold, "interaction", True),
        (threefold, "as recorded", True),
        (examples_forgotten, "examples", False),
        (seeds_forgotten, "seeds", False),
        (normal, "seeds", False),
        (plain_bootstrap, "as recorded", False),
    ],
)
def test_wrong_rules_are_found_out(rule, mix, too_wide):
    chosen = next(found for found in MIXES if found.name == mix)
    found = coverage(chosen, 5, judge=rule)
    assert found > RIGHT[1] if too_wide else found < RIGHT[0]


def test_the_first_editions_interval_covered_99_of_100():
    assert coverage(RECORDED, 5, judge=threefold) > 0.985


def directed(run):
    return run.share("reproduced", "weaker", "reversed")


def test_equal_arms_get_a_direction_in_at_most_one_of_twenty_claims():
    assert directed(sequential(0.0, 1e-9, worlds=1_500)) <= 0.05


def test_peeking_at_95_percent_four_times_would_not_hold_that():
    assert directed(sequential(0.0, 1e-9, worlds=1_500, level=0.95)) > 0.08


def test_a_difference_as_large_as_matters_is_hardly_ever_none():
    edge = sequential(1.0, 1.0, worlds=1_500)
    assert edge.share("no difference", "weaker") <= 0.025
    wide = sequential(3.0, 3.0, worlds=600)
    assert wide.share("no difference", "weaker") <= 0.025 and wide.share("reproduced") > 0.95


def test_power_grows_with_the_difference_and_seeds_shrink():
    runs = [sequential(size, 1.5, worlds=400) for size in (0.0, 0.75, 1.5, 3.0, 6.0)]
    power = [run.share("reproduced") for run in runs]
    assert power == sorted(power) and power[0] < 0.05 and power[3] > 0.95
    assert runs[-1].seeds < 6 < runs[1].seeds
    assert runs[0].share("no difference") > 0.3


def test_more_looks_decide_what_one_leaves_open():
    once = sequential(2.0, 2.0, looks=(5,), worlds=500)
    assert once.share("open") > sequential(2.0, 2.0, worlds=500).share("open") + 0.2


def test_the_page_fits_a_terminal_and_says_the_same_twice(monkeypatch):
    for name in ("coverage", "coverage_of_ratio", "coverage_of_ece", "sequential"):
        quick = getattr(characteristics, name)
        monkeypatch.setattr(
            characteristics, name, lambda *given, quick=quick, **more: quick(*given, **{**more, "worlds": 5})
        )
    lines = list(characteristics.page())
    assert lines == list(characteristics.page()) and max(map(len, lines)) <= 80 and len(lines) < 50
    assert any("type I" in line for line in lines) and any("assumed" in line for line in lines)


def test_a_world_has_its_unit():
    rng = np.random.default_rng(0)
    for mix in MIXES:
        assert mix.seeds + mix.examples + mix.interaction == pytest.approx(1)
        spread = np.std([mix.table(rng, 5).mean() for _ in range(3_000)])
        assert spread == pytest.approx(1, rel=0.05)
