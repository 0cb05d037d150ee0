"""Arithmetic: the generator, what its splits share, its tokens, and what is measured of an answer."""

import pytest
import torch
from datasets import Dataset

from methods.modeling.latent_reasoning import attach_latent
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.models.training import fine_tune
from reproductions.tasks import arithmetic
from reproductions.testbeds import load_testbed

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def testbed():
    return load_testbed("arithmetic")


@pytest.fixture
def run(testbed, trial):
    return trial(testbed)


def solve(prompt):
    """Every result of a problem, by a reading of the prompt of its own."""
    *tokens, value = prompt.split()
    results = [int(value)]
    for symbol, operand in zip(tokens[::2], tokens[1::2], strict=True):
        if symbol != ".":
            raw = results[-1] + (int(operand) if symbol == "+" else -int(operand))
            results.append(sorted((0, raw, 9))[1])
    return results[1:]


def test_thoughts_and_answers_are_right_and_the_answer_is_not_among_the_thoughts(testbed):
    for split in SPLITS:
        for row in getattr(testbed, split).select(range(300)):
            results = solve(row["prompt"])
            assert row["completion"] == f" : {results[-1]}"
            assert row["thoughts"] == "".join(f" , {r}" for r in results[:-1])
    assert arithmetic.write(7, [("+", 5), ("-", 2)]) == {
        "prompt": "+ 5 - 2 . . . . . . . . 7",
        "thoughts": " , 9",
        "completion": " : 7",
    }


def test_splits_share_no_beginning_and_have_every_length(testbed):
    def beginning(prompt):
        return (prompt.split()[:4], prompt.split()[-1])

    def length(prompt):
        return 6 - prompt.count(".") // 2

    rows = {split: list(getattr(testbed, split)["prompt"]) for split in SPLITS}
    assert {split: len(found) for split, found in rows.items()} == {
        "train": 20_000,
        "validation": 300,
        "test": 600,
    }
    begun = {split: {str(beginning(p)) for p in found} for split, found in rows.items()}
    for split, found in rows.items():
        assert len(set(found)) == len(found)
        assert {length(p) for p in found} == {3, 4, 5, 6}
        assert all(not begun[split] & begun[other] for other in SPLITS if other != split)


def test_the_sum_of_the_steps_is_not_enough(testbed):
    """Else a model could do without the results on the way: walls are met in a good part of the problems."""
    right = 0
    for row in testbed.test:
        *tokens, value = row["prompt"].split()
        steps = [p for p in zip(tokens[::2], tokens[1::2], strict=True) if p[0] != "."]
        total = int(value) + sum(int(b) if s == "+" else -int(b) for s, b in steps)
        right += f" : {sorted((0, total, 9))[1]}" == row["completion"]
    assert 0.3 < right / len(testbed.test) < 0.8


def test_the_same_problems_are_made_in_every_process(testbed):
    assert testbed.revision == arithmetic.Arithmetic().revision
    assert testbed.train[0] == arithmetic.problems("train")[0]
    assert testbed.revision == "e09822ac9f2e210e", "another testbed: raise VERSION and run everything again"


def test_facts_are_all_single_steps():
    rows = arithmetic.facts()
    assert len({row["prompt"] for row in rows}) == 100
    assert all(row["thoughts"] == "" for row in rows)


def test_every_token_is_known_and_every_row_fits(testbed):
    pad = testbed.tokenizer.pad_token_id
    for row in testbed.rows("branches").select(range(2000)):
        ids = [*row["prompt_ids"], *row["thought_ids"], *row["marker_ids"], *row["answer_ids"]]
        assert pad not in ids
        assert len(row["prompt_ids"]) == testbed.max_prompt_tokens
        assert len(ids) - len(row["prompt_ids"]) <= testbed.max_completion_tokens
        assert testbed.tokenizer.decode(row["marker_ids"]) == ":"
        assert row["answer_ids"][1:] == [testbed.tokenizer.eos_token_id]
    whole = (
        testbed.train[0]["prompt"] + testbed.train[0]["thoughts"] + testbed.train[0]["completion"] + "<eos>"
    )
    first = testbed.rows("branches")[0]
    assert testbed.tokenizer(whole)["input_ids"] == [i for part in first.values() for i in part]


def test_students_are_small_and_differ_by_seed_only(testbed, run):
    first, again = testbed.student(run), testbed.student(run)
    assert first.num_parameters() < 300_000
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    run.seed = 2
    assert not torch.equal(next(testbed.student(run).parameters()), next(first.parameters()))


def test_answers_are_read_after_the_last_marker(testbed):
    def answer(text):
        (said,) = testbed.task.said([testbed.tokenizer(text)["input_ids"]], testbed.tokenizer)
        return testbed.tokenizer.decode(said)

    assert answer(", 3 , 5 : 7") == "7"
    assert answer(": 3 : 5") == "5"
    assert answer(", 3 , 5") == ""


def test_a_trained_model_is_right_and_each_token_and_thought_counts(testbed, run, monkeypatch):
    rows = testbed.test.select(range(2))
    said = {p: solve(p) for p in rows["prompt"]}
    train = Dataset.from_dict(
        {
            "prompt": rows["prompt"],
            "completion": ["".join(f" , {r}" for r in v[:-1]) + f" : {v[-1]}" for v in said.values()],
        }
    )
    training = {"max_steps": 60, "per_device_train_batch_size": 2, "learning_rate": 1e-2}
    model = fine_tune(
        testbed.student(run), train, testbed.tokenizer, run, training, max_tokens=32, phase="test"
    )
    columns = testbed.evaluate(model, run, limit=2)
    assert columns["correct"] == [100.0, 100.0]
    assert columns["decoding_steps"] == [2 * (len(v) - 1) + 3 for v in said.values()]
    assert columns["unfinished"] == [0.0, 0.0]
    steps = sum(columns["decoding_steps"])
    assert values(testbed.metrics, columns)["right_per_step"] == pytest.approx(200 / steps)

    attach_latent(model, steps=4, **testbed.task.thought_ids)
    head = model.get_output_embeddings()
    monkeypatch.setattr(head, "forward", lambda hidden: torch.eye(len(testbed.tokenizer))[[2] * len(hidden)])
    silent = testbed.evaluate(model, run, limit=2)
    assert silent["decoding_steps"] == [5.0, 5.0], "four thoughts and EOS"
    assert silent["correct"] == [0.0, 0.0]


def test_there_is_no_teacher(testbed, run):
    with pytest.raises(KDError, match='arithmetic has no teacher "main"; it has none'):
        testbed.teacher(run)
