"""Word-level knowledge distillation: match the teacher's next-token distributions on fixed text."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from methods.algorithms.sft import SFTConfig, SFTTrainer
from methods.errors import MethodError
from methods.fused import FUSED_DIVERGENCES, head_of, linear_cross_entropy, linear_divergence
from methods.models import freeze, hidden_states, shared_vocabulary

__all__ = ["SFTConfig", "WordKDTrainer"]


class WordKDTrainer(SFTTrainer):
    """Token-level divergence from a white-box teacher on the tokens of a data set.

    loss = (1 - distillation_weight) * NLL(labels) + distillation_weight * D(teacher, student), mean over completion
    tokens. `divergence` is a name of `methods.divergences`, `divergence_settings` its further arguments (`skew`,
    `teacher_weight`, ...). The teacher is frozen, never resized: heads of different size share their leading ids.
    Source: Kim and Rush, arXiv 1606.07947, section 3.1; the weight is `kd-ratio` of MiniLLM's scripts (0.5 there).
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel,
        teacher_tokenizer: Any = None,
        divergence: str = "forward_kl",
        divergence_settings: Mapping[str, Any] | None = None,
        temperature: float = 1.0,
        distillation_weight: float = 1.0,
        **kwargs: Any,
    ):
        if divergence not in FUSED_DIVERGENCES:
            raise MethodError(f"unknown divergence {divergence!r}; one of {', '.join(FUSED_DIVERGENCES)}")
        if not 0 <= distillation_weight <= 1:
            raise MethodError(f"distillation_weight is {distillation_weight}, not between 0 and 1")
        super().__init__(*args, **kwargs)
        self.divergence, self.temperature = divergence, temperature
        self.divergence_settings = dict(divergence_settings or {})
        self.distillation_weight = distillation_weight
        student = self.accelerator.unwrap_model(self.model)
        shared_vocabulary(student, teacher, self.processing_class, teacher_tokenizer)  # type: ignore[arg-type]
        self.teacher = self.accelerator.prepare_model(freeze(teacher), evaluation_mode=True)

    def row_loss(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> Tensor:
        teacher = self.accelerator.unwrap_model(self.teacher)
        with torch.no_grad():
            teacher_hidden = hidden_states(teacher, inputs["input_ids"], inputs["attention_mask"])[:, :-1][
                rows
            ]
        self.count_tokens("teacher", inputs["attention_mask"].sum())
        head = head_of(core)
        loss = (
            self.distillation_weight
            * linear_divergence(
                hidden,
                head,
                teacher_hidden,
                head_of(teacher),
                divergence=self.divergence,
                temperature=self.temperature,
                **self.divergence_settings,
            ).total
        )
        if self.distillation_weight < 1:
            loss = loss + (1 - self.distillation_weight) * linear_cross_entropy(hidden, head, labels).total
        return loss
