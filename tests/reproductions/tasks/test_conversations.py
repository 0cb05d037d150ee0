"""Conversations on replicas of UltraChat and of the chat models."""

import pytest
import torch

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.models.training import encode
from tests.reproductions.short import load_short


def test_whole_conversations_train_and_last_turns_measure(mirrors):
    testbed = load_short("ultrachat")
    assert [len(part) for part in (testbed.train, testbed.validation, testbed.test)] == [12, 2, 5]
    row = testbed.train[0]
    assert row["prompt"] == ""
    assert row["completion"].startswith("<|user|>\nName apples") and row["completion"].endswith("0 apples.")
    labels = encode(testbed.train, testbed.tokenizer, 512)[0]["labels"]
    assert -100 not in labels and labels[-1] == testbed.tokenizer.eos_token_id  # the user's tokens count too
    asked = testbed.test[0]
    assert asked["prompt"].endswith("<|endoftext|>\n<|assistant|>\n")
    assert asked["completion"][0].isdigit()
    shorter = load_short("ultrachat", {"limits": {"prompt": 40}})  # two turns are longer, one is not
    assert len(shorter.test) == 5 and len(shorter.train) < 12
    assert shorter.revision != testbed.revision


def test_the_published_teacher_and_two_measures(mirrors, trial):
    testbed = load_short("ultrachat")
    run = trial(testbed, precision="bf16-autocast")
    teacher = testbed.teacher(run)
    assert teacher.config.hidden_size == 32 and teacher.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in teacher.parameters()) and not run.shared.used
    model = testbed.student(run)
    columns = testbed.evaluate(model, run)
    assert {name: len(found) for name, found in columns.items()} == {"rouge_l": 5, "greedy_rouge_l": 5}
    assert set(values(testbed.metrics, columns)) == set(testbed.metrics)
    assert testbed.evaluate(model, run) == columns
    assert len(testbed.evaluate(model, run, split="validation")["rouge_l"]) == 2


def test_opening_questions_and_sft_on_whole_conversations(mirrors, trial):
    testbed = load_short("ultrachat-openings")
    assert [len(part) for part in (testbed.train, testbed.validation, testbed.test)] == [12, 2, 3]
    assert testbed.train[0]["prompt"].count("<|user|>") == 1
    assert testbed.rows("conversations")[0]["completion"].count("<|assistant|>") == 2
    run = trial(testbed)
    model, start = testbed.student(run), testbed.sft_start(run)
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))


def test_a_student_without_some_of_the_tokens_is_refused(mirrors, trial):
    testbed = load_short("ultrachat", {"about": "one whose tokenizer this test may change"})
    testbed.tokenizer.add_tokens([f"<{i}>" for i in range(40)])
    with pytest.raises(KDError, match="has 5.. tokens, its tokenizer here 5"):
        testbed.student(trial(testbed))
