"""Every arm of every paper at scale tiny takes two steps: real code paths on a handful of words."""

import copy
from dataclasses import replace

import pytest

from reproductions.engine.claims import load_claims
from reproductions.engine.experiment import list_papers, load_experiment, paper_folder
from reproductions.engine.files import read_json
from reproductions.engine.run import execute, make_run
from reproductions.engine.tuning import best_rates, tuning_path
from tests.reproductions.short import SHORT, load_short

PAPERS = [p for p in list_papers() if p != "minillm" and "tiny" in load_experiment(p).scales]


def shortened(experiment):
    """Two steps a phase, four rows a batch; everything else as declared."""
    declared = experiment.scale("tiny")
    settings = copy.deepcopy(dict(declared.settings)) | {"curve_points": 0}
    others = {name for name, part in settings.items() if isinstance(part, dict) and "max_steps" in part}
    for part in {"sft_start", "training"} | others:
        settings[part] = settings.get(part, {}) | SHORT
    if "labelling" in settings:
        settings["labelling"] |= {"prompts": 8}
    settings["test_examples"] = 8
    return replace(experiment, scales={"tiny": replace(declared, settings=settings)})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_arm_trains_and_is_measured(paper, cache, stops):
    experiment = shortened(load_experiment(paper))
    name = experiment.load_testbed("tiny").name
    testbed = load_short(name)
    needed = {claim.metric for claim in load_claims(paper_folder(paper) / "claims.yaml").at("tiny")}
    for arm in experiment.arms_at("tiny"):
        run = make_run(experiment, arm, 10, "tiny", testbed=testbed, cache=cache)
        record = execute(run, experiment)
        assert needed | set(experiment.headline) <= set(record["metrics"]), arm
        assert all(value is not None for name, value in record["metrics"].items() if name in needed), arm


@pytest.mark.parametrize("paper", PAPERS)
def test_every_arm_takes_the_learning_rate_that_its_sweep_found(paper):
    experiment = load_experiment(paper)
    path = tuning_path(paper, "tiny")
    if (
        experiment.scale("tiny").settings.get("tuning")
        and (paper_folder(paper) / "results" / "tiny.json").exists()
    ):
        assert path.is_file(), f"{paper} has results but no recorded sweep; `kd tune {paper}`"
    if not path.is_file():
        return
    record = read_json(path)
    rates = {str(rate) for rate in map("{:g}".format, record["tuning"]["learning_rates"])}
    higher = experiment.load_testbed("tiny").metrics[record["tuning"]["metric"]].higher_is_better
    best = best_rates(record["figures"], higher)
    for arm, own in experiment.scale("tiny").settings["arms"].items():
        assert set(record["figures"][arm]) == rates, f"{paper}/{arm}: part of the sweep is missing"
        assert own["learning_rate"] == best[arm], f"{paper}/{arm}"
