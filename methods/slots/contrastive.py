"""Contrastive distillation: the teacher's text pulls with one skewed KL, the student's own pushes with the other.

Source: DistiLLM-2, arXiv 2503.07067, and its official code (github.com/jongwooko/distillm-2, src/distillm_trainer.py),
which writes what is `skew` here as alpha, and as beta the growing share of the student's side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.losses.fused.formulas import Block, by_row
from methods.losses.fused.linear import Head, linear_log_probs
from methods.slots.samplers import Example, Step, WithStudent, student_examples
from methods.slots.targets import Rows, linear

SIDES = ("teacher", "student")


def detached_skew_reverse_kl(block: Block, skew: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """KL(q || (1 - skew) p + skew q), the q inside the mixture a constant: as in the official code of DistiLLM-2.

    The value is that of `skew_reverse_kl`; the gradient leaves out how the mixture moves with the student.
    """
    m = torch.lerp(block.p, block.q, by_row("skew", skew, block), out=block.scratch)
    m.clamp_min_(torch.finfo(m.dtype).tiny)
    slope = block.log_q.sub_(m.log_()).mul_(block.q)
    return slope.sum(-1), slope


class AdaptiveSkew:
    """A skew for each sequence y: clip(1 - (1 - base) anchor / gap(y), floor, base).

    gap(y) is the difference of both models' geometric mean token probabilities of y, that of `side` (who wrote y) less
    the other's; `anchor` is the mean gap over the sequences of the first `anchor_steps` steps, on all ranks. Until it
    is known, and where a gap is not positive, the skew is `base`. So sequences on which the models have come close get
    a sharper divergence. Source: DistiLLM-2, arXiv 2503.07067 (curriculum for alpha); the official code takes the
    anchor from its first logging window, 100 steps in its scripts.
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

    def begin_step(self, reduce: Callable[[Tensor], Tensor]) -> None:
        if self.anchor is None and self._steps >= self.anchor_steps:
            local = torch.zeros(2, dtype=torch.float64) if self._sums is None else self._sums
            total, count = reduce(local).tolist()
            self.anchor = total / count if count else None
        self._steps += 1


def student_share(progress: float) -> float:
    """1 to 1.5 over the first half of the training, then 1.5: beta of the official code."""
    return 1.0 + 0.5 * min(1.0, 2 * progress)


def teacher_share(progress: float) -> float:
    """2 - beta, what is left for the teacher's side: from 1 to 0.5."""
    return 2.0 - student_share(progress)


class PairedStudent:
    """Every second prompt of the window with two answers, the given one and the student's own; the others wait.

    As many sequences a step as with any other sampler. The given answers are the teacher's and stay so as `source`.
    DistiLLM-2 (arXiv 2503.07067) samples the student's side for an epoch beforehand; here it is fresh at each step.
    """

    def __init__(self, source: str = "teacher", *, temperature: float = 1.0):
        self._both = WithStudent(source, temperature=temperature)

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        given = [replace(example, source=self._both.source) for example in window]
        paired = window[: len(window) // 2 * 2 : 2]
        given[1::2] = student_examples(paired, step, temperature=self._both.temperature)
        return given
