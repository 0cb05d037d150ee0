"""The paper's testbed on replicas of GPT-2, Dolly and the evaluation sets."""

import pytest

from reproductions.engine.metrics import values
from reproductions.testbeds import instructions


@pytest.fixture
def testbed(mirrors, monkeypatch):
    monkeypatch.setattr(instructions, "VALIDATION_ROWS", 5)
    monkeypatch.setattr(instructions, "MAX_TOTAL", 270)
    monkeypatch.setattr(instructions.Instructions, "max_completion_tokens", 14)
    short = {"max_steps": 2, "per_device_train_batch_size": 4}
    monkeypatch.setattr(instructions, "TEACHER_TRAINING", short)
    return instructions.load()


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
    answer = testbed.tokenizer("4 coins")["input_ids"]
    scores = testbed._rouge([answer, answer], [("p", ["nothing", "4 coins"]), ("p", ["nothing"])])
    assert scores.tolist() == [100, 0]
    exact = testbed._exact([answer, answer], [("p", ["nothing", " 4  Coins!"]), ("p", ["nothing"])])
    assert exact.tolist() == [1, 0]
