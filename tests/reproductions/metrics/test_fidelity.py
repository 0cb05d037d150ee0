"""Agreement with the teacher, and the gain over SFT."""

import pytest

from methods.recipe import canonical_method, read_recipe
from reproductions.engine.metrics import values
from reproductions.engine.work.surroundings import train
from reproductions.metrics.decoding.decoder import Decoder
from tests.reproductions.short import SHORT, load_short

STEPS = {**SHORT, "max_steps": 12, "per_device_train_batch_size": 8}


@pytest.fixture(scope="module")
def testbed():
    teacher = {**STEPS, "max_steps": 20, "learning_rate": 4e-3}
    baselines = {"gain": {"baselines": {"main": {"learning_rate": 8e-3}}}}
    return load_short("pronunciation-fidelity", {"metrics": baselines}, teacher, test_words=40)


@pytest.fixture
def run(testbed, trial):
    method = canonical_method(read_recipe("sft").method())
    return trial(testbed, training=STEPS | {"learning_rate": 8e-3}, method=method)


def test_the_baseline_is_the_sft_arm_itself(testbed, run, monkeypatch):
    said = []
    greedy = Decoder.greedy

    def spy(decoder, model, run, prompts):
        found = greedy(decoder, model, run, prompts)
        said.append(found.answers(decoder.eos_ids))
        return found

    monkeypatch.setattr(Decoder, "greedy", spy)
    trained = train(run)
    columns = testbed.evaluate(trained, run)
    own, *_, baseline = said
    assert len(said) == 3 and own == baseline  # the student's, its teacher's, the baseline's
    start = greedy(testbed.decoder, testbed.sft_start(run), run, list(testbed.test["prompt"]))
    assert own != start.answers(testbed.decoder.eos_ids), "the baseline was not trained"
    assert columns["gain"] == [0.0] * 40
    gain = testbed.measurements[-1]
    monkeypatch.setattr(gain, "baseline", lambda evaluation, size: [1.0] * 40)
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
