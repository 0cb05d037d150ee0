"""Every check on figures that a hand can follow: what passes, what just fails, and what it says.

Each seed has one value on all examples, so that an interval is Student's t over five seeds alone: the mean +- 2.776 s /
sqrt(5), with s the standard deviation of the per-seed differences. For differences d + (0, 1, -1, 0, 0), s / sqrt(5) is
.3162 and the half width .8780.
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.gate.checks.base import AGAIN, BASELINE, CHECKS, Declared, Source
from reproductions.engine.gate.measured import Measured
from reproductions.engine.metrics import Metric
from reproductions.parts import PartError
from reproductions.tasks.base import TASKS

SPREAD = np.array([0.0, 1.0, -1.0, 0.0, 0.0])
HALF = 0.8780
RIGHT = Metric("mean", ("right",), True, "Right", "%")
WRONG = Metric("mean", ("wrong",), False, "Wrong", "%")


def arm(values) -> np.ndarray:
    """(5 seeds, 4 examples, 1)."""
    return np.repeat(np.asarray(values, float)[:, None, None], 4, axis=1)


def measured(metric=RIGHT, smallest=1.0, specs=None, bed=None, **levels) -> Measured:
    """Arms by name ("_" for "-"), as (level, spread) or values; the baseline is 50 everywhere."""
    arms = {BASELINE: arm(50 + 0 * SPREAD), AGAIN: arm(50 + 0 * SPREAD)}
    arms |= {name.replace("_", "-"): arm(values) for name, values in levels.items()}
    seeds = {name: tuple(range(1000, 1005)) for name in arms}
    return Measured(metric, smallest, "main", arms, seeds, specs or {}, load=lambda: bed)


def decide(name, figures, **settings):
    return CHECKS.find(name)(**settings).decide(figures)


def test_every_check_has_a_case_here_and_says_what_it_does():
    assert set(CHECKS.all) == {
        *("teacher-better", "baseline-between", "same-arm-twice", "must-exist", "scarce-labels", "plateau"),
        *("ladder", "long-answers", "several-modes", "forced-above-free", "repairable", "teachers-reach"),
        *("uneven-domains", "samples-vary", "baseline-learns", "errors-stay", "steps-covered"),
        "start-reads",
    }
    assert all(kind.__doc__ for kind in CHECKS.all.values())


@pytest.mark.parametrize(("gain", "passed"), [(HALF + 0.01, True), (HALF - 0.01, False), (-7, False)])
def test_the_baseline_must_be_better_than_what_it_starts_from(gain, passed):
    found = decide("baseline-learns", measured(baseline_start=50 - gain - SPREAD))
    assert found.passed is passed
    if gain == -7:
        assert found.measured.startswith("baseline 50, its start 57: difference -7 [")
    arms = CHECKS.find("baseline-learns")().arms(Declared({"method": "sft"}, "main", {}))
    assert arms == {"baseline-start": Source({"trainer": "teacher-alone", "teacher": "student"})}


@pytest.mark.parametrize(
    ("above", "passed"), [(5 + HALF + 0.01, True), (5 + HALF - 0.01, False), (-20, False), (20, True)]
)
def test_teacher_better_needs_the_whole_interval_above(above, passed):
    found = decide("teacher-better", measured(teacher_main=50 + above + SPREAD), points=5)
    assert found.passed is passed
    if above == 20:
        assert found.measured == (
            "teacher 70, baseline 50: difference +20 [19.12, 20.88]; needed: all of it above 5"
        )
        assert found.figures["difference"] == 20 and found.figures["degrees"] == pytest.approx(4)
        assert found.figures["standard_error"] == pytest.approx(0.3162, abs=1e-4)


def test_teacher_better_turns_the_sign_where_less_is_better():
    assert decide("teacher-better", measured(WRONG, teacher_main=30 + SPREAD)).passed
    assert not decide("teacher-better", measured(WRONG, teacher_main=70 + SPREAD)).passed


@pytest.mark.parametrize(
    ("level", "passed"),
    [
        (30 + HALF + 0.01, True),
        (30 + HALF - 0.01, False),
        (85 - HALF - 0.01, True),
        (85 - HALF + 0.01, False),
    ],
)
def test_baseline_between_needs_the_whole_interval_inside(level, passed):
    for metric in (RIGHT, WRONG):
        assert decide("baseline-between", measured(metric, baseline=level + SPREAD)).passed is passed


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("apart", "passed"), [(0, True), (1 - HALF - 0.01, True), (1 - HALF + 0.01, False), (3, False)]
)
@pytest.mark.parametrize(
    ("name", "other"), [("same-arm-twice", "baseline_again"), ("plateau", "baseline_doubled")]
)
def test_no_difference_needs_the_whole_interval_inside_the_smallest_effect(name, other, apart, passed, sign):
    found = decide(name, measured(**{other: 50 + sign * apart + SPREAD}))
    assert found.passed is passed
    assert "needed: all of it within 1" in found.measured


def test_noise_alone_fails_a_copy_however_near_its_mean_is():
    assert not decide("same-arm-twice", measured(baseline_again=50 + 3 * SPREAD)).passed
    assert decide("same-arm-twice", measured(smallest=3, baseline_again=50 + 3 * SPREAD)).passed


@pytest.mark.parametrize("name", ["must-exist", "scarce-labels"])
@pytest.mark.parametrize(("better", "passed"), [(0.96, True), (0.93, False), (-0.96, False), (0, False)])
def test_what_must_exist_is_three_standard_errors_large(name, better, passed):
    """3 x .3162 = .9487."""
    stem = name.replace("-", "_")
    figures = measured(**{f"{stem}_better": 50 + better + SPREAD, f"{stem}_worse": 50 + 0 * SPREAD})
    found = decide(name, figures, better={"method": "sft"}, worse={}, because="it has more labels")
    assert found.passed is passed and "(it has more labels)" in found.measured
    assert decide(name, figures, better={"method": "sft"}, worse={}, because="b", times=1).passed is (
        better > 0
    )


def test_two_arms_that_are_equal_to_the_last_bit_do_not_differ():
    figures = measured(must_exist_better=50 + 0 * SPREAD, must_exist_worse=50 + 0 * SPREAD)
    assert not decide("must-exist", figures, better={"method": "sft"}, worse={}, because="b").passed


@pytest.mark.parametrize(
    ("large", "passed"), [(60 + 5 + HALF + 0.01, True), (60 + 5 + HALF - 0.01, False), (50, False)]
)
def test_each_step_of_the_ladder_lies_above(large, passed):
    figures = measured(
        teacher_small=52 + 0 * SPREAD, teacher_main=60 + SPREAD, teacher_large=large + 0 * SPREAD
    )
    found = decide("ladder", figures, teachers=["small", "main", "large"], points=5)
    assert found.passed is passed
    assert found.measured.startswith(
        f"small 52, main 60, large {large:.4g}; main above small: difference +8 [7.122, 8.878]"
    )
    assert set(found.figures) == {"main - small", "large - main"}


def test_a_ladder_fails_by_its_first_step_too():
    figures = measured(teacher_small=58 + 0 * SPREAD, teacher_main=60 + 0 * SPREAD, teacher_large=80 + SPREAD)
    assert not decide("ladder", figures, teachers=["small", "main", "large"], points=5).passed


def test_seeds_that_share_a_teacher_are_groups():
    """Two draws: the seeds' part is that between two means, with one degree of freedom."""
    values = 60 + np.array([0.0, 1.0, 0.0, 1.0, 0.0])
    spec = {"testbed": {"teachers": {"main": {"draws": 2}}}}
    alone = measured(teacher_main=values).contrast("teacher-main", BASELINE)
    drawn = measured(specs={"teacher-main": spec}, teacher_main=values).contrast("teacher-main", BASELINE)
    assert alone.degrees == pytest.approx(4) and drawn.degrees == pytest.approx(1)
    assert drawn.standard_error > alone.standard_error


class Bed:
    """Rows whose answers are so many words long, and so many of them right."""

    def __init__(self, answers):
        self.test = {"completion": [first for first, *_ in answers]}
        self.tokenizer = lambda rows, add_special_tokens: {"input_ids": [row.split() for row in rows]}
        known = [[[answer] for answer in row] for row in answers]
        self.task = SimpleNamespace(references=lambda split: known if split == "test" else None)
        self.at = lambda seed: self


def test_long_answers_counts_tokens_of_held_out_references():
    bed = Bed([["a b c"], ["a b c d e"]])
    assert decide("long-answers", measured(bed=bed), tokens=4).passed
    found = decide("long-answers", measured(bed=bed), tokens=4.1)
    assert not found.passed and found.measured == "references of 4.0 tokens in the mean; needed: 4.1 or more"


def test_what_a_gate_says_of_a_drawn_task_is_about_all_its_draws():
    beds = [Bed([["a b"], ["a b c d"]]), Bed([["a b c d e", "a"], ["a b c d e", "a"]])]
    drawn = SimpleNamespace(at=lambda seed: beds[seed % 2], name="drawn")
    found = decide("long-answers", measured(bed=drawn), tokens=4)
    assert found.passed and found.measured == "references of 4.0 tokens in the mean; needed: 4 or more"
    assert decide("several-modes", measured(bed=drawn), references=1.5, share=0.5).passed
    with pytest.raises(KDError, match="the rows of drawn are others in each draw"):
        measured(bed=drawn).domains()


def test_several_modes_counts_different_right_answers():
    bed = Bed([["a", "b"], ["a", "b", "c"], ["a"], ["a", "a"]])
    figures = measured(bed=bed)
    assert decide("several-modes", figures, references=1.75).passed
    assert not decide("several-modes", figures, references=1.76).passed
    assert decide("several-modes", figures, share=0.5).passed
    assert not decide("several-modes", figures, share=0.51).passed
    assert not decide("several-modes", figures, references=1.7, share=0.51).passed
    assert decide("several-modes", figures, share=0.5).measured == (
        "1.75 right answers a row, 50.0 % of the rows have two or more; needed: a share of 0.5"
    )


def with_others(kinds=("mean", "mean"), of=BASELINE, **levels) -> Measured:
    """The gate's metric `greedy` is 50 everywhere; `levels` are other metrics of an arm."""
    figures = measured(baseline_start=50 + SPREAD)
    columns = {"mean": ("x",), "ratio": ("x", "y")}
    others = {
        name: (Metric(kind, columns[kind], True, name), {of: arm(values)})
        for (name, values), kind in zip(levels.items(), kinds, strict=False)
    }
    return replace(figures, name="greedy", others=others)


@pytest.mark.parametrize(
    ("level", "passed"), [(70 + HALF + 0.01, True), (70 + HALF - 0.01, False), (20, False)]
)
def test_steps_must_be_right_far_more_often_than_answers(level, passed):
    found = decide("forced-above-free", with_others(token_accuracy=level + SPREAD), points=20)
    assert found.passed is passed
    assert found.measured.startswith(f"token_accuracy {level:.4g}, greedy 50: gap {level - 50:+.4g} [")


@pytest.mark.parametrize(("level", "passed"), [(65 + HALF + 0.01, True), (65 + HALF - 0.01, False)])
def test_the_start_must_be_right_far_more_often_where_a_solution_is_shown(level, passed):
    figures = with_others(of="baseline-start", told=level + SPREAD, plain=45 + 0 * SPREAD)
    found = decide("start-reads", figures, shown="told", plain="plain", points=20)
    assert found.passed is passed and found.measured.startswith(f"told {level:.4g}, plain 45: gap")
    one = CHECKS.find("start-reads")(shown="told", plain="plain")
    assert list(one.arms(Declared({"method": "sft"}, "main", {}))) == list(one.in_full) == ["baseline-start"]
    with pytest.raises(KeyError):
        decide("start-reads", with_others(told=90 + SPREAD, plain=45 + SPREAD), shown="told", plain="plain")


def test_a_gap_is_between_means_that_were_measured():
    with pytest.raises(KDError, match='measured no "token_accuracy"'):
        decide("forced-above-free", with_others(tokens_accuracy=90 + SPREAD))
    with pytest.raises(KDError, match="only means have a gap"):
        decide("forced-above-free", with_others(("ratio",), token_accuracy=90 + SPREAD))
    both = with_others(steps=90 + SPREAD, answers=60 + SPREAD)
    assert decide("forced-above-free", both, forced="steps", free="answers", points=29.9).passed


@pytest.mark.parametrize(
    ("level", "passed"), [(60 + HALF + 0.01, True), (60 + HALF - 0.01, False), (40, False)]
)
def test_one_of_several_samples_must_be_right_far_more_often_than_one(level, passed):
    figures = with_others(("mean", "mean"), pass_at_8=level + SPREAD, exact_match=45 + 0 * SPREAD)
    found = decide("samples-vary", figures, several="pass_at_8", points=15)
    assert found.passed is passed
    assert found.measured.startswith(f"pass_at_8 {level:.4g}, exact_match 45: gap {level - 45:+.4g} [")
    assert not decide("samples-vary", figures, several="pass_at_8", single="pass_at_8", points=0).passed


@pytest.mark.parametrize(
    ("level", "passed"), [(60 + HALF + 0.01, True), (60 + HALF - 0.01, False), (95, True)]
)
def test_most_errors_must_be_such_as_can_be_repaired(level, passed):
    assert decide("repairable", with_others(repaired=level + SPREAD), share=60).passed is passed


@pytest.mark.parametrize(
    ("level", "passed"), [(5 - HALF - 0.01, True), (5 - HALF + 0.01, False), (40, False)]
)
def test_hardly_any_error_may_be_such_as_can_be_repaired(level, passed):
    figures = with_others(repaired=level + SPREAD)  # half of the answers are wrong
    found = decide("errors-stay", figures, share=5)
    assert found.passed is passed
    assert (
        found.measured.startswith(f"repaired {level:.4g} [") and ", of 50 % that are wrong" in found.measured
    )
    assert found.figures["difference"] == pytest.approx(level)


@pytest.mark.parametrize(("wrong", "passed"), [(50, True), (50.1, False)])
def test_errors_of_a_baseline_without_errors_stay_in_vain(wrong, passed):
    assert decide("errors-stay", with_others(repaired=0 * SPREAD), wrong=wrong).passed is passed


class Steps:
    """A testbed whose demonstrations hold each step so often."""

    def __init__(self, counts):
        self.task = SimpleNamespace(step_counts=lambda: counts)


@pytest.mark.parametrize(("share", "passed"), [(0.75, True), (0.76, False)])
def test_every_step_must_be_in_the_demonstrations_so_often(share, passed):
    """Of 2, 3, 4, 9 three are 3 or more; two draws, counted together."""
    beds = [Steps([2, 3]), Steps([4, 9])]
    drawn = SimpleNamespace(at=lambda seed: beds[seed % 2])
    found = decide("steps-covered", measured(bed=drawn), times=3, share=share)
    assert found.passed is passed
    assert found.measured.startswith(
        "4 steps, in the demonstrations 4.5 times in the mean and 2 at least; 75.0 %"
    )
    assert found.figures == {"share": 0.75, "mean": 4.5, "least": 2}


def test_a_task_without_a_list_of_steps_says_so():
    task = TASKS.find("countdown")(numbers=3, demonstrations=20, validation_problems=10, test_problems=10)
    bed = Bed([])
    bed.task = task
    with pytest.raises(KDError, match="countdown has no list of all steps"):
        decide("steps-covered", measured(bed=bed), times=1, share=1)


@pytest.mark.parametrize(
    ("level", "passed"), [(90 + HALF + 0.01, True), (90 + HALF - 0.01, False), (40, False)]
)
def test_every_teacher_must_reach_the_level(level, passed):
    figures = measured(teacher_main=100 + 0 * SPREAD, teacher_trained=level + SPREAD)
    found = decide("teachers-reach", figures, teachers=["main", "trained"], level=90)
    assert found.passed is passed and found.measured.startswith("main 100 [100, 100]; trained ")
    assert decide("teachers-reach", figures, teachers=["main"], level=90).passed


def test_teachers_to_reach_a_level_are_those_of_the_testbed():
    bed = {"teachers": {"main": {}, "trained": {}}}
    check = CHECKS.find("teachers-reach")(["main", "trained"], 90)
    assert list(check.arms(Declared({}, "main", bed))) == ["teacher-main", "teacher-trained"]
    with pytest.raises(PartError, match='no teacher "other"'):
        CHECKS.find("teachers-reach")(["other"], 90).arms(Declared({}, "main", bed))


def test_one_seed_passes_nothing():
    figures = measured(teacher_main=80 + SPREAD)
    arms = {name: array[:1] for name, array in figures.arms.items()}
    one = Measured(RIGHT, 1.0, "main", arms, dict.fromkeys(arms, (1000,)), {})
    assert not any(
        decide(name, one).passed for name in ("teacher-better", "baseline-between", "same-arm-twice")
    )


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("teacher-better", {"points": "5"}, '"points" is a number of 0 or more'),
        ("baseline-between", {"low": 90}, '"low" must be less than "high"'),
        ("must-exist", {"better": 1, "worse": {}, "because": "b"}, "an arm is a mapping"),
        ("must-exist", {"better": {}, "worse": {}, "because": " "}, '"because" says in a sentence'),
        (
            "must-exist",
            {"better": {}, "worse": {}, "because": "b", "times": 0.5},
            '"times" is a number of 1 or more',
        ),
        ("ladder", {"teachers": ["main"]}, '"teachers" is a list of two or more'),
        ("ladder", {"teachers": ["main", "main"]}, '"teachers" is a list of two or more'),
        ("several-modes", {}, 'needs "references", "share" or both'),
        ("several-modes", {"share": 1.2}, '"share" is at most 1'),
        ("steps-covered", {"times": 3, "share": 1.2}, '"share" is at most 1'),
        ("steps-covered", {"times": 0, "share": 1}, '"times" is a number of 1 or more'),
        ("errors-stay", {"share": -1}, '"share" is a number of 0 or more'),
    ],
)
def test_settings_that_mean_nothing_are_refused(name, settings, message):
    with pytest.raises(PartError, match=message):
        CHECKS.find(name)(**settings)


def test_plateau_doubles_whatever_says_how_long_the_baseline_trains():
    bed = {"defaults": {"training": {"max_steps": 240}}}
    plateau = CHECKS.find("plateau")()
    (made,) = plateau.arms(Declared({"method": "sft"}, None, bed)).values()
    assert made.tree == {"method": "sft", "training": {"max_steps": 480}}
    own = Declared({"method": "sft", "training": {"max_steps": 10, "weight_decay": 0.1}}, None, bed)
    (made,) = plateau.arms(own).values()
    assert made.tree["training"] == {"max_steps": 20, "weight_decay": 0.1}
    with pytest.raises(PartError, match="nothing to double"):
        plateau.arms(Declared({"method": "sft"}, None, {}))


def by_domain(domains, gaps):
    """The teacher is `gaps` of a row's domain above the baseline, up to one point a seed."""
    above = np.array([gaps[name] for name in domains], float)
    figures = measured(teacher_main=0 * SPREAD)
    teacher = 50 + above[None, :, None] + (SPREAD[:, None] * np.arange(len(domains))[None, :] / 3)[..., None]
    arms = {BASELINE: np.full((5, len(domains), 1), 50.0), "teacher-main": teacher}
    test = Rows({"domain": list(domains)})
    return replace(figures, arms=figures.arms | arms, load=lambda: of_rows(test))


def of_rows(test):
    bed = Bed([])
    bed.name, bed.test = "bed", test
    return bed


class Rows(dict):
    column_names = property(list)


def test_domains_are_uneven_where_one_gap_is_wider_than_another():
    """By hand: b minus a, a seed: (15 + 2 s / 3) - (5 + s / 3) = 10 + s / 3 with s of SPREAD, so .3162 / 3 is the error
    of the seeds; the rows of a domain vary by s / 3 alone, which is noise of the seeds and none of the words."""
    figures = by_domain(["a", "b"] * 2, {"a": 5.0, "b": 15.0})
    found = decide("uneven-domains", figures, points=5)
    assert found.passed and found.figures["difference"] == pytest.approx(10.0)
    assert found.measured.startswith("behind the teacher: a 5, b 15; b more than a: +10 [")
    low, high = found.figures["interval"]
    assert low == pytest.approx(10 - HALF / 3, abs=0.02) and high == pytest.approx(10 + HALF / 3, abs=0.02)
    assert not decide("uneven-domains", figures, points=9.8).passed
    assert not decide("uneven-domains", by_domain("abab", {"a": 5.0, "b": 5.0}), points=0).passed


def test_of_more_domains_each_two_have_their_share_of_the_level():
    def said(domains, **gaps):
        return decide("uneven-domains", by_domain(domains, gaps), points=5)

    def width(found):
        low, high = map(float, found.measured.rpartition("[")[2].partition("]")[0].split(","))
        return high - low

    two, three = said("abab", a=5.0, b=15.0), said("abcabc", a=5.0, b=15.0, c=5.0)
    assert two.passed and three.passed and width(three) > 1.2 * width(two)


def test_rows_of_one_domain_or_none_and_metrics_that_are_no_means_are_refused():
    with pytest.raises(PartError, match="of one domain"):
        decide("uneven-domains", by_domain("aaaa", {"a": 5.0}))
    none = replace(by_domain("ab", {"a": 1.0, "b": 2.0}), load=lambda: of_rows(Rows()))
    with pytest.raises(KDError, match="rows of bed say nothing of domains"):
        decide("uneven-domains", none)
    ratio = replace(by_domain("ab", {"a": 1.0, "b": 2.0}), metric=Metric("ratio", ("x", "y"), True, "R"))
    with pytest.raises(KDError, match="only means have gaps by domain"):
        decide("uneven-domains", ratio)
    with pytest.raises(PartError, match="no teacher"):
        CHECKS.find("uneven-domains")().arms(Declared({}, None, {}))
