"""Scores on several evaluation sets: each of its own length, or together, each weighing the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import score_of
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("sets")
class Sets:
    """A score of one sampled answer on every set of a split; `main`, the testbed's own rows, stands for the score."""

    teachers: tuple[str, ...] = ()

    def __init__(self, score: str, main: str) -> None:
        self.score, self.main = score, main

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`<score>` and `<score>_<set>`."""
        score = score_of(task, self.score)

        def metric(name: str) -> Metric:
            title = f"{score.title} on {task.set_titles[name]}, sampled"
            return Metric("mean", (f"{self.score}_{name}",), score.higher_is_better, title, score.unit)

        each = {f"{self.score}_{name}": metric(name) for name in task.set_titles}
        return {self.score: metric(self.main), **each}

    def columns(self, evaluation: Evaluation) -> Columns:
        """A column for each set."""
        task = evaluation.task
        score = score_of(type(task), self.score)
        columns: Columns = {}
        for name, pairs in task.sets(evaluation.split).items():
            if name == self.main:
                said, references = evaluation.said_sampled()[0], evaluation.references
            else:
                prompts, references = _apart(pairs[: evaluation.limit])
                said = evaluation.ask(prompts, greedy=False)
            columns[f"{self.score}_{name}"] = (score.function(said, references), score.digits)
        return columns


@measurement("even-sets")
class EvenSets:
    """A score of greedy answers: `greedy_<score>` is the mean over the sets of a split, and each has a column too."""

    teachers: tuple[str, ...] = ()

    def __init__(self, score: str) -> None:
        self.score = score

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`greedy_<score>` and `<set>`."""
        score, column = score_of(task, self.score), f"greedy_{self.score}"
        higher, unit = score.higher_is_better, score.unit
        together = " and ".join(task.set_titles.values())
        even = Metric("mean", (column,), higher, f"{score.title}, mean of {together}, greedy", unit)
        each = {
            name: Metric("mean", (name,), higher, f"{score.title} on {title}, greedy", unit)
            for name, title in task.set_titles.items()
        }
        return {column: even, **each}

    def columns(self, evaluation: Evaluation) -> Columns:
        """One column in which all sets weigh the same; one for each, where a split has several."""
        score = score_of(type(evaluation.task), self.score)
        found = {}
        for name, pairs in evaluation.task.sets(evaluation.split).items():
            prompts, references = _apart(pairs[: evaluation.limit])
            found[name] = score.function(evaluation.ask(prompts, greedy=True), references)
        total = sum(map(len, found.values()))
        even = [scores * total / (len(found) * len(scores)) for scores in found.values()]
        columns: Columns = {f"greedy_{self.score}": (np.concatenate(even), 3)}
        if len(found) > 1:
            columns |= {name: (scores, score.digits) for name, scores in found.items()}
        return columns


def _apart(pairs: Sequence[tuple[str, Any]]) -> tuple[list[str], list[Any]]:
    """Prompts, references."""
    return [prompt for prompt, _ in pairs], [reference for _, reference in pairs]
