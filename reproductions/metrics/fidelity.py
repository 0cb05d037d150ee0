"""How like its teacher a student is, and what it gained over fine-tuning without a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.metrics.answers import RIGHT, score_of
from reproductions.metrics.base import Columns, measurement
from reproductions.tasks.scores import percent_right, rouge_l

if TYPE_CHECKING:
    from reproductions.engine.work.run import Run
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task


@measurement("fidelity")
class Fidelity:
    """`teacher_agreement`: a greedy answer is the teacher's, right or wrong; `fidelity`: ROUGE-L between the two.

    The teacher is the same for every arm. Source: arXiv 2505.15442 (there BLEU between rationales takes the place of
    ROUGE-L).
    """

    def __init__(self, teacher: str = "main") -> None:
        self.teachers = (teacher,)

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`teacher_agreement`, `fidelity`."""
        return {
            "teacher_agreement": Metric(
                "mean", ("agreement",), True, "same greedy answer as the teacher", "%"
            ),
            "fidelity": Metric("mean", ("fidelity",), True, "ROUGE-L with the teacher's greedy answer", "%"),
        }

    def columns(self, evaluation: Evaluation) -> Columns:
        """Both of every prompt, on token ids."""
        own = evaluation.greedy.answers(evaluation.decoder.eos_ids)
        theirs = self._teacher_answers(evaluation)[: len(own)]
        return {"agreement": (percent_right(own, theirs), 0), "fidelity": (rouge_l(own, theirs), 1)}

    def _teacher_answers(self, evaluation: Evaluation) -> list[list[int]]:
        """To all prompts of the split, whatever part is measured."""
        testbed, run, name, prompts = (
            evaluation.testbed,
            evaluation.run,
            self.teachers[0],
            evaluation.all_prompts,
        )

        def build(run: Run) -> list[list[int]]:
            decoder = evaluation.decoder
            return decoder.greedy(testbed.teacher(run, name), run, prompts).answers(decoder.eos_ids)

        key = {**testbed.models.teacher_key(run, name), "split": evaluation.split, "rows": len(prompts)}
        return run.shared.data("greedy-answers", key, build)


@measurement("gain")
class Gain:
    """Points of greedy exact match over the SFT of the same size, seed and number of steps.

    `baselines`: by size of student, what its SFT has of its own beside settings["training"]: a learning rate.
    """

    teachers: tuple[str, ...] = ()

    def __init__(self, baselines: Mapping[str, Mapping[str, Any]]) -> None:
        self.baselines = baselines

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        """`gain`."""
        return {"gain": Metric("mean", ("gain",), True, "gain over SFT, exact match, greedy", "%")}

    def columns(self, evaluation: Evaluation) -> Columns:
        """Of every prompt -100, 0 or 100."""
        size = evaluation.testbed.models.size_of(evaluation.model)
        exact = score_of(type(evaluation.task), RIGHT).function
        own = exact(evaluation.said(evaluation.greedy), evaluation.references)
        return {"gain": (own - 100 * np.array(self.baseline(evaluation, size)[: len(own)]), 0)}

    def baseline(self, evaluation: Evaluation, size: str) -> list[float]:
        """Whether the SFT of this size and of the run's seed is right, row by row of the whole split."""
        testbed, run, prompts = evaluation.testbed, evaluation.run, evaluation.all_prompts
        training = {**run.settings.get("training", {}), **self.baselines[size]}

        def build(run: Run) -> list[float]:
            from methods.slots.terms import NextToken
            from methods.tokenizers.encoding import SKIP_PREPARATION, encode
            from methods.trainers import Distiller, SFTConfig

            trainer = Distiller(
                testbed.sft_start(run, size),
                terms=[NextToken()],
                args=run.arguments(SFTConfig, **training, **SKIP_PREPARATION),
                train_dataset=encode(testbed.train, testbed.tokenizer, testbed.task.limits.whole),
                processing_class=testbed.tokenizer,
            )
            model = run.train(trainer, phase="sft baseline")
            said = evaluation.said(evaluation.decoder.greedy(model, run, prompts))
            exact = score_of(type(evaluation.task), RIGHT).function
            return (exact(said, evaluation.task.references(evaluation.split)) / 100).tolist()

        key = {
            **testbed.models.student_key(size),
            "sft_start": dict(run.settings["sft_start"]),
            "training": training,
            "split": evaluation.split,
            "rows": len(prompts),
            "seed": run.seed,
        }
        return run.shared.data("sft-baseline", key, build)
