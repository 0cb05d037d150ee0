"""What weighs what: settings of a divergence that differ from row to row, and weights that change over the training.

Token weights are functions from `Rows` to a weight (N,) for each of them, without gradient.
Source of AdaptiveSkew and both shares: DistiLLM-2, arXiv 2503.07067, and its official code
(github.com/jongwooko/distillm-2, src/distillm_trainer.py), which writes what is `skew` here as alpha, and as beta the
growing share of the student's side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.losses.fused.linear import Head, linear_log_probs
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.targets import linear
from methods.slots.term import Window

SIDES = ("teacher", "student")


class RowSettings(Protocol):
    """Settings of a divergence that differ from row to row, such as a skew for each sequence."""

    def __call__(self, rows: Rows, mask: Tensor | None) -> dict[str, Tensor]:
        """By name, a value (N,) for each of the rows; only those inside `mask` (N,) count. No gradient."""
        ...

    def begin_step(self, window: Window) -> None:
        """Called on every rank before each optimizer step."""
        ...


@component("row-settings", "adaptive-skew")
class AdaptiveSkew:
    """A skew for each sequence y: clip(1 - (1 - base) anchor / gap(y), floor, base).

    gap(y) is the difference of both models' geometric mean token probabilities of y, that of `side` (who wrote y) less
    the other's; `anchor` is the mean gap over the sequences of the first `anchor_steps` steps, on all ranks. Until it
    is known, and where a gap is not positive, the skew is `base`. So sequences on which the models have come close get
    a sharper divergence.
    Source: DistiLLM-2, arXiv 2503.07067 (curriculum for alpha); the official code takes the anchor from its first
    logging window, 100 steps in its scripts.
    """

    def __init__(self, side: str, *, base: float = 0.1, floor: float = 0.01, anchor_steps: int = 100):
        if side not in SIDES:
            raise MethodError(f"unknown side {side!r}; one of {', '.join(SIDES)}")
        check_fraction("base", base)
        check_fraction("floor", floor)
        if floor > base or anchor_steps < 1:
            raise MethodError("an adaptive skew needs floor <= base and at least one step for its anchor")
        self.side, self.base, self.floor, self.anchor_steps = side, base, floor, anchor_steps
        self.anchor: float | None = None
        self._steps = 0
        self._sums: Tensor | None = None  # gaps and sequences so far

    def __call__(self, rows: Rows, mask: Tensor | None) -> dict[str, Tensor]:
        inside = torch.ones_like(rows.sequence, dtype=torch.bool) if mask is None else mask
        with torch.no_grad():
            gap, present = self._gaps(rows, inside)
            if self.anchor is None:
                if rows.hidden.requires_grad:
                    sums = torch.stack([gap[present].sum(), present.sum().to(gap.dtype)]).double()
                    self._sums = sums if self._sums is None else self._sums.to(sums) + sums
                skew = torch.full_like(gap, self.base)
            else:
                raw = 1 - (1 - self.base) * self.anchor / gap.clamp_min(torch.finfo(gap.dtype).tiny)
                skew = torch.where(gap > 0, raw.clamp(self.floor, self.base), self.base)
        return {"skew": skew[rows.sequence]}

    def _gaps(self, rows: Rows, inside: Tensor) -> tuple[Tensor, Tensor]:
        """For each sequence of the micro-batch: its gap, and whether it has rows inside the mask."""
        sequence = rows.sequence[inside]
        count = int(rows.sequence.max()) + 1 if len(rows.sequence) else 0
        tokens = torch.bincount(sequence, minlength=count)

        def likelihood(hidden: Tensor, head: Head) -> Tensor:
            logp = linear_log_probs(hidden, head, rows.labels, inside)
            total = logp.new_zeros(count).index_add_(0, sequence, logp)
            return (total / tokens.clamp_min(1)).exp()

        teacher, student = likelihood(*linear(rows.teachers[0])), likelihood(rows.hidden, rows.head)
        return (teacher - student if self.side == "teacher" else student - teacher), tokens > 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as plain data."""
        sums = None if self._sums is None else self._sums.tolist()
        return {"anchor": self.anchor, "steps": self._steps, "sums": sums}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.anchor, self._steps = state["anchor"], state["steps"]
        self._sums = None if state["sums"] is None else torch.tensor(state["sums"], dtype=torch.float64)

    def begin_step(self, window: Window) -> None:
        if self.anchor is None and self._steps >= self.anchor_steps:
            local = torch.zeros(2, dtype=torch.float64) if self._sums is None else self._sums
            total, count = window.sum_over_ranks(local).tolist()
            self.anchor = total / count if count else None
        self._steps += 1


@component("schedule", "student-share")
def student_share(progress: float) -> float:
    """From 1 to 1.5 over the first half of the training, then 1.5: for the student's side of a loss.

    Source: beta of the official code of DistiLLM-2, Ko et al., arXiv 2503.07067.
    """
    return 1.0 + 0.5 * min(1.0, 2 * progress)


@component("schedule", "teacher-share")
def teacher_share(progress: float) -> float:
    """From 1 to 0.5 over the first half of the training, then 0.5: what is left for the teacher's side of a loss.

    Source: 2 - beta of the official code of DistiLLM-2, Ko et al., arXiv 2503.07067.
    """
    return 2.0 - student_share(progress)


@component("schedule", "linear")
def linear_weight(progress: float, start: float = 1.0, end: float = 0.0, until: float = 1.0) -> float:
    """From `start` to `end` over the first share `until` of the training, then `end`.

    Source: KDRL, arXiv 2506.02208 (its weight of distillation falls from 5e-3 to 1e-3).
    """
    return start + (end - start) * min(1.0, progress / until if until > 0 else 1.0)


@component("schedule", "phase")
def phase(progress: float, begin: float = 0.0, end: float = 1.0, weight: float = 1.0) -> float:
    """`weight` from the share `begin` of the training to before `end`, 0 outside: for what is learnt in turn.

    Source: TinyBERT, arXiv 1909.10351, whose student learns from inner layers first and from predictions then.
    Raises MethodError for a phase that has no part of the training.
    """
    if not 0 <= begin < end <= 1:
        raise MethodError(f"a phase from {begin:g} to {end:g} of the training is none: 0 <= begin < end <= 1")
    return weight if begin <= progress < end else 0.0
