"""Pass at k and distinct right answers, against all ways to draw k of n samples and against samples written by hand."""

import itertools
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.metrics.steps.tries import Tries, at_least_one
from reproductions.tasks.countdown.task import Countdown

ANSWERS = {  # 3 7 2 > 20
    "one": "7 3 + 10 2 * 20",
    "turned": "2 3 7 + 10 * 20",
    "other": "7 2 * 14 3 + 17",
    "broken": "7 3 + 10",
}


@pytest.fixture(scope="module")
def task():
    return Countdown(
        numbers=3,
        most=8,
        demonstrations=5,
        scribbles=5,
        corrections=5,
        validation_problems=5,
        test_problems=5,
    )


def evaluation(task, copies):
    """Samples of two rows with the same problem, a copy a line."""
    from reproductions.tasks.countdown.task import Problem

    problem = Problem(task.rules, (3, 7, 2), 20, task.tokens)
    said = [[task.own(ANSWERS[name])["input_ids"] for name in copy] for copy in copies]
    return SimpleNamespace(
        task=task,
        references=[problem, problem],
        said_sampled=lambda: said,
        testbed=SimpleNamespace(name="mine"),
    )


@pytest.mark.parametrize("samples", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_all_draws(samples):
    for right, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations([n < right for n in range(samples)], k))
        assert at_least_one(samples, right, k) == pytest.approx(
            float(Fraction(sum(map(any, draws)), len(draws)))
        )


def test_right_samples_are_counted_and_the_same_said_otherwise_is_one(task):
    copies = [("one", "other"), ("turned", "broken"), ("other", "one"), ("one", "broken")]
    columns = Tries([1, 2, 4]).columns(evaluation(task, copies))
    figures = {name: values.tolist() for name, (values, _) in columns.items()}
    assert figures == {
        "pass_at_1": [75.0, 25.0],
        "pass_at_2": [100.0, 50.0],
        "pass_at_4": [100.0, 100.0],
        "distinct_right": [1, 1],
    }
    assert list(Tries([1, 2]).metrics(Countdown)) == ["pass_at_1", "pass_at_2", "distinct_right"]


def test_a_biased_estimate_would_be_seen(task):
    """Mutation: 1 - (1 - c/n)^k, as if samples were put back."""
    assert at_least_one(4, 1, 2) == 0.5 != 1 - (1 - 1 / 4) ** 2
    assert np.isclose(at_least_one(4, 3, 2), 1.0)


def test_more_tries_than_samples_are_refused(task):
    with pytest.raises(KDError, match="pass at 3 needs as many samples; `decoding` draws 2"):
        Tries([1, 3]).columns(evaluation(task, [("one", "one")] * 2))
    with pytest.raises(KDError, match="k of pass at k"):
        Tries([0])
