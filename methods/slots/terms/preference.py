"""Losses that set a better answer against a worse one: of a prompt's two whole answers, or token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import MethodError
from methods.losses.fused.linear import linear_log_probs
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.scores import shared, side_of
from methods.slots.targets import linear
from methods.slots.term import IDS, NOTHING, Term, Weight, Window
from methods.slots.terms.chunks import by_chunk

FORMS = ("sigmoid", "square", "hinge")


class _Preference(Term):
    """What both have: beta, and what a margin costs."""

    def __init__(self, beta: float, form: str, weight: Weight):
        if not beta > 0:
            raise MethodError(f"beta is {beta}, not positive")
        if form not in FORMS:
            raise MethodError(f"no form {form!r}; one of {', '.join(FORMS)}")
        self.beta, self.form, self.weight = beta, form, weight

    def cost(self, margins: Tensor) -> Tensor:
        """Sum over margins (N,) in nats."""
        if self.form == "sigmoid":
            return -functional.logsigmoid(self.beta * margins).sum()
        if self.form == "hinge":
            return (1 - self.beta * margins).clamp(min=0).sum()
        return (margins - 1 / (2 * self.beta)).square().sum()


@component("term", "preference")
class Preference(_Preference):
    """Mean over pairs of answers of -log sigma(beta * m), m = r(better) - r(worse), r(y) = log q(y) - log p(y).

    Sequences 2i and 2i + 1 of a micro-batch are the better and the worse answer to one prompt, as the samplers
    "with-student", "paired-student" and "paired" write them. The reference p is the teacher of that number, or nobody
    (null). `per_token` divides r by the answer's tokens. `form` "square" is (m - 1 / (2 beta))^2, "hinge"
    max(0, 1 - beta * m).
    Source: DPKD, arXiv 2406.19774 (the teacher as reference, per token); DPO, arXiv 2305.18290; IPO, arXiv 2310.12036
    (square); SimPO, arXiv 2405.14734 (no reference, per token); PLaD, arXiv 2406.02886 (a hinge, no reference). Raises
    MethodError for sequences that are no pairs.
    """

    pairs = True

    def __init__(
        self,
        beta: float = 0.1,
        *,
        reference: int | None = 0,
        per_token: bool = True,
        form: str = "sigmoid",
        weight: Weight = 1.0,
    ):
        super().__init__(beta, form, weight)
        self.reference, self.per_token = reference, per_token
        self.reads = NOTHING if reference is None else IDS

    def begin_step(self, window: Window) -> None:
        same = [pair for batch in window.batches for pair in _same_prompts(batch)]
        rows = sum(len(batch["labels"]) for batch in window.batches)
        # One alone is what an epoch leaves over, but not where every step has one alone: nothing would be compared.
        left_over = rows == 1 and _rows_of_a_batch(window.trainer) != 1
        if not all(same) or not (same or left_over):
            raise MethodError(
                "preference compares two answers to a prompt, side by side in a micro-batch: take the sampler "
                '"with-student", "paired-student" or "paired", and an even number of sequences'
            )

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        return _pairs(batch).sum()

    def total(self, rows: Rows) -> Tensor:
        gains = linear_log_probs(rows.hidden, rows.head, rows.labels)
        if self.reference is not None:
            if self.reference >= len(rows.teachers):
                raise MethodError(f"no teacher number {self.reference}: there are {len(rows.teachers)}")
            states, head = linear(rows.teachers[self.reference])
            gains = gains - linear_log_probs(states, head, rows.labels).detach()
        there = _pairs(rows.batch)
        sums = gains.new_zeros(len(rows.batch["labels"])).index_add(0, rows.sequence, gains)
        if self.per_token:
            lengths = torch.bincount(rows.sequence, minlength=len(sums)).clamp(min=1)
            sums = sums / lengths
        better, worse = sums[: 2 * len(there)].view(-1, 2)[there].unbind(1)
        return self.cost(better - worse)


@component("term", "first-choices")
class FirstChoices(_Preference):
    """Mean over completion tokens of -log sigma(beta * m): the teacher's first choice against the student's.

    m = log q(t) - log q(s) - log p(t) + log p(s) with t the first choice of p and s that of q, over the ids that both
    know. Where they agree it is log 2 whatever q is; elsewhere m is negative, so log 2 is the least there is.
    Source: the official code of DPKD, arXiv 2406.19774, which sets these tokens in the place of answers.
    """

    def __init__(
        self,
        beta: float = 0.1,
        *,
        form: str = "sigmoid",
        weight: Weight = 1.0,
        index: int = 0,
        chunk_size: int | None = None,
    ):
        super().__init__(beta, form, weight)
        self.index, self.chunk_size = index, chunk_size

    def total(self, rows: Rows) -> Tensor:
        size = shared(rows, self.index)
        states, head = side_of(rows, "teacher", self.index)

        def part(ours: Tensor, theirs: Tensor) -> Tensor:
            q, p = rows.head.logits(ours, size), head.logits(theirs, size).detach()
            first, own = p.argmax(-1, keepdim=True), q.argmax(-1, keepdim=True)
            # log-probabilities of one distribution differ as its logits do
            margins = (q.gather(1, first) - q.gather(1, own)) - (p.gather(1, first) - p.gather(1, own))
            return self.cost(margins.squeeze(1))

        return by_chunk(part, size, self.chunk_size, rows.hidden, states)


def _rows_of_a_batch(trainer: Any) -> int | None:
    """How many rows of the data a micro-batch has; None where nobody trains."""
    return None if trainer is None else int(trainer.args.per_device_train_batch_size)


def _same_prompts(batch: Mapping[str, Any]) -> list[bool]:
    """Of sequences 2i and 2i + 1 of a batch, whether they go on from the same tokens."""
    ids, prompts = batch["input_ids"], (batch["attention_mask"] != 0) & (batch["labels"] == -100)
    return [
        torch.equal(*(ids[place][prompts[place]] for place in (n, n + 1))) for n in range(0, len(ids) - 1, 2)
    ]


def _pairs(batch: Mapping[str, Any]) -> Tensor:
    """(B // 2,) which of them are two answers to a prompt, of a token or more each."""
    same = torch.tensor(_same_prompts(batch), dtype=torch.bool, device=batch["labels"].device)
    answered = (batch["labels"][:, 1:] != -100).any(1)
    return same & answered[: 2 * len(same)].view(-1, 2).all(1)
