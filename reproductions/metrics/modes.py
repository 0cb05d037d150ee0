"""Several right answers to one prompt: how many of them a model says, how probable they are, and what else it says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import RIGHT, score_of
from reproductions.metrics.base import Columns, measurement
from reproductions.tasks.scores import answers_of

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task

MASS = "mode_probability_mass"


@measurement("modes")
class Modes:
    """On the rows that have two or more right answers; by as many samples of each as the testbed draws.

    `coverage`: the share of a row's right answers that are among its samples (recall). `validity`: the share of its
    samples that are right (precision). `mode_probability_mass`: the probability of all right answers together, exactly.
    A model that seeks one mode is valid and covers little. Source: precision and recall of distributions, Sajjadi et
    al., arXiv 1806.00035, here with the right answers known.
    """

    teachers: tuple[str, ...] = ()

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`coverage`, `mode_probability_mass`, `validity`."""
        titles = {
            "coverage": "right answers that are among the samples",
            MASS: "probability of all right answers",
            "validity": "samples that are right answers",
        }
        return {name: Metric("mean", (name,), True, title, "%") for name, title in titles.items()}

    def columns(self, evaluation: Evaluation) -> Columns:
        """All three of every row that has several right answers, in percent."""
        known = [_distinct(reference) for reference in evaluation.references]
        rows = [place for place, answers in enumerate(known) if len(answers) > 1]
        if not rows:
            raise KDError(
                f"{evaluation.testbed.name}: no row of {evaluation.split} has two right answers or more, "
                "so that coverage and validity say nothing"
            )
        columns: Columns = {}
        if evaluation.wants("coverage", "validity") or evaluation.reference_probabilities is None:
            said = [[copy[place] for copy in evaluation.said_sampled()] for place in rows]
            found = [len(_same(said[n], known[place])) / len(known[place]) for n, place in enumerate(rows)]
            columns["coverage"] = (100 * np.array(found), 1)
            right = score_of(type(evaluation.task), RIGHT).function
            each = [right(copy, [known[place] for place in rows]) for copy in zip(*said, strict=True)]
            columns["validity"] = (np.mean(each, axis=0), 1)
        if evaluation.wants(MASS):
            probabilities = evaluation.reference_probabilities
            # A model of other tokens spells an answer in many ways; the share of its samples has this expectation.
            columns[MASS] = (
                columns["validity"]
                if probabilities is None
                else (100 * np.array([probabilities[place].sum() for place in rows]), 2)
            )
        return columns


def _distinct(reference: Any) -> list[Any]:
    """The answers of a reference, each once."""
    return [list(answer) for answer in dict.fromkeys(map(tuple, answers_of(reference)))]


def _same(said: list[Any], known: list[Any]) -> set[tuple[Any, ...]]:
    """Which of the known answers were said."""
    return set(map(tuple, said)) & set(map(tuple, known))
