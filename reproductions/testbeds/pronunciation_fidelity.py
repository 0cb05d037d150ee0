"""Pronunciation with a second size of student, a teacher that knows no words, and two ways to resemble the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds import pronunciation as base
from reproductions.testbeds.training import SKIP_PREPARATION, encode, on_device

if TYPE_CHECKING:
    from reproductions.engine.run import Run

STUDENT_SHAPES = {
    "small": base.STUDENT_SHAPE,  # everybody's
    "large": {"layers": 3, "hidden": 80, "heads": 4, "intermediate": 160},
}
BASELINES = {"small": "sft", "large": "sft-large-student"}  # the arm whose learning rate the baseline takes
UNTUNED = "untuned"


class PronunciationFidelity(base.Pronunciation):
    """The same testbed, which also says how like its teacher a student is, and what it gained over SFT.

    `teacher_agreement`: its greedy answer is the teacher's, right or wrong; `fidelity`: ROUGE-L between the two;
    `gain`: points of greedy exact match over the SFT of the same size, seed and number of steps. "The teacher" is
    the medium one for every arm. Source: arXiv 2505.15442 (there BLEU between rationales takes the place of ROUGE-L).
    """

    metrics = base.METRICS | {
        "teacher_agreement": Metric("mean", ("agreement",), True, "same greedy answer as the teacher", "%"),
        "fidelity": Metric("mean", ("fidelity",), True, "ROUGE-L with the teacher's greedy answer", "%"),
        "gain": Metric("mean", ("gain",), True, "gain over SFT, exact match, greedy", "%"),
    }

    def teacher(self, run: Run, size: str = "medium") -> PreTrainedModel:
        """As everywhere; "untuned" is of medium size and knows phonemes, but not which word they belong to."""
        if size != UNTUNED:
            return super().teacher(run, size)

        def build() -> PreTrainedModel:
            model = self._scratch(base.TEACHER_SHAPE, seed=0)
            rows = strangers(self.teacher_train)
            return self._fine_tune(model, rows, run, base.TEACHER_TRAINING, "untuned teacher")

        key = {"shape": base.TEACHER_SHAPE, "training": base.TEACHER_TRAINING, "rows": "strangers", "seed": 0}
        return on_device(run.cached_model("teacher", key, build), run).eval().requires_grad_(False)

    def sft_start(self, run: Run, size: str = "small") -> PreTrainedModel:
        """The common start of the students of a size of STUDENT_SHAPES."""
        if size == "small":
            return super().sft_start(run)
        training, shape = dict(run.settings["sft_start"]), STUDENT_SHAPES[size]

        def build() -> PreTrainedModel:
            return self._fine_tune(
                on_device(self._scratch(shape, run.seed), run), self.train, run, training, "sft_start"
            )

        key = {"shape": shape, "training": training, "seed": run.seed}
        return on_device(run.cached_model("sft-start", key, build), run)

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """As everywhere, and the comparisons with the teacher and with SFT."""
        columns = super().evaluate(model, run, split=split, limit=limit)
        count = len(columns["correct"])
        prompts = list(getattr(self, split)["prompt"])
        own = self._greedy(model, prompts[:count])
        theirs = self._teacher_answers(run, split, prompts)[:count]
        baseline = np.array(self._baseline(run, size_of(model), split)[:count])
        return columns | ev.rounded(
            {
                "agreement": (100 * ev.exact_match(own, theirs), 0),
                "fidelity": (ev.rouge_l(own, theirs), 1),
                "gain": (100 * (np.array(columns["correct"]) - baseline), 0),
            }
        )

    def _greedy(self, model: PreTrainedModel, prompts: list[str]) -> list[list[int]]:
        ids, mask = ev.encode_prompts(self.tokenizer, prompts, self.max_prompt_tokens)
        eos = [self.tokenizer.eos_token_id]
        return ev.sample(
            model, ids, mask, max_new_tokens=self.max_completion_tokens, eos_ids=eos,
            pad_id=self.tokenizer.pad_token_id,
        ).answers(eos)  # fmt: skip

    def _teacher_answers(self, run: Run, split: str, prompts: list[str]) -> list[list[int]]:
        key = {
            "shape": base.TEACHER_SHAPE,
            "training": base.TEACHER_TRAINING,
            "split": split,
            "rows": len(prompts),
        }
        return run.cached_json("greedy-answers", key, lambda: self._greedy(self.teacher(run), prompts))

    def _baseline(self, run: Run, size: str, split: str) -> list[float]:
        """Whether the SFT of this size and of the run's seed is right, row by row."""
        rows: Dataset = getattr(self, split)
        own = run.settings.get("arms", {}).get(BASELINES[size], {})
        training: Mapping[str, Any] = {**run.settings.get("training", {}), **own}

        def build() -> list[float]:
            from methods.slots.terms import NextToken
            from methods.trainers import Distiller, SFTConfig

            trainer = Distiller(
                self.sft_start(run, size),
                terms=[NextToken()],
                args=run.arguments(SFTConfig, **training, **SKIP_PREPARATION),
                train_dataset=encode(self.train, self.tokenizer, base.MAX_TOKENS),
                processing_class=self.tokenizer,
            )
            answers = self._greedy(run.train(trainer, phase="sft baseline"), list(rows["prompt"]))
            return ev.exact_match(answers, self.tokenizer(list(rows["completion"]))["input_ids"]).tolist()

        key = {
            "shape": STUDENT_SHAPES[size], "sft_start": dict(run.settings["sft_start"]), "training": dict(training),
            "split": split, "rows": len(rows), "seed": run.seed,
        }  # fmt: skip
        return run.cached_json("sft-baseline", key, build)


def size_of(model: PreTrainedModel) -> str:
    """The name of the model's shape; that of the small student for anything else, such as a teacher."""
    sizes = {shape["hidden"]: name for name, shape in STUDENT_SHAPES.items()}
    return sizes.get(model.config.hidden_size, "small")


def strangers(rows: Dataset) -> Dataset:
    """The rows with every answer given to the next prompt: the language of the answers, and nothing about the task."""
    completions = list(rows["completion"])
    return Dataset.from_dict(
        {"prompt": list(rows["prompt"]), "completion": [completions[-1], *completions[:-1]]}
    )


def load() -> PronunciationFidelity:
    """The testbed on the installed lexicon; raises KDError where the package is missing."""
    return PronunciationFidelity(base.read_lexicon(base.lexicon_path()))
