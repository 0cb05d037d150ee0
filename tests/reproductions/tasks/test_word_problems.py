"""Word problems on replicas of GSM8K and SmolLM2."""

import pytest
import torch

from reproductions.engine.metrics import values
from reproductions.tasks import word_problems
from tests.reproductions.short import load_short


@pytest.fixture
def testbed(mirrors):
    return load_short("word-problems", {"limits": {"completion": 30}}, test_problems=100)


def test_rows_are_clean_and_splits_share_no_problem(testbed):
    splits = [testbed.train, testbed.validation, testbed.test]
    assert [len(s) for s in splits[1:]] == [8, 12]
    assert len(splits[0]) > 20
    seen = [set(s["prompt"]) for s in splits]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    for split in splits:
        for prompt, completion in zip(split["prompt"], split["completion"], strict=True):
            assert prompt.startswith("Question: ") and prompt.endswith("\nAnswer:")
            assert "<<" not in completion and "Too long" not in prompt
            assert completion.startswith(" ")
            assert completion.splitlines()[-1].startswith("#### ")


def test_prompt_tokens_are_a_prefix_and_fit(testbed):
    tokenizer = testbed.tokenizer
    for split in (testbed.train, testbed.validation, testbed.test):
        for prompt, completion in zip(split["prompt"], split["completion"], strict=True):
            ids, whole = (
                tokenizer(text)["input_ids"] for text in (prompt, prompt + completion + "<|im_end|>")
            )
            assert whole[: len(ids)] == ids
            assert whole[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
            assert len(ids) <= testbed.max_prompt_tokens
            assert tokenizer.decode(whole, skip_special_tokens=True) == prompt + completion


def test_a_problem_that_only_changes_the_numbers_is_a_duplicate():
    held_out = [
        {"prompt": "Question: Tom sells 12 red hats for 3 dollars each on Sunday. How much?\nAnswer:"}
    ]
    same = {"prompt": "Question: Tom sells 15 red hats for 4 dollars each on Sunday. How many?\nAnswer:"}
    other = {"prompt": "Question: Eve walks 4 miles to school every day of the week. How far?\nAnswer:"}
    assert word_problems.overlapping([same, other], held_out) == [True, False]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so\n#### 1,000", "1000"),
        ("#### 12.50", "12.5"),
        ("#### $-3", "-3"),
        ("no answer 5", None),
        ("#### x", None),
    ],
)
def test_final_number(text, number):
    assert word_problems.final_number(text) == number


def test_teacher_student_and_evaluation(testbed, trial):
    run = trial(testbed)
    student = testbed.student(run)
    assert student.config.num_hidden_layers == 15
    assert student.config.vocab_size == testbed.teacher(run).config.vocab_size == len(testbed.tokenizer)
    start = testbed.sft_start(run)
    assert start.config.eos_token_id == testbed.tokenizer.eos_token_id
    first = testbed.evaluate(start, run, limit=5)
    torch.manual_seed(5)
    assert testbed.evaluate(start, run, limit=5) == first
    assert {len(c) for c in first.values()} == {5}
    assert set(values(testbed.metrics, first)) == set(testbed.metrics)


def test_bf16_gives_a_bf16_teacher_and_fp32_student(testbed, trial):
    run = trial(testbed, precision="bf16-autocast")
    assert testbed.teacher(run).dtype is torch.bfloat16
    assert testbed.student(run).dtype is torch.float32
    assert len(testbed.evaluate(testbed.student(run), run, limit=2)["rouge_l"]) == 2
