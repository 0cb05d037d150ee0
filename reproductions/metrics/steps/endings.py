"""How greedy answers end that are not right, and what the right ones cost beyond the least."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("endings")
class Endings:
    """Of a task whose references tell how an answer ended.

    A share of all answers in percent for every way to fail: with the right ones they are 100. `regret`: steps of right
    answers beyond the least that there can be, their mean over right answers (0 where none is right).
    """

    teachers: tuple[str, ...] = ()

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """One a way to fail (`false_end` for "false-end"), and `regret`. Raises KDError where a task tells none."""
        if not task.endings:
            raise KDError(f"{task.__name__} does not tell how answers end")
        found = {
            _column(kind): Metric("mean", (_column(kind),), False, title, "%")
            for kind, title in task.endings.items()
        }
        title = "steps of right answers beyond the least"
        return {**found, "regret": Metric("ratio", ("extra_steps", "right"), False, title)}

    def columns(self, evaluation: Evaluation) -> Columns:
        """Of every prompt: 100 under the way in which its answer failed; whether it is right, and its further steps."""
        said = evaluation.said(evaluation.greedy)
        ends = [problem.ending(ids) for problem, ids in zip(evaluation.references, said, strict=True)]
        kinds = np.array([end.kind for end in ends])
        return {
            **{_column(kind): (100 * (kinds == kind), 0) for kind in type(evaluation.task).endings},
            "right": (kinds == "right", 0),
            "extra_steps": (np.array([end.extra for end in ends]), 0),
        }


def _column(kind: str) -> str:
    return kind.replace("-", "_")
