"""Instructions on replicas of GPT-2, Dolly and the evaluation sets."""

import pytest

from reproductions.engine.metrics import values
from reproductions.tasks import instructions
from tests.reproductions.short import load_short


@pytest.fixture
def testbed(mirrors):
    return load_short("instructions")


def test_splits(testbed):
    assert [len(s) for s in (testbed.train, testbed.validation, testbed.test)] == [
        25,
        5,
        6,
    ]  # too long: left out
    assert not set(testbed.train["prompt"]) & set(testbed.test["prompt"])
    assert testbed.pretraining.column_names == ["text"]
    assert len(testbed.revision) == 16


def test_template():
    with_input = instructions.prompt_of({"instruction": "Do it", "input": "this"})
    assert "### Instruction:\nDo it\n\n### Input:\nthis\n\n### Response:\n" in with_input
    assert "### Input" not in instructions.prompt_of({"instruction": "Do it", "input": ""})


def test_sft_and_evaluation_on_all_five_sets(testbed, trial):
    run = trial(testbed, seed=10)
    assert testbed.teacher(run).config.n_embd == 32
    model = testbed.sft_start(run)
    columns = testbed.evaluate(model, run)
    sizes = {"dolly": 6, "self_instruct": 5, "vicuna": 4, "super_natural": 3, "unnatural": 7}
    assert {name: len(columns[f"rouge_l_{name}"]) for name in sizes} == sizes
    assert set(values(testbed.metrics, columns)) == set(testbed.metrics)
    assert testbed.evaluate(model, run) == columns
    assert len(testbed.evaluate(model, run, limit=2)["rouge_l_unnatural"]) == 2
    assert "rouge_l_unnatural" not in testbed.evaluate(model, run, split="validation")


def test_the_best_of_several_references_counts(testbed):
    scores = testbed.task.scores
    said = ["4 coins", "4 coins"]
    assert scores["rouge_l"].function(said, [["nothing", "4 coins"], ["nothing"]]).tolist() == [100, 0]
    assert scores["exact_match"].function(said, [["nothing", " 4  Coins!"], ["nothing"]]).tolist() == [100, 0]
    assert [len(known) for known in testbed.task.references("test")] == [2] * 6
