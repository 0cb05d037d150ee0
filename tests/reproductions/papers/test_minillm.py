"""Every arm of the MiniLLM experiment takes two steps at every scale: real code paths, small stand-ins for the data."""

import copy
from dataclasses import replace

import pytest

from reproductions.engine.claims import load_claims
from reproductions.engine.experiment import load_experiment, paper_folder
from reproductions.engine.run import execute, make_run
from tests.reproductions.short import load_short

EXPERIMENT = load_experiment("minillm")
SHORT = {"max_steps": 2, "per_device_train_batch_size": 4}


def shortened(scale: str):
    """The experiment with two steps a phase, four rows a batch and everything else as declared."""
    declared = EXPERIMENT.scale(scale)
    settings = copy.deepcopy(dict(declared.settings))
    settings["curve_points"], settings["labelling"]["prompts"] = 0, 8
    for part in ("sft_start", "training", "minillm"):
        settings[part] |= SHORT
    settings["minillm"] |= {"steps_per_generation": 2, "num_iterations": 1}
    return replace(EXPERIMENT, scales={scale: replace(declared, settings=settings)})


@pytest.mark.parametrize("scale", ["tiny", "small", "paper"])
def test_every_arm_trains_and_is_measured(scale, mirrors, stops, tmp_path):
    experiment, testbed = shortened(scale), load_short(EXPERIMENT.scale(scale).testbed)
    records = {}
    for arm in experiment.arms_at(scale):
        run = make_run(experiment, arm, 10, scale, testbed=testbed, cache=tmp_path)
        records[arm] = execute(run, experiment)
    for arm, record in records.items():
        assert set(record["metrics"]) == set(testbed.metrics), arm
        assert record["tokens"]["student"] > 0, arm
        on_policy = arm.startswith("minillm")
        assert (record["rollouts"]["completions"] > 0) == on_policy, arm
        assert (record["tokens"]["teacher"] > 0) == (on_policy or arm == "word-kd"), arm
    assert any(item["kind"] == "seqkd-labels" for item in records["seqkd"]["shared"].values())


def test_claims_belong_to_the_experiment():
    claims = load_claims(paper_folder("minillm") / "claims.yaml", EXPERIMENT)
    assert {claim.better for claim in claims.claims} == {"minillm"}
    assert {claim.worse for claim in claims.claims} == set(EXPERIMENT.arms) - {"minillm"}
    assert {value.arm for value in claims.values} == set(EXPERIMENT.arms)


@pytest.mark.parametrize("scale", ["tiny", "small"])
def test_arms_have_equal_steps(scale):
    """Only learning rates, and what defines a method, may differ between arms of one scale."""
    settings = EXPERIMENT.scale(scale).settings
    for arm in ("sft", "word_kd", "seqkd", "minillm"):
        assert not {"max_steps", "num_train_epochs", "per_device_train_batch_size"} & set(settings[arm])
