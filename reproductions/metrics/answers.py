"""Answers scored by the task: sampled, greedy, expected, at matched decoding; and their calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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

    `expected`: the expectation of a score over sampled answers, exactly (`expected_<score>`), where the task says that
    it is the probability of the references; of a model that reads other tokens, which can spell one answer in many
    ways, the mean over the samples in its place. `matched`: each sampled score at the model's own best temperature of
    the testbed's grid (`matched_<score>`), chosen on the validation split, and that temperature
    (`temperature_<score>`): a model that is only sharper gains nothing there (Caccia et al., arXiv 1811.02549).
    `calibration`: of the probability of the greedy "answer" with its EOS, or of its geometric mean per "token".
    """

    teachers: tuple[str, ...] = ()

    def __init__(
        self,
        sampled: Sequence[str] = (),
        greedy: Sequence[str] = (),
        calibration: str | None = None,
        expected: Sequence[str] = (),
        matched: bool = False,
    ) -> None:
        self.sampled, self.greedy, self.calibration = tuple(sampled), tuple(greedy), calibration
        self.expected, self.matched = tuple(expected), matched
        if calibration is not None and calibration not in CALIBRATION:
            raise KDError(f'calibration is of "{calibration}"; it can be of {" or ".join(CALIBRATION)}')

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`<score>`, `greedy_<score>`, `expected_<score>`, `matched_<score>`, `temperature_<score>`, `ece`."""
        found = {name: _metric(name, score_of(task, name), "sampled") for name in self.sampled}
        for name in self.greedy:
            found[f"greedy_{name}"] = _metric(f"greedy_{name}", score_of(task, name), "greedy")
        for name in self.expected:
            score = score_of(task, name)
            if name not in task.expected:
                known = ", ".join(task.expected) or "none"
                raise KDError(f"{task.__name__} has no exact expectation of {name}; it has that of {known}")
            found[f"expected_{name}"] = _metric(f"expected_{name}", score, "expected of a sample")
        for name in self.sampled if self.matched else ():
            how = "sampled at the best temperature"
            found[f"matched_{name}"] = _metric(f"matched_{name}", score_of(task, name), how)
            title = f"best temperature for {score_of(task, name).title}, on validation"
            found[f"temperature_{name}"] = Metric("mean", (f"temperature_{name}",), False, title)
        if self.calibration:
            title = CALIBRATION[self.calibration]
            found["ece"] = Metric("ece", ("confidence", "correct"), False, title)
        return found

    def on_curves(self, task: type[Task]) -> list[str]:
        """All but those at matched decoding: a temperature is chosen on the whole validation split."""
        matched = {f"{how}_{name}" for name in self.sampled for how in ("matched", "temperature")}
        return [name for name in self.metrics(task) if name not in matched]

    def columns(self, evaluation: Evaluation) -> Columns:
        """Figures of every prompt."""
        task, references, wants = type(evaluation.task), evaluation.references, evaluation.wants
        columns: Columns = {}
        for name in filter(wants, self.sampled):
            columns[name] = _mean_of(score_of(task, name), evaluation.said_sampled(), references)
        for name in self.expected:
            if wants(f"expected_{name}"):
                columns[f"expected_{name}"] = _expected(evaluation, score_of(task, name))
        for name in self.sampled if self.matched else ():
            if wants(f"matched_{name}", f"temperature_{name}"):
                score = score_of(task, name)
                best = evaluation.best_temperature(score)
                columns[f"temperature_{name}"] = (np.full(len(references), best), 3)
                columns[f"matched_{name}"] = _mean_of(score, evaluation.said_at(best), references)
        scored = [name for name in self.greedy if wants(f"greedy_{name}")]
        calibrated = self.calibration if wants("ece") else None
        greedy = evaluation.said(evaluation.greedy) if scored or calibrated else []
        for name in scored:
            score = score_of(task, name)
            columns[f"greedy_{name}"] = (score.function(greedy, references), score.digits)
        if calibrated:
            columns["confidence"] = (confidence(evaluation, calibrated), 3)
            columns["correct"] = (score_of(task, RIGHT).function(greedy, references) / 100, 0)
        return columns


def _mean_of(
    score: Score, said: Sequence[Sequence[Any]], references: Sequence[Any]
) -> tuple[np.ndarray, int]:
    """(N,) mean over the copies of sampled answers. A mean of eight needs more digits than each of them."""
    each = [score.function(one, references) for one in said]
    return np.mean(each, axis=0), score.digits if len(said) <= 2 else max(score.digits, 1)


def _expected(evaluation: Evaluation, score: Score) -> tuple[np.ndarray, int]:
    probabilities = evaluation.reference_probabilities
    if probabilities is None:
        return _mean_of(score, evaluation.said_sampled(), evaluation.references)
    return 100 * np.array([row.sum() for row in probabilities]), 2


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
