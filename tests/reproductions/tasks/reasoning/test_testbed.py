"""The testbed: what its arms train on, redrawn for each seed, and that each of them takes two steps."""

import pytest

from methods.assembly import rows_of
from methods.recipe import canonical_method
from reproductions.engine.gate.spec import gate_of
from reproductions.engine.work.surroundings import RunSurroundings, train
from reproductions.tasks.reasoning.task import percent_right, percent_sound
from tests.reproductions.short import SHORT, load_short

SOLVED = {"elicit": [{"name": "explain", "temperature": 0.7}]}
SWAPPED = {**SOLVED, "teacher": "permuted"}
TAUGHT = {"use": "label", "teacher": "small", "temperature": 0.7}


@pytest.fixture(scope="module")
def testbed():
    return load_short("reasoning")


def method(data):
    return canonical_method({"terms": [{"term": "next-token"}], "data": data})


def rows(testbed, trial, data, seed=1):
    return rows_of(method(data)["data"], RunSurroundings(trial(testbed, seed, start="pretrained")))


def test_solutions_are_redrawn_for_each_seed_and_hold_no_answer_of_the_rows(testbed, trial):
    one, same, other = (list(rows(testbed, trial, SOLVED, seed)["completion"]) for seed in (1, 1, 2))
    assert one == same != other and len(one) == 40
    assert not set(one) & set(testbed.train["completion"])


def test_the_permuted_teacher_is_another_and_its_steps_are_wrong(testbed, trial):
    """Both under one key but for the writer: what the one wrote is never taken for the other's."""
    known = testbed.task.references("train")
    right, swapped = (list(rows(testbed, trial, data)["completion"]) for data in (SOLVED, SWAPPED))
    assert percent_right(swapped, known).mean() == 100 and percent_sound(swapped, known).mean() < 10
    assert percent_sound(right, known).mean() > 50
    skilled = load_short("reasoning", {"teachers": {"main": {"oracle": {"errors": {"chain": 1.0}}}}})
    assert list(rows(skilled, trial, SOLVED)["completion"]) != right


@pytest.mark.parametrize("data", ["train", "testbed.more", SOLVED, SWAPPED, TAUGHT])
def test_every_kind_of_arm_takes_two_steps_and_is_measured(testbed, trial, stops, data):
    run = trial(testbed, start="pretrained", method=method(data), training=SHORT)
    columns = testbed.evaluate(train(run), run)
    assert set(columns) == {"greedy_exact_match", "greedy_sound", "exact_match_known", "exact_match_unseen"}
    assert {len(column) for column in columns.values()} == {8}


def test_the_gates_teacher_is_right_and_its_contrasts_are_arms_of_their_own(testbed, trial):
    run = trial(testbed)
    columns = testbed.evaluate(testbed.teacher(run), run)
    assert columns["greedy_exact_match"] == columns["greedy_sound"] == [100.0] * 8
    assert sum(columns["exact_match_unseen"]) >= 100
    wrong = testbed.evaluate(testbed.teacher(run, "permuted"), run, wanted=["greedy_sound"])
    assert sum(wrong["greedy_sound"]) == 0
    gate = gate_of("reasoning")
    data = [
        gate.specs(1e-3)[f"must-exist-{side}"]["method"]["data"].get("teacher")
        for side in ("better", "worse")
    ]
    assert data == [None, "permuted"] and gate.properties["learned-teachers"] == ("ladder",)
