"""White-box distillation on a mixture of domains that follows where the student is furthest behind its teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_cross_entropy
from methods.modeling.core import core_model, hidden_states
from methods.slots.domains import DomainSampler
from methods.slots.samplers import Example
from methods.trainers.distillation import DistillationTrainer, SFTConfig, Term, collate

__all__ = ["DomainDistillationTrainer", "SFTConfig", "Term"]

VALIDATION_ROWS = 256  # measured together


class DomainDistillationTrainer(DistillationTrainer):
    """Terms on examples drawn from domains; the domains' weights follow validation perplexities of student and teacher.

    `domains` and `validation` hold tokenised rows (`input_ids`, `labels` with -100 on the prompt) by domain. The train
    dataset only says how many rows a window has. Every `every` optimizer steps the student is measured on all
    validation rows, in evaluation mode; the first teacher once. DDK's terms are cross entropy and 0.2 forward KL.
    Source: DDK, arXiv 2407.16154.
    """

    def __init__(
        self,
        *args: Any,
        domains: Mapping[str, Any],
        validation: Mapping[str, Any],
        every: int,
        smoothing: float = 0.5,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.sampler is not None:
            raise MethodError("the domains are the sampler; give no other")
        if set(domains) != set(validation):
            raise MethodError(f"validation rows of {sorted(validation)} for the domains {sorted(domains)}")
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        self._checks = {name: examples_in(rows)[rank::ranks] for name, rows in validation.items()}
        self._teacher_perplexities: dict[str, float] | None = None
        self.sampler = self.domain_sampler = DomainSampler(
            {name: examples_in(rows) for name, rows in domains.items()},
            self._both_perplexities,
            every=every,
            smoothing=smoothing,
            seed=int(self.args.seed),
            rank=rank,
            ranks=ranks,
        )

    def _both_perplexities(self) -> tuple[dict[str, float], dict[str, float]]:
        if self._teacher_perplexities is None:
            self._teacher_perplexities = self._perplexities(self.teachers[0])
        return self._perplexities(self.model), self._teacher_perplexities

    @torch.no_grad()
    def _perplexities(self, prepared: Any) -> dict[str, float]:
        """exp of the mean -log q(label) over the validation tokens of each domain, on all ranks."""
        model = self.accelerator.unwrap_model(prepared)
        core, training = core_model(model), model.training
        sums = torch.zeros(len(self._checks), 2, dtype=torch.float64, device=self.accelerator.device)
        model.eval()
        for place, examples in enumerate(self._checks.values()):
            for start in range(0, len(examples), VALIDATION_ROWS):
                sums[place] += self._nll(core, examples[start : start + VALIDATION_ROWS])
        model.train(training)
        totals = self.accelerator.reduce(sums, "sum").tolist()
        return {
            name: math.exp(nll / max(1.0, n)) for name, (nll, n) in zip(self._checks, totals, strict=True)
        }

    def _nll(self, core: nn.Module, examples: Sequence[Example]) -> torch.Tensor:
        """Sum of -log q(label) and number of labels of some examples: (2,)."""
        batch = collate(examples, self.processing_class.pad_token_id, self.accelerator.device)  # type: ignore[union-attr]
        with self.accelerator.autocast():
            hidden = hidden_states(core, batch["input_ids"], batch["attention_mask"])[:, :-1]
            found = linear_cross_entropy(hidden, head_of(core), batch["labels"][:, 1:])
        return torch.stack(
            [found.total.double(), torch.tensor(float(len(found.values))).to(found.total).double()]
        )


def examples_in(rows: Any) -> list[Example]:
    """Prompt and completion ids of tokenised rows; the completion begins at the first label."""
    examples = []
    for ids, labels in zip(rows["input_ids"], rows["labels"], strict=True):
        start = next((i for i, label in enumerate(labels) if label != -100), len(ids))
        examples.append(Example(list(ids[:start]), list(ids[start:])))
    return examples
