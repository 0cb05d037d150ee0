"""The task of a run as a reward: its own score of whole answers, by the prompts of its training rows."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

from methods.recipe import read_recipe
from methods.registry import build
from reproductions.engine.errors import KDError
from reproductions.engine.work import surroundings as work
from reproductions.engine.work.surroundings import RunSurroundings
from reproductions.tasks.base import Score
from tests.reproductions.short import load_short


def right(said, references):
    return np.array([100.0 * (a == b) for a, b in zip(said, references, strict=True)])


@pytest.fixture
def surroundings():
    rows = {"prompt": ["1+1=", "2+2="], "completion": ["2", "4"]}
    task = SimpleNamespace(
        scores={
            "exact_match": Score(right, "right"),
            "errors": Score(right, "wrong", higher_is_better=False),
        },
        rows=lambda split: rows,
        has_rows={"train", "test"}.__contains__,
        references=lambda split: rows["completion"],
        said=lambda ids, tokenizer: ["".join(map(chr, row)) for row in ids],
    )
    bed = SimpleNamespace(
        task=task, tokenizer=SimpleNamespace(eos_token_id=0), max_prompt_tokens=4, max_completion_tokens=4,
        pair_limits=(),
    )  # fmt: skip
    return RunSurroundings(SimpleNamespace(testbed=bed, seed=0, spec={}))


def test_answers_are_scored_by_their_prompts_and_a_cut_one_is_worth_nothing(surroundings):
    percent = surroundings.scorer(None)
    answers = [[ord("2"), 0], [ord("2"), 0], [ord("4"), 0], [ord("2")]]
    assert percent(["1+1=", "2+2=", "2+2=", "1+1="], answers) == [100.0, 0.0, 100.0, 0.0]
    with pytest.raises(KDError, match="knows its training rows alone, not '3'"):
        percent(["3"], [[0]])


def test_more_rows_to_train_on_are_known_too(surroundings):
    bed = surroundings._run.testbed
    rows = {
        "train": bed.task.rows("train"),
        "more": Dataset.from_dict({"prompt": ["3"], "completion": ["3"]}),
    }
    bed.task.rows, bed.task.references = rows.get, lambda name: rows[name]["completion"]
    bed.task.has_rows = rows.__contains__
    answers = [[ord("3"), 0], [ord("2"), 0], [ord("4"), 0]]
    assert surroundings.scorer(None)(["3", "1+1=", "3"], answers) == [100.0, 100.0, 0.0]


def test_a_score_that_is_no_reward_is_refused(surroundings):
    with pytest.raises(KDError, match='no score "exact_mtch" \\(did you mean "exact_match"\\?\\)'):
        surroundings.scorer("exact_mtch")
    with pytest.raises(KDError, match="of which more is better"):
        surroundings.scorer("errors")


def test_every_right_walk_of_navigate_is_rewarded_not_the_demonstrations_alone():
    bed = load_short("navigate")
    task, eos = bed.task, bed.tokenizer.eos_token_id
    around = RunSurroundings(SimpleNamespace(testbed=bed, seed=0, spec={}))
    (tree,) = read_recipe("kdrl").method({"reward": "task"})["rewards"]
    reward = build("reward", tree, surroundings=around)
    row = task.rows("train")[0]
    (demonstration,) = bed.tokenizer([row["completion"]], add_special_tokens=False)["input_ids"]
    problem = task.references("train")[0]
    start, cell = bed.tokenizer([row["prompt"]])["input_ids"][0][0], demonstration[0]
    there_and_back = [cell, start, *demonstration]  # another walk, as right as the shortest
    beside = problem.world.near[problem.start]
    wall = next(n for n in range(problem.world.cells) if n != problem.start and n not in beside)
    through_a_wall = [start + wall - problem.start, *demonstration]
    said = [demonstration, there_and_back, demonstration[:-1], through_a_wall]
    given = {
        "prompts": [row["prompt"]] * 5,
        "completion_ids": [*([*ids, eos] for ids in said), demonstration],
    }
    assert reward(**given) == [1.0, 1.0, 0.0, 0.0, 0.0]  # the last one did not end


def test_the_start_is_measured_as_it_is(monkeypatch):
    monkeypatch.setattr(RunSurroundings, "student", lambda self: "as it starts")
    monkeypatch.setattr(
        RunSurroundings, "teacher", lambda self, name: SimpleNamespace(model=f"teacher {name}")
    )
    bed = SimpleNamespace(tokenizer=None, max_prompt_tokens=1, max_completion_tokens=1, pair_limits=())
    for teacher, model in (("student", "as it starts"), ("main", "teacher main")):
        spec = {"method": {"trainer": {"name": "teacher-alone"}, "teachers": [teacher]}}
        assert work.train(SimpleNamespace(testbed=bed, seed=0, spec=spec, trained=None)) == model
