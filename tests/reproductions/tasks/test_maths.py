"""Mathematical problems on replicas: answers in boxes, two chat formats, two sets that weigh the same."""

import pytest

from methods.tokenizers.text_pairs import encode_pairs
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.metrics.base import rounded
from reproductions.tasks import maths
from tests.reproductions.short import load_short


@pytest.fixture
def testbed(mirrors):
    return load_short("maths")


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        (r"so $\boxed{\frac{1}{2}}$.", r"\dfrac{1}{2}", True),
        (r"\boxed{1} no, \boxed{ 12,345 }", "12345", True),
        (r"\boxed{7.0}", "7", True),
        (r"\boxed{\text{Evelyn}}", "Evelyn", True),
        (r"\boxed{\left(3, \frac{\pi}{2}\right)}", r"\left( 3, \frac{\pi}{2} \right)", True),
        (r"\boxed{25\%}", "25", True),
        (r"\boxed{90^\circ}", "90", True),
        (r"\boxed{\$18}", "18", True),
        (r"\boxed{8}", "7", False),
        ("7", "7", False),
        (r"\boxed{7", "7", False),
    ],
)
def test_a_right_answer_is_the_reference_in_the_last_box(text, answer, expected):
    assert maths.right(text, answer) is expected


def test_each_model_is_asked_in_its_own_format(testbed):
    assert [len(part) for part in (testbed.train, testbed.validation, testbed.test)] == [36, 4, 16]
    row = testbed.train[0]
    assert row["prompt"].startswith("<|user|>\nSolve the following") and "<end_of_turn>" in row["prompt"]
    assert "<|eot_id|>" in row["teacher_prompt"] and "<end_of_turn>" not in row["teacher_prompt"]
    pairs = encode_pairs(
        testbed.train, testbed.tokenizer, testbed.teacher_tokenizer("other"), max_length=1024
    )
    for ours, theirs in zip(pairs["labels"], pairs["teacher_labels"], strict=True):
        assert ours[-1] == testbed.tokenizer.convert_tokens_to_ids("<end_of_turn>")
        assert theirs[-1] == testbed.teacher_tokenizer("other").convert_tokens_to_ids("<|eot_id|>")


def test_both_sets_weigh_the_same(testbed):
    sets = testbed.task.sets("test")
    assert {name: len(pairs) for name, pairs in sets.items()} == {"gsm8k": 13, "math": 3}

    class OneOfEach:
        """An evaluation of a model that solves the first problem of each set."""

        task, split, limit = testbed.task, "test", None

        def ask(self, prompts, *, greedy):
            assert greedy
            answers = [answer for _, answer in sets["gsm8k" if len(prompts) == 13 else "math"]]
            return [f"\\boxed{{{answers[0]}}}", *["\\boxed{no}"] * (len(prompts) - 1)]

    (even,) = testbed.measurements
    found = values(testbed.metrics, rounded(even.columns(OneOfEach())))
    assert found["gsm8k"] == pytest.approx(100 / 13) and found["math"] == pytest.approx(100 / 3)
    assert found["greedy_exact_match"] == pytest.approx((100 / 13 + 100 / 3) / 2, abs=1e-3)


def test_models_and_measuring(testbed, trial):
    run = trial(testbed)
    assert testbed.teacher(run, "other").config.hidden_size == 32
    with pytest.raises(KDError, match='no teacher "main"; it has other'):
        testbed.teacher(run)
    student = testbed.student(run)
    columns = testbed.evaluate(student, run, limit=2)
    assert {name: len(found) for name, found in columns.items()} == {
        "greedy_exact_match": 4,
        "gsm8k": 2,
        "math": 2,
    }
    assert list(testbed.evaluate(student, run, split="validation")) == ["greedy_exact_match"]
