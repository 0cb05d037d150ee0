"""Every arm of every paper at scale tiny takes two steps: real code paths on a handful of words."""

import copy
from contextlib import contextmanager
from dataclasses import replace

import pytest

from methods.elicitation import labelling
from reproductions.engine.claims import load_claims
from reproductions.engine.experiment import list_papers, load_experiment, paper_folder
from reproductions.engine.files import read_json
from reproductions.engine.run import execute, make_run
from reproductions.engine.tuning import best_rates, tuning_path
from reproductions.testbeds import pronunciation

SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3}
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
    return replace(experiment, scales={"tiny": replace(declared, settings=settings)})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("paper", PAPERS)
def test_every_arm_trains_and_is_measured(paper, cache, monkeypatch):
    monkeypatch.setattr(pronunciation, "TEACHER_TRAINING", SHORT)
    # An untrained teacher hardly ever stops; here every third token ends what it writes.
    monkeypatch.setattr(labelling, "eos_ids", lambda model, tokenizer: list(range(0, len(tokenizer), 3)))
    experiment = shortened(load_experiment(paper))
    needed = {claim.metric for claim in load_claims(paper_folder(paper) / "claims.yaml").at("tiny")}
    with fewer_rows(experiment.load_testbed("tiny")) as testbed:
        for arm in experiment.arms_at("tiny"):
            record = execute(make_run(experiment, arm, 10, "tiny", testbed=testbed, cache=cache), experiment)
            assert needed | set(experiment.headline) <= set(record["metrics"]), arm
            assert all(value is not None for name, value in record["metrics"].items() if name in needed), arm


@contextmanager
def fewer_rows(testbed):
    """A testbed with a handful of rows; it is shared between tests, so that all of it is put back."""
    before = dict(vars(testbed))
    testbed.test = testbed.test.select(range(8))
    testbed.validation = testbed.validation.select(range(8))
    testbed.teacher_train = testbed.train = testbed.train.select(range(64))
    try:
        yield testbed
    finally:
        vars(testbed).clear()
        vars(testbed).update(before)


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
