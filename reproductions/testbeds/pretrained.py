"""Teacher and student as they were published: what the testbeds of scale paper have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel

from reproductions.engine.errors import KDError
from reproductions.testbeds.sources import load_pretrained
from reproductions.testbeds.training import fine_tune, on_device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reproductions.engine.run import Run


class PretrainedPair:
    """The models of a testbed, from KD_MODEL_DIR or the hub.

    A testbed sets `teacher_id`, `student_id` (hub ids), `tokenizer`, `train` and both limits. Where it has a
    `teacher_training` (fields of SFTConfig), the teacher is fine-tuned on `sft_rows` with it, else it is the published
    one. `sft_rows`, cut at `max_sft_tokens`, are what the students of `sft_start` learn too: the training rows, where
    a testbed says nothing else.
    """

    teacher_id: str
    student_id: str
    tokenizer: PreTrainedTokenizerBase
    train: Dataset
    max_prompt_tokens: int
    max_completion_tokens: int

    @property
    def teacher_training(self) -> Mapping[str, Any] | None:
        return None

    @property
    def sft_rows(self) -> Dataset:
        return self.train

    @property
    def max_sft_tokens(self) -> int:
        return self.max_prompt_tokens + self.max_completion_tokens

    def teacher(self, run: Run) -> PreTrainedModel:
        """The teacher, frozen on `run.device`; bf16 weights under `precision: bf16-autocast`."""
        import torch

        precision, training = run.settings.get("precision", "fp32"), self.teacher_training

        def build() -> PreTrainedModel:
            model = on_device(self._published(self.teacher_id), run)
            return self._fine_tune(model, run, training or {}, "teacher")

        if training is None:
            model = self._published(self.teacher_id)
        else:
            key = {"model": self.teacher_id, "training": training, "precision": precision, "seed": 0}
            model = run.cached_model("teacher", key, build)
        if precision == "bf16-autocast":
            model.to(torch.bfloat16)  # type: ignore[arg-type]  # as in on_device
        return on_device(model, run).eval().requires_grad_(False)

    def student(self, run: Run) -> PreTrainedModel:
        """The published student; the same for every seed. Raises KDError where it lacks some of the tokens."""
        model = self._published(self.student_id)
        rows = model.config.vocab_size
        if len(self.tokenizer) > rows:
            raise KDError(f"{self.student_id} has {rows} tokens, its tokenizer here {len(self.tokenizer)}")
        return on_device(model, run)

    def sft_start(self, run: Run) -> PreTrainedModel:
        """The student after the SFT of `settings["sft_start"]` (SFTConfig fields); cached per seed."""
        training = dict(run.settings["sft_start"])
        precision = run.settings.get("precision", "fp32")
        key = {"model": self.student_id, "training": training, "precision": precision, "seed": run.seed}

        def build() -> PreTrainedModel:
            return self._fine_tune(self.student(run), run, training, "sft_start")

        return on_device(run.cached_model("sft-start", key, build), run)

    def _fine_tune(
        self, model: PreTrainedModel, run: Run, training: Mapping[str, Any], phase: str
    ) -> PreTrainedModel:
        limit = self.max_sft_tokens
        return fine_tune(model, self.sft_rows, self.tokenizer, run, training, max_tokens=limit, phase=phase)

    @staticmethod
    def _published(hub_id: str) -> PreTrainedModel:
        model, _ = load_pretrained(hub_id)
        assert model is not None
        return model


class TwoTokenizers(PretrainedPair):
    """A pair whose teacher reads other tokens: `other_teacher` with `teacher_tokenizer`.

    Rows have a `teacher_prompt` beside the student's `prompt`: each model is asked as it was published.
    """

    teacher_tokenizer: PreTrainedTokenizerBase

    def teacher(self, run: Run) -> PreTrainedModel:
        """There is none with the student's tokens. Raises KDError."""
        raise KDError(f"{self.teacher_id} does not read the tokens of {self.student_id}")

    def other_teacher(self, run: Run) -> PreTrainedModel:
        """The teacher, frozen on `run.device`."""
        return super().teacher(run)

    @staticmethod
    def _asked(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
        """A prompt by a chat template, without the BOS that the tokenizer adds itself."""
        text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        return text.removeprefix(str(tokenizer.bos_token or ""))
