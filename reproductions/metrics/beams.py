"""What a beam gains over greedy decoding, and how probable the greedy answer is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import RIGHT, confidence, score_of
from reproductions.metrics.base import Columns, measurement

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("beams")
class Beams:
    """The best answer of a beam: exact, as words, where the greedy one is scored by the task's `exact_match`.

    Beams on the first `examples` rows where given, the greedy answer's probability on all.
    Source: sequence-level KD, arXiv 1606.07947, section 4.
    """

    teachers: tuple[str, ...] = ()

    def __init__(self, beams: int = 5, batch: int = 600, examples: int | None = None) -> None:
        self.beams, self.batch, self.examples = beams, batch, examples

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`beam_exact_match`, `beam_gain`, `mode_probability`."""
        return {
            "beam_exact_match": Metric(
                "mean", ("beam_exact_match",), True, f"exact match, beam of {self.beams}", "%"
            ),
            "beam_gain": Metric(
                "mean", ("beam_gain",), False, f"gain of a beam of {self.beams} over greedy", "%"
            ),
            "mode_probability": Metric("mean", ("confidence",), True, "probability of the greedy answer"),
        }

    def columns(self, evaluation: Evaluation) -> Columns:
        """Right by the beam, the gain, and the greedy answer's probability."""
        columns: Columns = {}
        if evaluation.wants("mode_probability"):
            columns["confidence"] = (confidence(evaluation, "answer"), 3)
        if evaluation.wants("beam_exact_match", "beam_gain"):
            by_beam, greedy = self._right(evaluation)
            columns |= {"beam_exact_match": (by_beam, 0), "beam_gain": (by_beam - greedy, 0)}
        return columns

    def _right(self, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """Whether the beam's best answer is right, and the greedy one, in percent."""
        from methods.elicitation.labelling import beam_search

        testbed = evaluation.testbed
        found, _ = beam_search(
            evaluation.model,
            testbed.tokenizer,
            evaluation.prompts[: self.examples],
            beams=self.beams,
            max_new_tokens=testbed.max_completion_tokens,
            batch_size=self.batch,
        )
        score, tokenizer = score_of(type(evaluation.task), RIGHT).function, testbed.tokenizer
        references = evaluation.references[: len(found)]
        # Read back as the task reads answers: the text of the best beam, or nothing.
        best = [tokenizer(texts[0])["input_ids"] if texts else [] for texts in found]
        greedy = evaluation.said(evaluation.greedy)[: len(found)]
        return score(evaluation.task.said(best, tokenizer), references), score(greedy, references)
