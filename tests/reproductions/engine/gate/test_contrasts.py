"""What a gate is built on is judged nowhere on its testbed: found in every experiment, and when a paper is judged."""

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.gate.contrasts import check_gate, check_plan, sides, using
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.show.gather import claims_of

#: The toy's arm `ablation` (noise 1) against `baseline` (noise 20) is what the toy's gate is built on.
SAME = "noise-helps: {says: Noisy labels beat a teacher., better: baseline, worse: method}"
JUDGED = "fewer-errors: {says: Less noise is better., better: ablation, worse: baseline}"
WORSE = "worse: {teacher: null, trainer: {name: toy-fit, noise: 20.0}}"


def plan_of(place):
    return make_plan("toy", papers_root=place.papers, cache=place.cache)


def check_both(place):
    """By the gate, over all experiments; and by a paper that is about to be judged."""
    plan = plan_of(place)
    messages = []
    for ask in (
        lambda: check_gate(place.gate(), place.papers),
        lambda: check_plan(plan, claims_of(plan.experiment).at("tiny")),
    ):
        try:
            ask()
        except KDError as error:
            messages.append(str(error))
    return messages


def test_other_contrasts_are_left_alone(place):
    assert check_both(place) == []


@pytest.mark.parametrize(
    "claim",
    [
        JUDGED,
        JUDGED.replace("better: ablation, worse: baseline", "better: baseline, worse: ablation"),
        JUDGED.replace("ablation", "again"),  # another name for the same arm
    ],
)
def test_a_claim_about_the_contrast_of_the_gate_is_refused_and_both_lines_are_named(place, claim):
    place.change(SAME, claim, "papers/toy.yaml")
    line = 1 + place.root.joinpath("papers/toy.yaml").read_text().splitlines().index(f"    {claim}")
    at = 1 + place.file.read_text().splitlines().index("    must-exist:")
    by_gate, by_paper = check_both(place)
    assert by_gate == by_paper
    assert f"papers/toy.yaml:{line}: the claim weighs" in by_gate
    assert f"testbeds/toy.yaml:{at}, must-exist" in by_gate
    assert by_gate.endswith("a contrast that a gate is built on is never judged there")


def test_equivalences_count_and_sums_of_more_arms_do_not(place):
    place.change(
        "  orderings:",
        "  equivalences: {alike: {says: a, arms: [baseline, ablation], within: 1}}\n  orderings:",
        "papers/toy.yaml",
    )
    assert len(check_both(place)) == 2
    place.change("alike: {says: a, arms: [baseline, ablation], within: 1}", "", "papers/toy.yaml")
    contrast = "{sum: {says: a, greater: {ablation: 2, baseline: -1, method: -1}}}"
    place.change("  equivalences: {}", f"  contrasts: {contrast}", "papers/toy.yaml")
    assert check_both(place) == []


def test_one_method_twice_is_told_apart_by_what_else_differs(place):
    """The gate holds 40 steps against 10: a claim about 40 against 20 is another one, at any rate."""
    place.change(WORSE, "worse: {teacher: null, trainer: {name: toy-fit, noise: 1.0}, training: {steps: 10}}")
    for steps, refused in ((10, 2), (20, 0)):
        arms = f"  short: {{like: ablation, learning_rate: 0.01, training: {{steps: {steps}}}}}\n\nscales:"
        place.change("\nscales:", arms, "papers/toy.yaml")
        place.change(SAME, JUDGED.replace("worse: baseline", "worse: short"), "papers/toy.yaml")
        assert len(check_both(place)) == refused
        place.change(arms, "\nscales:", "papers/toy.yaml")
        place.change(JUDGED.replace("worse: baseline", "worse: short"), SAME, "papers/toy.yaml")


def test_only_experiments_on_the_testbed_are_read(place):
    (place.papers / "broken.yaml").write_text(
        "paper: broken\nscales: {tiny: {testbed: toy-like}}\narms: [1\n"
    )
    assert [(experiment.paper, scale) for experiment, scale in using("toy", place.papers)] == [
        ("toy", "tiny"),
        ("toy", "untrained"),
    ]


def test_a_sweep_that_is_not_made_yet_stops_nothing(place):
    place.change("seeds: 3, learning_rate: 0.02", "seeds: 3, learning_rate: swept", "papers/toy.yaml")
    check_gate(place.gate(), place.papers)


def test_a_testbed_without_a_gate_refuses_nothing(place):
    text = place.file.read_text()
    place.file.write_text(text[: text.index("\ngate:") + 1])
    place.change(SAME, JUDGED, "papers/toy.yaml")
    plan = plan_of(place)
    check_plan(plan, claims_of(plan.experiment).at("tiny"))


def test_sides_do_not_depend_on_the_order_or_the_rate():
    one = {"method": {"a": 1}, "training": {"max_steps": 5, "learning_rate": 0.1}, "start": "sft"}
    two = {"method": {"a": 2}, "training": {"max_steps": 5, "learning_rate": 0.2}, "start": "sft"}
    assert sides(one, two) == sides(two, one) == sides(one, {**two, "training": {"max_steps": 9}})
    longer = {**one, "training": {"max_steps": 10, "learning_rate": 0.3}}
    assert sides(one, longer) == sides({**longer, "start": "pretrained"}, {**one, "start": "pretrained"})
    assert sides(one, longer) != sides(one, two)
    assert sides(one, longer) != sides({**longer, "student": "large"}, one)
