"""What holds for every experiment as it is written down; nothing is trained and torch is not needed."""

import pytest

from methods.recipe import OF_ANSWERS, SAMPLES_ITSELF
from reproductions.engine.plan.experiment import SWEPT, list_papers, load_experiment
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.plan.spec import swept_arms
from reproductions.engine.show.gather import claims_of
from reproductions.testbeds import metrics_of, read_testbed
from tests.reproductions.papers.shortened import kind_of, wanted

PLACES = [(paper, scale) for paper in list_papers() for scale in load_experiment(paper).scales]


@pytest.fixture(scope="module")
def experiments():
    return {paper: load_experiment(paper) for paper in list_papers()}


def known_as(experiment, scale):
    """The names by which an arm that runs at a scale may be called."""
    arms = experiment.arms_at(scale)
    return set(arms) | {bare for bare, name in experiment.bare.items() if name in arms}


def by_terms(method):
    """Whether a method is of the two trainers that everything is built of."""
    return method["trainer"]["name"] in (*OF_ANSWERS, SAMPLES_ITSELF)


@pytest.mark.parametrize(("paper", "scale"), PLACES)
def test_every_arm_that_runs_has_its_settings(paper, scale):
    plan = make_plan(paper, scale)
    assert set(plan.specs) == set(plan.scale.arms)
    for arm, spec in plan.specs.items():
        if spec["method"]["trainer"]["name"] == "teacher-alone":
            continue
        rate = spec["training"].get("learning_rate", 0)
        assert rate == SWEPT if plan.unswept and arm in swept_arms(plan.experiment, scale) else rate > 0, arm
        long = {"max_steps", "num_train_epochs"} & set(spec["training"])
        assert long, f"{arm}: nothing says how long it trains"
        assert spec["start"] == "pretrained" or spec["sft_start"]["learning_rate"] > 0, arm


@pytest.mark.parametrize(("paper", "scale"), PLACES)
def test_what_is_judged_is_run(paper, scale, experiments):
    experiment = experiments[paper]
    claims, here = claims_of(experiment), known_as(experiments[paper], scale)
    assert {arm for claim in claims.at(scale) for arm in claim.contrast.weights} <= here
    if scale == "paper":
        assert {value.arm for value in claims.values} <= here


@pytest.mark.parametrize(("paper", "scale"), PLACES)
def test_what_is_judged_is_measured(paper, scale, experiments):
    testbed = read_testbed(experiments[paper].scale(scale).testbed)
    assert wanted(experiments[paper], scale) <= set(metrics_of(testbed))


@pytest.mark.parametrize("kind", ["tiny", "small"])
def test_the_arms_of_a_scale_have_equal_steps(kind, experiments):
    """Rates may differ between arms, and what defines a method; how long they train may not."""
    for paper, scale in PLACES:
        if kind_of(scale) != kind:
            continue
        experiment = experiments[paper]
        # Longer than others, for as many seconds as a dear method takes; shorter, where that is what is judged.
        others = {arm for of in ("seconds", "steps") for arm in experiment.budget.get(of, ())}
        specs = make_plan(paper, scale).specs
        trained = [s for arm, s in specs.items() if by_terms(s["method"]) and arm not in others]
        lengths = {
            (s["training"].get("max_steps"), s["training"]["per_device_train_batch_size"]) for s in trained
        }
        assert len(lengths) <= 1, f"{paper} at {scale}: {lengths}"


def test_the_spans_of_dac_kl_on_navigate_end_at_the_forks_of_its_maze(experiments):
    """They are ids in the file: a cell is a fork where more than two ways lead on."""
    from reproductions.testbeds import load_testbed

    task = load_testbed("navigate").task
    spans = experiments["dac-kl"].scale("tiny-navigate").own["revision"]["settings"]["spans"]
    names = {index: token for token, index in task.own.get_vocab().items()}
    cells = {int(names[index]) for index in spans}
    forks = {cell for cell in range(100) if sum(task.world.beside(cell, other) for other in range(100)) > 2}
    assert cells == forks
