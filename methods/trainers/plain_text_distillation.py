"""White-box distillation with a language-modelling loss on plain text beside it, as DistiLLM trains."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from methods.slots.plain_text import PlainText
from methods.trainers.distillation import DistillationTrainer, SFTConfig, Term

__all__ = ["PlainTextDistillationTrainer", "SFTConfig", "Term"]


class PlainTextDistillationTrainer(DistillationTrainer):
    """The terms of DistillationTrainer plus `text_weight` * mean -log q(token) over as many rows of plain text.

    `corpus` has a column `text`, cut at `text_length` tokens. Its mean is over its own tokens of the window.
    Source: DistiLLM, arXiv 2402.03898, and its official code (finetune.py: `lm_coef`, `pt_loss`).
    """

    def __init__(
        self, *args: Any, corpus: Dataset, text_weight: float = 1.0, text_length: int = 512, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self.text_weight = text_weight
        self._corpus = PlainText(
            corpus,
            self.processing_class,
            self.accelerator,
            batch_size=self.args.per_device_train_batch_size,
            max_length=text_length,
            seed=self.args.seed,
        )

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        plain, tensors = super().remembered()
        return plain | {"corpus": self._corpus.state()}, tensors

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().recall(plain, tensors)
        self._corpus.restore(plain["corpus"])

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch, text in zip(batches, self._corpus.window(len(batches)) if batches else [], strict=True):
            batch["text"] = text
            # `compute_loss` divides every sum by the completion tokens of the window; this one has its own count.
            batch["text_scale"] = self.text_weight * count / text.tokens.clamp(min=1)
        return batches, count

    def row_loss(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> Tensor:
        total = super().row_loss(core, hidden, labels, inputs, rows)
        if "text" in inputs:
            loss, read = inputs["text"].loss(core)
            self.count_tokens("student", read)
            total = total + inputs["text_scale"] * loss
        return total
