"""Supervised fine-tuning on fixed data: the trainer that every fixed-data method here extends."""

from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_cross_entropy
from methods.modeling.core import attached, core_model, hidden_states
from methods.modeling.normalise import window_mean
from methods.trainers.memory import Remembers
from methods.trainers.trl_compat import SFTConfig, through_wrapper
from methods.trainers.trl_compat import SFTTrainer as TRLSFTTrainer

__all__ = ["SFTConfig", "SFTTrainer"]


class SFTTrainer(Remembers, TRLSFTTrainer):
    """Negative log-likelihood of completions, fused with the LM head, normalised over the accumulation window.

    Data, collation and configuration are TRL's (`prompt` and `completion` columns, right padding). Only the loss is
    ours: rows outside the completion never reach the vocabulary, and positions are always passed. A method with another
    loss on fixed data overrides `row_loss`. `token_counts` says how many tokens each model has processed.
    Source: the survey, arXiv 2402.13116, section 3.2.1.
    """

    # `compute_loss` divides by the whole window, so Trainer must not divide again.
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if getattr(self.args, "packing", False):
            raise MethodError("packing needs attention that keeps documents apart; set packing=False")
        self._tokens: dict[str, Tensor] = {}

    def train(self, *args: Any, **kwargs: Any) -> Any:
        core = core_model(self.accelerator.unwrap_model(self.model))
        modules = {n: m for n, m in self.trained_along().items() if m.state_dict() and not hasattr(core, n)}
        with attached(core, **modules):
            return super().train(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # Loading and evaluation leave a model in evaluation mode, and what samplers do for the window is training too.
        assert self.model is not None
        self.model.train()
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def row_loss(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> Tensor:
        """Sum over N completion tokens of the loss: `hidden` (N, H) predicts `labels` (N,); nats.

        `inputs` is the collated batch and `rows` (B, L - 1) marks where the N rows stand in it.
        """
        return linear_cross_entropy(hidden, head_of(core), labels).total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise MethodError("the fused loss makes no logits to return")
        inner = self.accelerator.unwrap_model(model)
        core = core_model(inner)
        labels = inputs["labels"][:, 1:]
        rows = labels != -100

        def total() -> Tensor:
            hidden = hidden_states(core, inputs["input_ids"], inputs["attention_mask"])[:, :-1][rows]
            return self.row_loss(core, hidden, labels[rows], inputs, rows)

        loss = through_wrapper(model, inner, total)
        self.count_tokens("student", inputs["attention_mask"].sum())
        if num_items_in_batch is None:  # evaluation: the mean of this batch
            return loss / rows.sum().clamp(min=1)
        return window_mean(loss, num_items_in_batch, self.accelerator)

    def count_tokens(self, who: str, tokens: Tensor) -> None:
        """Add to the tokens that `who` ("student", "teacher") has processed; stays on the device."""
        if self.model is not None and self.model.training:
            self._tokens[who] = self._tokens.get(who, 0) + tokens.detach()

    @property
    def token_counts(self) -> dict[str, int]:
        """Tokens processed in training on this rank, prompts included, by model."""
        return {who: int(tokens) for who, tokens in self._tokens.items()}

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"tokens": self.token_counts}, {}

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        self._tokens = {
            who: torch.tensor(n, device=self.accelerator.device) for who, n in plain["tokens"].items()
        }
