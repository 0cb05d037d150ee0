"""Every distinct arm of scales small and paper takes two steps on local replicas of models and data."""

import pytest
import torch

from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.run import Run
from reproductions.engine.work.surroundings import RunSurroundings, train
from reproductions.testbeds import load_testbed
from tests.reproductions.papers.shortened import cases, check
from tests.reproductions.short import SHORT, shortened

SEED, TEST_ROWS = 10, 8


def short_spec(spec):
    made = {
        **spec,
        "curve": {"points": 0},
        "test_examples": TEST_ROWS,
        "method": short_method(spec["method"]),
    }
    for part in {"training", "sft_start"} & set(spec):
        kept = {name: value for name, value in spec[part].items() if name != "num_train_epochs"}
        made[part] = {**kept, **SHORT, "gradient_accumulation_steps": 1}
    return made


def short_method(tree):
    """Few answers of a teacher, and few updates with the same rollouts."""
    if isinstance(tree, list):
        return [short_method(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    made = {name: short_method(item) for name, item in tree.items()}
    few = {"prompts": 8} if made.get("use") == "label" else {}
    once = {"steps_per_generation": 2, "num_iterations": 1} if made.get("name") == "minillm" else {}
    return made | few | once


CASES = cases(["small", "paper"], shortened, short_spec)


@pytest.fixture
def places(request):
    """Makes the replicas of a case's models and data those that are found."""

    def choose(case):
        request.getfixturevalue("crossner" if case.bed["name"] == "extraction" else "mirrors")

    return choose


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_an_arm_trains_and_is_measured(case, cache, places, stops):
    places(case)
    check(case, case.run(SEED, cache))


def test_an_adapter_ends_in_the_weights_of_the_layers_it_was_for(cache, mirrors, stops):
    case = next(case for case in CASES if "lora" in case.spec and "sampler" in case.spec["method"])
    run = Run(
        case.spec,
        SEED,
        testbed=load_testbed(case.bed),
        device=torch.device("cpu"),
        artifacts=Artifacts(cache),
    )
    before = {name: p.clone() for name, p in run.testbed.sft_start(run).named_parameters()}
    assert any("lora" in name for name, _ in RunSurroundings(run).student().named_parameters())
    after = dict(train(run).named_parameters())
    assert set(after) == set(before)  # no adapter is left
    changed = {name.split(".")[-2] for name, was in before.items() if not torch.equal(was, after[name])}
    assert changed == set(case.spec["lora"]["target_modules"])
