"""Pronunciation with teachers of more sizes, and with teachers that see no more than the student does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reproductions.testbeds import pronunciation
from reproductions.testbeds.pronunciation import STUDENT_SHAPE, TEACHER_SHAPES, Pronunciation
from reproductions.testbeds.training import on_device

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from reproductions.engine.run import Run

# By the number of parameters over the student's 51,072.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    **TEACHER_SHAPES,  # small 1.7, medium 5.6, large 20.4
    "student": STUDENT_SHAPE,
    "matched": {"layers": 2, "hidden": 80, "heads": 2, "intermediate": 160},  # 2.7
    "twelve": {"layers": 3, "hidden": 144, "heads": 3, "intermediate": 288},
}


class PronunciationSizes(Pronunciation):
    """The same testbed, with teachers of the sizes in SHAPES; figures and the "medium" teacher are everybody's."""

    def teacher(self, run: Run, size: str = "medium") -> PreTrainedModel:
        """The teacher of a size, trained as all teachers are; cached, frozen, on `run.device`."""
        if size in TEACHER_SHAPES:
            return super().teacher(run, size)
        return self._trained(run, SHAPES[size], self.teacher_train, pronunciation.TEACHER_TRAINING, 0, {})

    def corpus_teacher(
        self, run: Run, corpus: Dataset, *, shape: str, seed: int, training: Mapping[str, Any]
    ) -> PreTrainedModel:
        """A teacher trained on the first words only, which `corpus` holds; cached, frozen, on `run.device`."""
        return self._trained(run, SHAPES[shape], corpus, training, seed, {"words": len(corpus)})

    def _trained(
        self,
        run: Run,
        shape: Mapping[str, Any],
        rows: Dataset,
        training: Mapping[str, Any],
        seed: int,
        more: Mapping[str, Any],
    ) -> PreTrainedModel:
        def build() -> PreTrainedModel:
            return self._fine_tune(self._scratch(shape, seed=seed), rows, run, training, "teacher")

        key = {"shape": shape, "training": training, "seed": seed, **more}
        return on_device(run.cached_model("teacher", key, build), run).eval().requires_grad_(False)
