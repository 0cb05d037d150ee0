"""Several samples of one prompt: is any of them right, and how many different right ones are there?"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import TYPE_CHECKING

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import RIGHT, score_of
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("tries")
class Tries:
    """By as many samples of each prompt as the testbed draws, n of them.

    `pass_at_<k>`: the chance that one or more of k samples is right, without bias from the c right ones of n:
    1 - C(n-c, k) / C(n, k), as samples are drawn without putting back. `distinct_right`: how many different right
    answers are among the n, by the references' method `meaning` where they have one, else by their tokens.
    """

    teachers: tuple[str, ...] = ()

    def __init__(self, k: Sequence[int] = (1,)) -> None:
        self.k = tuple(k)
        if not self.k or any(not isinstance(one, int) or one < 1 for one in self.k):
            raise KDError(f"k of pass at k is 1, 2, ..., not {list(self.k)}")

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`pass_at_<k>` for each k, `distinct_right`."""
        title = score_of(task, RIGHT).title
        found = {
            f"pass_at_{k}": Metric(
                "mean", (f"pass_at_{k}",), True, f"{title}, one or more of {k} samples", "%"
            )
            for k in self.k
        }
        title = "different right answers among the samples"
        return {**found, "distinct_right": Metric("mean", ("distinct_right",), True, title)}

    def columns(self, evaluation: Evaluation) -> Columns:
        """Of every prompt. Raises KDError where the testbed draws fewer samples than k."""
        said, references = evaluation.said_sampled(), evaluation.references
        if len(said) < max(self.k):
            raise KDError(
                f"{evaluation.testbed.name}: pass at {max(self.k)} needs as many samples; `decoding` draws {len(said)}"
            )
        score = score_of(type(evaluation.task), RIGHT).function
        right = np.array([score(copy, references) for copy in said]) == 100  # (n, N)
        columns: Columns = {
            f"pass_at_{k}": (100 * np.array([at_least_one(len(said), int(c), k) for c in right.sum(0)]), 2)
            for k in self.k
        }
        known = [
            {_meaning(reference, copy[row]) for copy, good in zip(said, right[:, row], strict=True) if good}
            for row, reference in enumerate(references)
        ]
        columns["distinct_right"] = (np.array([len(found) for found in known]), 0)
        return columns


def at_least_one(samples: int, right: int, k: int) -> float:
    """The chance that k of so many samples, drawn without putting back, hold one or more of the right ones."""
    return 1 - comb(samples - right, k) / comb(samples, k)


def _meaning(reference: object, answer: Sequence[int]) -> object:
    of = getattr(reference, "meaning", tuple)
    return of(answer)
