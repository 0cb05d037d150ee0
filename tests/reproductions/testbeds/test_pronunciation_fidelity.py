"""Agreement with the teacher, the gain over SFT, and the teacher that does not know the task."""

import pytest
import torch

from reproductions.arms import sft
from reproductions.engine.experiment import Arm, Experiment, Scale
from reproductions.engine.metrics import values
from reproductions.engine.run import make_run
from reproductions.testbeds import pronunciation
from reproductions.testbeds import pronunciation_fidelity as fidelity

SHORT = {"max_steps": 3, "per_device_train_batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def testbed():
    made = fidelity.load()
    made.train = made.teacher_train = made.train.select(range(64))
    made.test = made.test.select(range(40))
    return made


@pytest.fixture
def run(testbed, tmp_path, monkeypatch):
    monkeypatch.setattr(pronunciation, "TEACHER_TRAINING", {**SHORT, "max_steps": 20, "learning_rate": 4e-3})
    settings = {
        "sft_start": SHORT,
        "training": {**SHORT, "max_steps": 12},
        "arms": {"sft": {"learning_rate": 8e-3}},
        "curve_points": 0,
    }
    experiment = Experiment(
        "trial",
        "a trial",
        {"sft": Arm("SFT", sft, "baseline")},
        {"tiny": Scale("pronunciation-fidelity", (1,), settings)},
        ("gain",),
    )
    return make_run(experiment, "sft", 1, "tiny", testbed=testbed, cache=tmp_path)


def test_the_baseline_is_the_sft_arm_itself(testbed, run, monkeypatch):
    said = []

    def greedy(model, prompts):
        said.append(fidelity.PronunciationFidelity._greedy(testbed, model, prompts))
        return said[-1]

    monkeypatch.setattr(testbed, "_greedy", greedy)
    trained = sft(run)
    columns = testbed.evaluate(trained, run)
    own, _, baseline = said
    assert own == baseline
    assert own != greedy(testbed.sft_start(run), list(testbed.test["prompt"])), "the baseline was not trained"
    assert columns["gain"] == [0.0] * 40
    monkeypatch.setattr(testbed, "_baseline", lambda *_: [1.0] * 40)
    worse = testbed.evaluate(trained, run)
    assert worse["gain"] == [100 * c - 100 for c in worse["correct"]]


def test_a_teacher_agrees_with_itself_right_or_wrong(testbed, run):
    columns = testbed.evaluate(testbed.teacher(run), run)
    assert set(columns["agreement"]) == {100.0}
    assert max(columns["fidelity"]) == 100.0
    assert min(columns["correct"]) == 0.0
    other = testbed.evaluate(testbed.student(run), run)
    assert values(testbed.metrics, other)["teacher_agreement"] < 100
    assert values(testbed.metrics, other)["fidelity"] < 100
    assert testbed.evaluate(testbed.student(run), run, limit=10)["agreement"] == other["agreement"][:10]


def test_students_come_in_two_sizes_and_everybodys_stays_where_it_was(testbed, run):
    small, large = (testbed.sft_start(run, size) for size in ("small", "large"))
    assert fidelity.size_of(small) == "small"
    assert fidelity.size_of(large) == "large"
    assert large.num_parameters() > 2 * small.num_parameters()
    plain = pronunciation.load()
    plain.train = testbed.train
    run.testbed = plain
    before = set(run.artifacts.root.rglob("*.safetensors"))
    again = plain.sft_start(run)
    assert set(run.artifacts.root.rglob("*.safetensors")) == before, "the key of the common start changed"
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


def test_strangers_keep_every_answer_and_give_it_to_another_word(testbed):
    rows = fidelity.strangers(testbed.train)
    assert sorted(rows["completion"]) == sorted(testbed.train["completion"])
    assert list(rows["prompt"]) == list(testbed.train["prompt"])
    same = [a == b for a, b in zip(rows["completion"], testbed.train["completion"], strict=True)]
    assert not any(same)
