"""Every arm of every paper at its own scale takes two steps on local replicas: real code paths, small stand-ins."""

import copy
from dataclasses import replace

import pytest
import torch

from reproductions.engine.claims import load_claims
from reproductions.engine.experiment import list_papers, load_experiment, paper_folder
from reproductions.engine.run import execute, make_run
from tests.reproductions.short import load_short

SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
# MiniLLM has a test of its own for all of its scales.
PAPERS = [p for p in list_papers() if p != "minillm" and "paper" in load_experiment(p).scales]


def shortened(experiment):
    """Two steps a phase, four rows a batch; everything else as declared."""
    declared = experiment.scale("paper")
    settings = copy.deepcopy(dict(declared.settings))
    for part in {"sft_start", "training"} & set(settings):
        settings[part] |= SHORT
    if "labelling" in settings:
        settings["labelling"] |= {"prompts": 8}
    return replace(experiment, scales={"paper": replace(declared, settings=settings)})


@pytest.mark.parametrize("paper", PAPERS)
def test_every_arm_trains_and_is_measured(paper, mirrors, stops, tmp_path):
    experiment = shortened(load_experiment(paper))
    testbed = load_short(experiment.scale("paper").testbed)
    claims = load_claims(paper_folder(paper) / "claims.yaml")
    values = {value.metric for value in claims.values}
    needed = {claim.metric for claim in claims.at("paper")} | values
    for arm in experiment.arms_at("paper"):
        record = execute(make_run(experiment, arm, 10, "paper", testbed=testbed, cache=tmp_path), experiment)
        assert needed <= set(record["metrics"]), arm
        assert all(record["metrics"][name] is not None for name in needed), arm
        assert record["tokens"]["student"] > 0, arm
        kinds = {item["kind"] for item in record["shared"].values()}
        own = experiment.scale("paper").settings["arms"][arm]
        assert ("sft-start" in kinds) == (own.get("start") != "pretrained"), arm


@pytest.mark.parametrize("paper", PAPERS)
def test_what_is_judged_is_run(paper):
    """Claims and numbers of the paper's scale are about arms that run there, and every such arm has its settings."""
    experiment = load_experiment(paper)
    here = set(experiment.arms_at("paper"))
    claims = load_claims(paper_folder(paper) / "claims.yaml")
    assert {arm for claim in claims.at("paper") for arm in (claim.better, claim.worse)} <= here
    assert {value.arm for value in claims.values} <= here
    assert set(experiment.scale("paper").settings["arms"]) == here


def test_an_adapter_ends_in_the_weights_of_the_layers_it_was_for(mirrors, stops, tmp_path):
    experiment = shortened(load_experiment("distillm-2"))
    testbed = load_short(experiment.scale("paper").testbed)
    run = make_run(experiment, "gkd", 10, "paper", testbed=testbed, cache=tmp_path)
    before = dict(run.testbed.sft_start(run).named_parameters())
    student = experiment.arm("gkd").train(run)
    after = dict(student.named_parameters())
    assert set(after) == set(before)  # no adapter is left
    changed = {name.split(".")[-2] for name, was in before.items() if not torch.equal(was, after[name])}
    assert changed == set(experiment.scale("paper").settings["lora"]["target_modules"])
