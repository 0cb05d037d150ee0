"""The pronunciation testbed with an oracle above the teacher: how far a student of the teacher drifts from the oracle.

The oracle is everybody's teacher here; the imperfect teacher is smaller and saw only some of the oracle's answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, TrainerCallback

from methods.elicitation.labelling import label_with_teacher
from methods.modeling.core import snapshot
from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds import pronunciation
from reproductions.testbeds.judging import Judge
from reproductions.testbeds.pronunciation import METRICS, TEACHER_SHAPES, Pronunciation, load
from reproductions.testbeds.training import on_device

if TYPE_CHECKING:
    from reproductions.engine.run import Run

SHAPE = TEACHER_SHAPES["small"]
COLUMNS = {
    "golden": "KL(oracle || student), nats",
    "proxy": "KL(teacher || student), nats",
    "golden_seen": "KL(oracle || student) on training words, nats",
    "proxy_seen": "KL(teacher || student) on training words, nats",
    "golden_rise": "rise of KL(oracle || student), nats",
    "proxy_rise": "rise of KL(teacher || student), nats",
}


class PronunciationHacking(Pronunciation):
    """The same testbed; a student of the imperfect teacher is measured against that teacher and against the oracle.

    golden and proxy: KL summed over the answer that the oracle or the teacher sampled to each word, nats a word; the
    same over as many words of the training data (`_seen`: the first ones, which fixed data hold); and what golden and
    proxy have risen by since the checkpoint that an arm kept, 0 where it kept none.
    Hacking is a proxy that falls while golden rises. Source: arXiv 2502.02671.
    """

    metrics = METRICS | {name: Metric("mean", (name,), False, title) for name, title in COLUMNS.items()}

    def __init__(self, lexicon: Mapping[str, str]) -> None:
        super().__init__(lexicon)
        self._proxy_judge = Judge(
            self.tokenizer,
            self.imperfect_teacher,
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_completion_tokens,
            batch=4096,
        )
        self._kept: tuple[Run, PreTrainedModel] | None = None

    def _teacher_key(self, run: Run) -> dict[str, Any]:
        """What makes the imperfect teacher: data, shape, training, and the oracle's own."""
        oracle = {"shape": pronunciation.TEACHER_SHAPE, "training": pronunciation.TEACHER_TRAINING}
        settings = {name: dict(run.settings[name]) for name in ("imperfect_teacher", "teacher_data")}
        return {**settings, "shape": SHAPE, "oracle": oracle, "seed": 0}

    def imperfect_teacher(self, run: Run) -> PreTrainedModel:
        """A small model that learnt from the oracle's answers to the last training prompts; cached, frozen."""

        def build() -> PreTrainedModel:
            data = dict(run.settings["teacher_data"])
            prompts = list(self.train["prompt"])[-data.pop("prompts") :]
            rows = self._answers(run, self.teacher(run), prompts, data)
            model = self._scratch(SHAPE, seed=0)
            training = run.settings["imperfect_teacher"]
            return self._fine_tune(model, Dataset.from_list(rows), run, training, "teacher")

        made = run.cached_model("imperfect-teacher", self._teacher_key(run), build)
        return on_device(made, run).eval().requires_grad_(False)

    def fixed_answers(self, run: Run, *, prompts: int, samples: int) -> Dataset:
        """The imperfect teacher's answers to the first prompts of the training data, `samples` to each; made once."""
        sampling = dict(run.settings["labelling"])
        sampling.pop("prompts", None)
        key = {
            "prompts": prompts,
            "samples": samples,
            "sampling": sampling,
            "teacher": self._teacher_key(run),
        }
        asked = list(self.train["prompt"])[:prompts] * samples

        def build() -> list[dict[str, str]]:
            return self._answers(run, self.imperfect_teacher(run), asked, sampling)

        return Dataset.from_list(run.cached_json("hacking-answers", key, build))

    def _answers(
        self, run: Run, model: PreTrainedModel, prompts: list[str], sampling: Mapping[str, Any]
    ) -> list[dict[str, str]]:
        rows, report = label_with_teacher(
            model, self.tokenizer, prompts, max_new_tokens=self.max_completion_tokens, **sampling
        )
        run.ledger.add_tokens({"teacher": report.teacher_tokens, "generated": report.generated_tokens})
        run.ledger.add_rollouts({n: getattr(report, n) for n in ("completions", "truncated", "empty")})
        return rows.to_list()

    def keep(self, run: Run, model: PreTrainedModel) -> None:
        """Remember the student as it is now: the rises of this run are counted from here."""
        self._kept = run, snapshot(model)

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        columns = super().evaluate(model, run, split=split, limit=limit)
        asked = list(getattr(self, split)["prompt"])[:limit]
        seen = list(self.train["prompt"])[: len(asked)]
        found: dict[str, np.ndarray] = {}
        for name, judge in {"golden": self._judge, "proxy": self._proxy_judge}.items():
            far = partial(judge.teacher_divergence, run=run)
            found[name] = far(model, prompts=asked)
            found[name + "_seen"] = np.resize(far(model, prompts=seen), len(asked))
            before = self._kept[1] if self._kept is not None and self._kept[0] is run else None
            found[name + "_rise"] = found[name] - (
                found[name] if before is None else far(before, prompts=asked)
            )
        return columns | ev.rounded({name: (found[name], 3) for name in COLUMNS})


class KeepAt(TrainerCallback):
    """Hands the student to the testbed after `fraction` of the steps."""

    def __init__(self, run: Run, fraction: float) -> None:
        self.run, self.fraction = run, fraction

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == max(1, round(self.fraction * state.max_steps)):
            testbed: Any = self.run.testbed
            testbed.keep(self.run, kwargs["model"])


def load_hacking() -> Pronunciation:
    """The testbed on the installed lexicon."""
    return load(PronunciationHacking)
