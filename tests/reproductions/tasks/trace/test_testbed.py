"""The testbed: what a known fault costs, and that nobody could set it right."""

import pytest

from reproductions.engine.metrics import values
from reproductions.models.oracle import Oracle
from tests.reproductions.short import load_short

ASKED, ZERO = 3, 10  # ids


@pytest.fixture(scope="module")
def testbed():
    return load_short("trace", {"gate": None})


def one_wrong(task):
    """Says one more than is due of the register that the first instruction changes, and goes on from there."""
    right = task.oracle(uniform=0.0)

    def says(ids, mask):
        said = right(ids, mask)
        for row, place in (ids == ASKED).nonzero().tolist():
            target = int(ids[row, place - 3 * task.machine.instructions + 1]) - 7
            if place + target < ids.shape[1]:
                numbers = said[row, place + target, ZERO : ZERO + task.machine.modulus]
                said[row, place + target, ZERO : ZERO + task.machine.modulus] = numbers.roll(1)
        return said

    return Oracle(says, task.own)


def measured(testbed, run, model):
    return values(testbed.metrics, testbed.evaluate(model, run))


def test_who_can_calculate_makes_no_error(testbed, trial):
    found = measured(testbed, trial(testbed), Oracle(testbed.task.oracle(uniform=0.0), testbed.task.own))
    shown = (
        "greedy_exact_match",
        "exact_match",
        "greedy_result_match",
        "token_accuracy",
        "own_token_accuracy",
    )
    assert [found[name] for name in shown] == [100] * 5
    ends = ("false_step", "false_copy", "illegal", "false_end", "unfinished", "regret", "repaired")
    assert [found[name] for name in ends] == [0] * 7


def test_an_error_stays_whoever_goes_on(testbed, trial):
    """One of thirteen tokens is wrong; all others are right behind it, and none of the answers is."""
    found = measured(testbed, trial(testbed), one_wrong(testbed.task))
    assert found["greedy_exact_match"] == found["exact_match"] == found["repaired"] == 0
    assert found["false_step"] == 100
    assert found["token_accuracy"] == found["own_token_accuracy"] == pytest.approx(100 * 12 / 13, abs=0.1)
    assert found["answer_accuracy"] == 0
    assert 0 < found["greedy_result_match"] < 50  # where a product with 0 forgets it
