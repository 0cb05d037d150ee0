"""Ranks that do not say more than the figures: arms compared in pairs, tie groups, intervals of ranks.

Every pair of arms is compared on the seeds that both have, paired by seed and example, and counts as *told apart* where
the interval of their difference at the level of a look leaves out zero. From these pairs alone follow:

- *tie groups*: the best arm opens group a; every arm that is not told apart from it carries the letter a. The best of
  the arms without a letter opens group b, which takes all arms not told apart from that one, also those with a letter;
  and so on. So an arm carries the letter of each group whose best it may equal. Two arms without a common letter need
  not be told apart from one another: the interval of the rank says that.
- *rank interval*: from 1 + the number of arms told apart as better to the number of arms minus those told apart as
  worse.

The level is that of one pair. Of n arms that are all alike, (1 - level) n (n - 1) / 2 pairs are told apart by accident.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproductions.engine.metrics import Array
from reproductions.engine.verdicts.statistics import Estimate

Figures = Mapping[int, float]  # seed -> an arm's figure


@dataclass(frozen=True)
class Place:
    """Where an arm stands: letters of its tie groups, best and worst rank that it may have."""

    letters: str
    best: int
    worst: int


def adjusted(arms: Sequence[Figures]) -> list[float]:
    """The figure of each arm over all seeds, by least squares in the model figure = arm + seed.

    Where every arm has the same seeds these are plain means. An arm with fewer seeds is so compared on those: a seed
    with an easy start lifts nobody.
    """
    seeds = sorted({seed for arm in arms for seed in arm})
    if all(len(arm) == len(seeds) for arm in arms):
        return [float(np.mean(list(arm.values()))) for arm in arms]
    rows = [
        (place, seeds.index(seed), value) for place, arm in enumerate(arms) for seed, value in arm.items()
    ]
    design = np.zeros((len(rows) + 1, len(arms) + len(seeds)))
    for row, (arm, seed, _) in enumerate(rows):
        design[row, arm] = design[row, len(arms) + seed] = 1.0
    design[-1, len(arms) :] = 1.0  # the seeds' effects sum to zero
    solution = np.linalg.lstsq(design, np.array([*(value for _, _, value in rows), 0.0]), rcond=None)[0]
    return [float(value) for value in solution[: len(arms)]]


def told_apart(pairs: Mapping[tuple[int, int], Estimate], count: int, level: float) -> Array:
    """(count, count): 1 where the first arm is told apart as better, -1 as worse, 0 where neither.

    `pairs[i, j]` with i < j is arm i minus arm j, turned so that + is better.
    """
    found = np.zeros((count, count))
    for (first, second), estimate in pairs.items():
        interval = estimate.interval(level)
        if interval is not None and (interval[0] > 0 or interval[1] < 0):
            found[first, second] = 1.0 if interval[0] > 0 else -1.0
            found[second, first] = -found[first, second]
    return found


def places(apart: Array) -> list[Place]:
    """Tie groups and rank intervals of arms that are sorted, best first, from `told_apart`."""
    count = len(apart)
    letters: list[list[str]] = [[] for _ in range(count)]
    groups = 0
    for leader in range(count):
        if letters[leader]:
            continue
        for arm in range(count):
            if apart[leader, arm] == 0:
                letters[arm].append(letter(groups))
        groups += 1
    return [
        Place("".join(letters[arm]), 1 + int((apart[arm] < 0).sum()), count - int((apart[arm] > 0).sum()))
        for arm in range(count)
    ]


def letter(group: int) -> str:
    """a, b ... z, then A ... Z, then Greek ones."""
    known = string.ascii_letters + "αβγδεζηθικλμνξοπρστυφχψω"
    return known[group] if group < len(known) else "?"
