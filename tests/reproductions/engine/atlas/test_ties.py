"""Tie groups and rank intervals on tables whose truth is known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reproductions.engine.atlas.ties import adjusted, letter, places, told_apart
from reproductions.engine.verdicts.statistics import Estimate


def apart(rows):
    """A told-apart matrix from its upper triangle, rows of 0 and 1."""
    count = len(rows) + 1
    found = np.zeros((count, count))
    for first, row in enumerate(rows):
        for second, value in enumerate(row, first + 1):
            found[first, second], found[second, first] = value, -value
    return found


def test_groups_follow_their_best():
    # 0 = 1, 1 = 2, 0 > 2, all > 3
    found = places(apart([[0, 1, 1], [0, 1], [1]]))
    assert [place.letters for place in found] == ["a", "ab", "b", "c"]
    assert [(place.best, place.worst) for place in found] == [(1, 2), (1, 3), (2, 3), (4, 4)]


def test_a_group_takes_arms_that_have_a_letter_already():
    # a wide arm (2) that is told apart from nothing lies in both groups
    found = places(apart([[1, 0, 1], [0, 0], [0]]))
    assert [place.letters for place in found] == ["a", "b", "ab", "b"]
    assert found[2].best == 1 and found[2].worst == 4


def test_one_level_alone_is_one_group():
    rng = np.random.default_rng(5)
    seeds, examples = 5, 80
    common = rng.normal(0, 3, (seeds, examples))
    tables = [common + rng.normal(0, 1, (seeds, examples)) for _ in range(8)]
    tables += [common - 6 + rng.normal(0, 1, (seeds, examples)) for _ in range(4)]
    from reproductions.engine.verdicts.statistics import estimate

    pairs = {
        (a, b): estimate("mean", [tables[a][..., None], tables[b][..., None]], [1, -1], higher_is_better=True)
        for a, b in itertools.combinations(range(12), 2)
    }
    found = places(told_apart(pairs, 12, 0.9875))
    assert {place.letters for place in found[:8]} == {"a"} and {place.letters for place in found[8:]} == {"b"}
    assert all(place.worst <= 8 for place in found[:8]) and all(place.best >= 9 for place in found[8:])


def test_what_has_no_interval_is_not_told_apart():
    assert not told_apart({(0, 1): Estimate(5.0, None, None)}, 2, 0.95).any()
    assert told_apart({(0, 1): Estimate(-5.0, 1.0, 9.0)}, 2, 0.95).tolist() == [[0, -1], [1, 0]]


def test_letters_do_not_run_out_quietly():
    assert letter(0) == "a" and letter(26) == "A" and len({letter(place) for place in range(76)}) == 76


def test_arms_with_fewer_seeds_are_compared_on_those():
    """Figures are arm + seed exactly: least squares finds the arms whatever seeds are missing."""
    arms, seeds = [10.0, 12.0, 9.0], [0.0, 1.0, -4.0, 3.0]
    whole = [{seed: level + effect for seed, effect in enumerate(seeds)} for level in arms]
    assert adjusted(whole) == pytest.approx(arms)
    partial = [whole[0], {seed: whole[1][seed] for seed in (0, 1)}, {seed: whole[2][seed] for seed in (1, 2)}]
    assert adjusted(partial) == pytest.approx(arms)
    plain = [float(np.mean(list(arm.values()))) for arm in partial]
    assert plain != pytest.approx(arms)
