"""What every trainer on rows of token ids shares: TRL's loop and data, our counting, normalisation and memory."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.modeling.core import attached, core_model
from methods.trainers.memory import Remembers
from methods.trainers.trl_compat import SFTTrainer

TERMS = "loss_terms"


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Whatever happens inside, Python, numpy and torch go on with the random numbers that were next."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class TrainsTerms(Remembers):
    """Stands before a transformers Trainer: what trains along with the model, and how many tokens each model has read.

    Terms in `_learning` learn with the student: part of it while it trains, beside it in its checkpoints.
    `token_counts` says how many tokens each model has processed.
    """

    _learning: Any = ()  # nn.ModuleList, where there are any

    # `compute_loss` divides by the whole window, so Trainer must not divide again.
    loss_is_scaled_for_ga = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._tokens: dict[str, Tensor] = {}

    @property
    def progress(self) -> float:
        """Optimizer steps done over all steps."""
        return self.state.global_step / max(1, self.state.max_steps)

    def trained_along(self) -> dict[str, nn.Module]:
        return {TERMS: self._learning} if len(self._learning) else {}

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        set_apart(optimizer, self._learning, self.args.learning_rate)
        return optimizer

    def train(self, *args: Any, **kwargs: Any) -> Any:
        core: Any = core_model(self.accelerator.unwrap_model(self.model))
        modules = {n: m for n, m in self.trained_along().items() if m.state_dict() and not hasattr(core, n)}
        left_out = core._keys_to_ignore_on_save
        own = {f"{name}.{key}" for name, module in modules.items() for key in module.state_dict()}
        with attached(core, **modules):
            # Beside the student in its checkpoints, in what the trainer remembers, not inside it.
            core._keys_to_ignore_on_save = {*(left_out or ()), *own} if own else left_out
            try:
                return super().train(*args, **kwargs)
            finally:
                core._keys_to_ignore_on_save = left_out

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        # Loading and evaluation leave a model in evaluation mode, and what samplers do for the window is training too.
        assert self.model is not None
        if not self.model.training:
            self.model.train()
        return super().get_batch_samples(epoch_iterator, num_batches, device)

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


class RowsTrainer(TrainsTerms, SFTTrainer):  # type: ignore[misc]
    """TRL's data, collation and configuration (`prompt` and `completion` columns, right padding); the loss is not.

    A subclass gives `compute_loss`, which divides by the whole accumulation window.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if getattr(self.args, "packing", False):
            raise MethodError("packing needs attention that keeps documents apart; set packing=False")


def set_apart(optimizer: torch.optim.Optimizer, terms: Iterable[Any], rate: float) -> None:
    """Terms with a `learning_rate_factor` learn at that times the rate, in groups of their own."""
    for term in terms:
        factor: Any = getattr(term, "learning_rate_factor", None)
        if factor is None:
            continue
        own = {id(p) for p in term.parameters()}
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if id(p) not in own]
        optimizer.add_param_group({"params": list(term.parameters()), "lr": rate * float(factor)})
