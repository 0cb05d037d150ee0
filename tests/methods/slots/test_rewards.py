"""Exact checks of completions, called as TRL calls its reward functions."""

import pytest

from methods.errors import MethodError
from methods.registry import build, canonical
from methods.slots.rewards import ExactAnswer, SharedBeginning, TaskReward

SAID = ["12 #### 7", " 7 ", "8", ""]
TRUE = ["1 + 6 #### 7", "7", "7", "7"]


def test_an_answer_is_right_whole_or_behind_a_sign():
    assert ExactAnswer()(completions=SAID, reference=TRUE) == [0.0, 1.0, 0.0, 0.0]
    assert ExactAnswer(after="####")(prompts=[], completions=SAID, reference=TRUE) == [1.0, 1.0, 0.0, 0.0]
    assert ExactAnswer("solution")(completions=["a"], solution=["a"], reference=["b"]) == [1.0]


def test_a_shared_beginning_is_graded():
    figures = SharedBeginning()(completions=["abc", "abx", "abcd", "", "x"], reference=["abc"] * 4 + [""])
    assert figures == [1.0, pytest.approx(2 / 3), 0.75, 0.0, 0.0]


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(MethodError, match='the column "solution"; the rows have reference'):
        ExactAnswer("solution")(completions=["a"], reference=["a"], trainer_state=None)


def test_a_task_scores_its_own_answers():
    class Around:
        def scorer(self, name):
            return lambda prompts, answers: [50.0 if name else 10.0 * len(ids) for ids in answers]

    for tree, figure in (({"name": "task"}, 1.0), ({"name": "task", "by": "other"}, 0.5)):
        made = build("reward", canonical("reward", tree), surroundings=Around())
        assert made(prompts=["p"], completions=["a"], completion_ids=[[1] * 10], reference=["a"]) == [figure]
    with pytest.raises(MethodError, match="rows of a task"):
        TaskReward(object())
