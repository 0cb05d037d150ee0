"""Leagues: who competes with whom, under which name, and what the table says."""

from __future__ import annotations

import numpy as np
import pytest

from reproductions.engine.atlas.compute import record_of
from reproductions.engine.atlas.entrants import Names, leagues
from reproductions.engine.atlas.pairs import correlation
from reproductions.engine.atlas.tables import table
from reproductions.engine.metrics import Metric
from tests.reproductions.engine.atlas.made import METRICS, NOBODY, arm, arms_at, league, method

KINDS = [{"divergence": name} for name in ("forward-kl", "reverse-kl", "jensen-shannon", "total-variation")]


def test_only_equal_budgets_compete():
    same = [arm(f"a{place}", method([kind]), 50) for place, kind in enumerate(KINDS)]
    others = [
        arm("longer", method(KINDS[:1]), 50, steps=200),
        arm("wider", method(KINDS[:1]), 50, batch=64),
        arm("later", method(KINDS[:1]), 50, start=800),
        arm("larger", method(KINDS[:1]), 50, bed={"students": {"main": {"shape": 2}}}),
        arm("elsewhere", method(KINDS[:1]), 50, bed={"revision": "s"}),
        arm("shorter test", method(KINDS[:2]), 50, examples=30),
    ]
    (found,) = leagues([*same, *others], NOBODY)
    assert [entrant.key for entrant in found.entrants] == ["a0", "a1", "a2", "a3"]
    assert found.budget.told == "400 steps of SFT, then 100 steps of 32 examples"


def test_one_training_in_two_files_is_one_arm():
    fewer = {name: METRICS[name] for name in ("greedy_exact_match",)}
    arms = [arm(f"a{place}", method([kind]), 50) for place, kind in enumerate(KINDS)]
    again = arm("again", method(KINDS[:1]), 50, metrics=fewer, testbed="toy-less", claims=["gkd"])
    (found,) = leagues([again, *arms], NOBODY)
    assert [entrant.key for entrant in found.entrants] == ["a0", "a1", "a2", "a3"]
    assert found.entrants[0].papers == ("gkd",)


def test_an_arm_bears_the_title_that_most_papers_give_it():
    named = Names({"a0": [("p", "tiny", "KD"), ("q", "tiny", "forward KL"), ("r", "tiny", "forward KL")]}, {})
    arms = [arm(f"a{place}", method([kind]), 50) for place, kind in enumerate(KINDS)]
    entrants = league(*arms, names=named).entrants
    assert entrants[0].title == "forward KL" and entrants[0].papers == ("p", "q", "r")
    assert entrants[1].title == "reverse-kl"  # what it computes, where nobody names it


def test_arms_of_one_title_say_what_they_compute():
    named = Names({"a0": [("p", "tiny", "KD")], "a1": [("q", "tiny", "KD")]}, {})
    arms = [arm(f"a{place}", method([kind]), 50) for place, kind in enumerate(KINDS)]
    titles = [entrant.title for entrant in league(*arms, names=named).entrants]
    assert titles[:2] == ["KD (forward-kl)", "KD (reverse-kl)"]


def test_the_table_is_sorted_and_ties_are_ties():
    arms = arms_at(50, 60, 60.01, 40)
    found = table("toy", league(*arms))
    assert {row.key for row in found.rows[:2]} == {"a1", "a2"}
    assert [row.key for row in found.rows[2:]] == ["a0", "a3"]
    assert [row.letters for row in found.rows] == ["a", "a", "b", "c"]
    assert [row.ranks for row in found.rows] == [(1, 2), (1, 2), (3, 3), (4, 4)]
    assert found.rows[0].behind == 0 and found.rows[0].behind_interval is None
    assert found.rows[2].behind == pytest.approx(10, abs=1)
    assert found.rows[2].behind_interval is not None and found.rows[2].behind_interval[0] > 0
    assert found.pairs == 6 and found.apart == 5
    exact = arms[1].runs.values()
    assert found.rows[0].cells[0].mean == pytest.approx(
        max(np.mean([run.metrics["greedy_exact_match"] for run in one.runs.values()]) for one in arms),
        rel=1e-5,
    )
    assert len(list(exact)) == 5


def test_a_lower_error_is_first_and_behind_is_still_positive():
    golden = {"golden": Metric("mean", ("greedy_exact_match",), False, "error")}
    arms = arms_at(50, 60, 70, 40, metrics=golden)
    found = table("toy", league(*arms))
    assert [row.key for row in found.rows] == ["a3", "a0", "a1", "a2"]
    assert all(row.behind > 0 for row in found.rows[1:]) and found.rows[3].letters == "d"


def test_classifiers_are_sorted_by_accuracy_beside_how_often_they_say_what_their_teacher_says():
    classes = {
        "accuracy": Metric("mean", ("greedy_exact_match",), True, "accuracy", "%"),
        "agreement": Metric("mean", ("exact_match",), True, "says the teacher's class", "%"),
        "loss": Metric("mean", ("correct",), False, "loss", "nats"),
    }
    found = table("toy", league(*arms_at(50, 60, 70, metrics=classes)))
    assert [column.metric for column in found.columns] == ["accuracy", "agreement"]
    assert [row.key for row in found.rows] == ["a2", "a1", "a0"]


def test_sharper_arms_show_in_the_correlations():
    arms = [
        arm(f"a{place}", method([kind]), 50 + place, shift=-8.0 * place) for place, kind in enumerate(KINDS)
    ]
    found = {(one.one, one.other): one for one in table("toy", league(*arms)).correlations}
    assert found["confidence", "greedy_exact_match"].spearman == -1
    assert found["confidence", "exact_match"].spearman == 1
    assert found["greedy_exact_match", "exact_match"].arms == 4


def test_contrasts_that_share_an_arm_are_correlated():
    arms = [arm(f"a{place}", method([kind]), 50, noise=4.0, examples=200) for place, kind in enumerate(KINDS)]
    first, second, third, fourth = league(*arms).entrants
    metric = "greedy_exact_match"
    assert correlation(metric, (first, third), (first, third)) == pytest.approx(1)
    assert correlation(metric, (first, third), (third, first)) == pytest.approx(-1)
    triples = [(first, second, third), (second, fourth, first), (third, fourth, second)]
    shared = np.mean([correlation(metric, (a, c), (b, c)) for a, b, c in triples])
    assert 0.2 < shared < 0.8  # one half, as the arms' noise is equal


def test_all_of_it_from_nothing_is_nothing():
    found = record_of([], [], [])
    assert (found.tables, found.statements, found.agreement) == ((), (), ())


def test_a_metric_of_fewer_examples_is_compared_among_its_like():
    """A dear metric may be measured on some of the words: on as many for every arm that is compared on it."""
    from dataclasses import replace

    arms = arms_at(50, 60, 70, 40, 30)
    few = arms[4]
    runs = {
        seed: replace(run, columns={**run.columns, "exact_match": run.columns["exact_match"][:9]})
        for seed, run in few.runs.items()
    }
    found = table("toy", league(*arms[:4], replace(few, runs=runs)))
    assert len(found.rows) == 5
    assert [row.cell("exact_match") is None for row in found.rows] == [False] * 4 + [True]
