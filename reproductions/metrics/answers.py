"""Answers scored by the task: sampled and greedy, and how well their probability says that they are right."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.metrics.base import Columns, measurement
from reproductions.tasks.base import Score

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task

RIGHT = "exact_match"
CALIBRATION = {
    "answer": "expected calibration error",
    # The probability of sixty tokens in a row is 0 to three digits for every model; their mean is not.
    "token": "calibration error of the mean token probability",
}


@measurement("answers")
class Answers:
    """The task's scores of sampled answers (mean over a prompt's samples) and of greedy ones (`greedy_<score>`).

    `calibration`: of the probability of the greedy "answer" with its EOS, or of its geometric mean per "token".
    """

    teachers: tuple[str, ...] = ()

    def __init__(
        self, sampled: Sequence[str] = (), greedy: Sequence[str] = (), calibration: str | None = None
    ) -> None:
        self.sampled, self.greedy, self.calibration = tuple(sampled), tuple(greedy), calibration
        if calibration is not None and calibration not in CALIBRATION:
            raise KDError(f'calibration is of "{calibration}"; it can be of {" or ".join(CALIBRATION)}')

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`<score>`, `greedy_<score>`, `ece`."""
        found = {name: _metric(name, score_of(task, name), "sampled") for name in self.sampled}
        for name in self.greedy:
            found[f"greedy_{name}"] = _metric(f"greedy_{name}", score_of(task, name), "greedy")
        if self.calibration:
            title = CALIBRATION[self.calibration]
            found["ece"] = Metric("ece", ("confidence", "correct"), False, title)
        return found

    def columns(self, evaluation: Evaluation) -> Columns:
        """Figures of every prompt."""
        task, references = type(evaluation.task), evaluation.references
        columns: Columns = {}
        for name in self.sampled:
            score = score_of(task, name)
            each = [score.function(said, references) for said in evaluation.said_sampled()]
            columns[name] = (np.mean(each, axis=0), score.digits)
        greedy = evaluation.said(evaluation.greedy) if self.greedy or self.calibration else []
        for name in self.greedy:
            score = score_of(task, name)
            columns[f"greedy_{name}"] = (score.function(greedy, references), score.digits)
        if self.calibration:
            columns["confidence"] = (confidence(evaluation, self.calibration), 3)
            columns["correct"] = (score_of(task, RIGHT).function(greedy, references) / 100, 0)
        return columns


def confidence(evaluation: Evaluation, of: str) -> np.ndarray:
    """(N,) probability of the greedy answers with their EOS, or the geometric mean of its tokens'."""
    logprobs = evaluation.greedy.logprobs.sum(1)
    if of == "token":
        logprobs = logprobs / evaluation.greedy.mask.sum(1)
    return logprobs.exp().cpu().numpy()


def score_of(task: type[Task], name: str) -> Score:
    """A score of a task. Raises KDError with the nearest one."""
    from catalog.reader import nearest

    if name not in task.scores:
        raise KDError(
            f'{task.__name__} has no score "{name}"{nearest(name, task.scores)}; it has {", ".join(task.scores)}'
        )
    return task.scores[name]


def _metric(column: str, score: Score, how: str) -> Metric:
    return Metric("mean", (column,), score.higher_is_better, f"{score.title}, {how}", score.unit)
