"""How far our order of a paper's arms is the paper's own: rank correlations, a paper and setting at a time.

Only where a paper has numbers for three arms or more in one setting. Ranks are those of the figures themselves, on
the seeds that all of these arms have. The mean is over papers (each paper's settings are averaged first), its interval
Student's t over papers; scales, testbeds and attempts are never pooled.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reproductions.engine.metrics import Array
from reproductions.engine.verdicts.statistics import over_seeds

LEAST = 3  # arms with numbers of the paper
LEVEL = 0.95
Figures = Sequence[float] | Array


@dataclass(frozen=True)
class Order:
    """The arms of a paper in one setting: (arm, the paper's number, ours)."""

    paper: str
    setting: str
    metric: str
    arms: tuple[tuple[str, float, float], ...]
    kendall: float
    spearman: float


@dataclass(frozen=True)
class Agreement:
    """Orders of one scale, testbed and attempt with their mean over papers, and claims in the claimed direction."""

    mean: float | None
    interval: tuple[float, float] | None
    mean_spearman: float | None
    spearman_interval: tuple[float, float] | None
    papers: int
    same: int
    opposite: int


def order_of(paper: str, setting: str, metric: str, arms: Mapping[str, tuple[float, float]]) -> Order | None:
    """The order of arms with (paper's number, ours); None for fewer than LEAST, or where a side is all ties."""
    theirs = [numbers[0] for numbers in arms.values()]
    ours = [numbers[1] for numbers in arms.values()]
    if len(arms) < LEAST or len(set(theirs)) < 2 or len(set(ours)) < 2:
        return None
    told = tuple((name, *numbers) for name, numbers in arms.items())
    return Order(paper, setting, metric, told, kendall(theirs, ours), spearman(theirs, ours))


def agreement(orders: Iterable[Order], directions: Iterable[float]) -> Agreement:
    """What several orders say together; `directions`: each claim's difference, + where it is as claimed."""
    taus: dict[str, list[float]] = {}
    rhos: dict[str, list[float]] = {}
    for order in orders:
        taus.setdefault(order.paper, []).append(order.kendall)
        rhos.setdefault(order.paper, []).append(order.spearman)
    found = list(directions)
    mean, interval = _over_papers(taus)
    mean_rho, rho_interval = _over_papers(rhos)
    same, opposite = sum(value > 0 for value in found), sum(value < 0 for value in found)
    return Agreement(mean, interval, mean_rho, rho_interval, len(taus), same, opposite)


def kendall(one: Figures, other: Figures) -> float:
    """Kendall's tau-b (Kendall 1945); nan where a side is all ties."""
    signs = [
        (np.sign(one[a] - one[b]), np.sign(other[a] - other[b]))
        for a, b in itertools.combinations(range(len(one)), 2)
    ]
    first, second = sum(x * x for x, _ in signs), sum(y * y for _, y in signs)
    return float(sum(x * y for x, y in signs) / np.sqrt(first * second)) if first and second else float("nan")


def spearman(one: Figures, other: Figures) -> float:
    """Spearman's rank correlation, ties with their mean rank; nan where a side is all ties."""
    return pearson(_ranks(one), _ranks(other))


def pearson(one: Figures, other: Figures) -> float:
    """The linear correlation; nan where a side does not vary."""
    x, y = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / size if size > 0 else float("nan")


def _ranks(values: Figures) -> list[float]:
    return [
        sum(other < value for other in values) + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]


def _over_papers(
    by_paper: Mapping[str, Sequence[float]],
) -> tuple[float | None, tuple[float, float] | None]:
    if not by_paper:
        return None, None
    found = over_seeds([float(np.mean(values)) for values in by_paper.values()])
    return found.difference, found.interval(LEVEL)
