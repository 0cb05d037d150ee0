"""Endings and exposure of walkers with a known fault, against what the fault must cost, step by step."""

import numpy as np
import pytest
import torch

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.metrics.base import MEASUREMENTS
from reproductions.models.oracle import Oracle
from reproductions.tasks.base import TASKS
from reproductions.tasks.navigate.language import FIRST_CELL
from reproductions.testbeds import read_testbed, teachers_measured_with
from tests.reproductions.short import load_short

EOS, ASKED = 2, 3


@pytest.fixture(scope="module")
def testbed():
    return load_short("navigate", {"gate": None})


@pytest.fixture(scope="module")
def problems(testbed):
    return testbed.task.references("test")


def walker(testbed, first):
    """Knows the way, but begins with the token that `first(start, goal)` names (None: with a right one)."""
    task = testbed.task
    right = task.oracle(uniform=0.0)

    def says(ids, mask):
        said = right(ids, mask)
        for row, place in (ids == ASKED).nonzero().tolist():
            start, goal = (ids[row, place - back].item() - FIRST_CELL for back in (2, 1))
            token = first(start, goal)
            if token is not None:
                said[row, place] = torch.nn.functional.one_hot(torch.tensor(token), said.shape[-1]).float()
        return said

    return Oracle(says, task.own)


def measured(testbed, run, model):
    columns = testbed.evaluate(model, run)
    return values(testbed.metrics, columns), columns


def test_who_knows_the_way_makes_no_error(testbed, trial, problems):
    found, columns = measured(testbed, trial(testbed), walker(testbed, lambda start, goal: None))
    assert found["greedy_exact_match"] == found["exact_match"] == 100
    assert [found[name] for name in ("false_end", "illegal", "unfinished", "regret")] == [0] * 4
    assert [found[n] for n in ("token_accuracy", "answer_accuracy", "own_token_accuracy")] == [100] * 3
    assert found["repaired"] == 0 and sum(columns["with_wrong_token"]) == 0
    assert len(columns["token_accuracy"]) == len(problems) == 40


def test_a_detour_is_right_in_the_end_and_could_be_repaired(testbed, trial, problems):
    """Worst neighbours first: an answer of d moves gets two more, and one of its d + 3 tokens is wrong."""
    world = testbed.task.world

    def worst(start, goal):
        return FIRST_CELL + max(world.near[start], key=lambda cell: world.away[cell][goal])

    found, columns = measured(testbed, trial(testbed), walker(testbed, worst))
    far = np.array([world.away[p.start][p.goal] for p in problems])
    extra = np.array(
        [
            world.away[worst(p.start, p.goal) - FIRST_CELL][p.goal] + 1 - d
            for p, d in zip(problems, far, strict=True)
        ]
    )
    assert set(extra.tolist()) == {
        0,
        2,
    }  # 0 at the end of a blind alley, and where both ways are equally long
    astray = extra > 0
    fits = far + extra + 1 <= testbed.task.tokens
    assert fits.all()
    assert found["greedy_exact_match"] == 100 and found["regret"] == pytest.approx(extra.mean())
    assert found["token_accuracy"] == pytest.approx((100 - 100 * astray / (far + 1)).mean(), abs=0.06)
    assert found["own_token_accuracy"] == pytest.approx(
        (100 - 100 * astray / (far + extra + 1)).mean(), abs=0.06
    )
    assert found["answer_accuracy"] == pytest.approx(100 * (1 - astray.mean()))
    assert columns["with_wrong_token"] == astray.astype(int).tolist() and found["repaired"] == 100


def test_neither_a_false_end_nor_a_step_through_a_wall_can_be_repaired(testbed, trial):
    world = testbed.task.world
    end, _ = measured(testbed, trial(testbed), walker(testbed, lambda start, goal: EOS))
    assert end["false_end"] == 100 and end["greedy_exact_match"] == end["illegal"] == end["repaired"] == 0
    assert end["own_token_accuracy"] == 0 and 50 < end["token_accuracy"] < 100

    def jump(start, goal):
        return FIRST_CELL + next(c for c in range(world.cells) if c != start and c not in world.near[start])

    jumped, columns = measured(testbed, trial(testbed), walker(testbed, jump))
    assert jumped["illegal"] == 100 and jumped["false_end"] == jumped["regret"] == jumped["repaired"] == 0
    assert sum(columns["with_wrong_token"]) == 40


def test_who_turns_round_and_round_does_not_finish(testbed, trial, problems):
    """Always the same neighbour and back: right on no step that leads away, and from every second cell it can be
    repaired."""
    task = testbed.task
    right = task.oracle(uniform=0.0)

    def says(ids, mask):
        said = right(ids, mask)
        behind = (ids == ASKED).float().cumsum(1)[..., None] > 0
        cells = (ids - FIRST_CELL).clamp_min(0)
        to_and_fro = torch.tensor([min(near) for near in task.world.near])[cells]
        turned = torch.nn.functional.one_hot(FIRST_CELL + to_and_fro, said.shape[-1]).float()
        return torch.where(behind & (ids != ASKED)[..., None], turned, said)

    found, columns = measured(testbed, trial(testbed), Oracle(says, task.own))
    failed = sum(found[name] for name in ("false_end", "illegal", "unfinished"))
    assert failed + found["greedy_exact_match"] == 100 and found["unfinished"] > 90
    # One wrong token, somewhere at the beginning, and the oracle goes on from there: by arithmetic on distances.
    wanted = []
    for problem in problems:
        cell, moves, fine = problem.start, 0, None
        said = [
            int(
                right(
                    torch.tensor([[FIRST_CELL + problem.start, FIRST_CELL + problem.goal, ASKED]]),
                    torch.ones(1, 3),
                )[0, -1].argmax()
            )
            - FIRST_CELL
        ]
        while fine is None:
            step = said[0] if moves == 0 else min(task.world.near[cell])
            moves += 1
            if (
                cell == problem.goal
                or task.world.away[step][problem.goal] >= task.world.away[cell][problem.goal]
            ):
                fine = moves + task.world.away[step][problem.goal] + 1 <= problem.tokens
            cell = step
        wanted.append(100 * fine)
    assert columns["set_right"] == wanted


def test_only_a_task_that_tells_how_answers_end_has_endings():
    with pytest.raises(KDError, match="Pronunciation does not tell how answers end"):
        MEASUREMENTS.find("endings")().metrics(TASKS.find("pronunciation"))


def test_exposure_asks_the_oracle_that_it_names():
    spec = read_testbed("navigate")
    assert teachers_measured_with(spec, ["token_accuracy"]) == {"main"}
    assert teachers_measured_with(spec, ["regret", "greedy_exact_match"]) == set()
