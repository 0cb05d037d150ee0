"""What a student is pulled towards: the teacher, a mixture of logits, several teachers. All stay fused with a head.

A target answers `(hidden, head)` for N rows. A weighted sum of logits is again a linear head, over concatenated hidden
states: sum_i c_i (h_i W_i^T + b_i) = [c_1 h_1, c_2 h_2] [W_1, W_2]^T + sum_i c_i b_i. So logit mixtures cost one wider
GEMM and the fused loss needs to know nothing about them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.losses.fused.linear import Head
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.term import Window
from methods.teachers.top_k import TopK


class Target(Protocol):
    """Makes the distribution that takes the teacher's place in a divergence."""

    def __call__(self, rows: Rows) -> tuple[Tensor, Head] | TopK:
        """Hidden states (N, H') and the head that turns them into the target's logits, or top k; no gradient."""
        ...

    def begin_step(self, window: Window) -> None:
        """Called before each optimizer step, which says how far the training is and the mean loss of the one before."""
        ...


@component("target", "teacher")
class OneTeacher:
    """One teacher as it is."""

    def __init__(self, index: int = 0):
        self.index = index

    def __call__(self, rows: Rows) -> tuple[Tensor, Head] | TopK:
        if not -len(rows.teachers) <= self.index < len(rows.teachers):
            raise MethodError(
                f"no teacher number {self.index}: {len(rows.teachers)} read the student's tokens"
            )
        return rows.teachers[self.index]

    def begin_step(self, window: Window) -> None:
        """Nothing changes."""


@component("target", "average-logits")
class AverageLogits(OneTeacher):
    """Weighted mean of the logits of several teachers: a geometric mean of their distributions, renormalised.

    Source: BabyLlama (Timiryasov and Tastet, arXiv 2308.02019) averages two teachers' logits with equal weights.
    """

    def __init__(self, weights: Sequence[float] | None = None):
        if weights is not None and (any(w < 0 for w in weights) or not math.isclose(sum(weights), 1)):
            raise MethodError(f"weights of teachers must be positive and sum to 1, not {list(weights)}")
        self.weights = None if weights is None else tuple(weights)

    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        weights = self.weights or (1 / len(rows.teachers),) * len(rows.teachers)
        if len(weights) != len(rows.teachers):
            raise MethodError(f"{len(weights)} weights for {len(rows.teachers)} teachers")
        return mix_logits([(w, *linear(teacher)) for w, teacher in zip(weights, rows.teachers, strict=True)])


@component("target", "interpolated-logits")
class InterpolatedLogits(OneTeacher):
    """softmax((1 - t) z_student + t z_teacher), the student's logits detached; t grows from `start` to `end`.

    With `step_size` 0, t is linear in progress. Otherwise it also moves by step_size * sigmoid(m) * (1 - t), m the
    exponential moving average (rate `momentum`) of the loss's relative improvement, and never falls behind the line.
    Source: TAID, arXiv 2501.16937, section 3 and Algorithm 1 (alpha = `step_size`, beta = `momentum`).
    """

    def __init__(
        self, *, start: float = 0.4, end: float = 1.0, step_size: float = 5e-4, momentum: float = 0.99
    ):
        for name, value in {"start": start, "end": end, "momentum": momentum}.items():
            check_fraction(name, value)
        super().__init__()
        self.start, self.end, self.step_size, self.momentum = start, end, step_size, momentum
        self.teacher_share = start
        self._trend = 0.0
        self._previous: float | None = None

    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        teacher, share = linear(rows.teachers[self.index]), self.teacher_share
        if share == 1:
            return teacher
        return mix_logits([(share, *teacher), (1 - share, rows.hidden, rows.head)])

    def state(self) -> dict[str, float | None]:
        """What a checkpoint must keep, as plain data."""
        return {"share": self.teacher_share, "trend": self._trend, "previous": self._previous}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.teacher_share, self._trend, self._previous = state["share"], state["trend"], state["previous"]

    def begin_step(self, window: Window) -> None:
        line = self.start + (self.end - self.start) * window.progress
        last_loss = window.last_loss if self.step_size > 0 else None
        if last_loss is not None:
            if self._previous is not None:
                change = (self._previous - last_loss) / (self._previous + 1e-15)
                self._trend = self.momentum * self._trend + (1 - self.momentum) * change
                push = self.step_size / (1 + math.exp(-self._trend)) * (1 - self.teacher_share)
                line = max(line, self.teacher_share + push)
            self._previous = last_loss
        self.teacher_share = min(self.end, max(line, self.teacher_share))


@component("target", "noisy-teacher")
class NoisyTeacher(OneTeacher):
    """softmax(z_teacher + e), e ~ N(0, deviation^2) drawn for every logit of every step.

    The noise enters as hidden states of an identity head, so it costs a (V, V) matrix: for small vocabularies.
    Source: Ramesh et al., arXiv 2505.15442, ablation of the teacher's signal (sigma = `deviation`, 1, 2 and 5 there).
    """

    def __init__(self, deviation: float, index: int = 0):
        super().__init__(index)
        self.deviation = deviation

    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        target = super().__call__(rows)
        if not isinstance(target, tuple):
            raise MethodError("noise needs the teacher's logits of the whole vocabulary, not stored top-k")
        hidden, head = target
        size = len(head.weight)
        noise = self.deviation * torch.randn(len(hidden), size, dtype=hidden.dtype, device=hidden.device)
        identity = Head(torch.eye(size, dtype=head.weight.dtype, device=head.weight.device))
        return mix_logits([(1.0, hidden, head), (1.0, noise, identity)])


def linear(teacher: tuple[Tensor, Head] | TopK) -> tuple[Tensor, Head]:
    """Hidden states and head of a teacher; MethodError for one of which only the most probable ids are known."""
    if isinstance(teacher, TopK):
        raise MethodError(
            "logits cannot be mixed with a top-k teacher store: fill one of hidden states instead"
        )
    return teacher


@torch.no_grad()
def mix_logits(parts: Sequence[tuple[float, Tensor, Head]]) -> tuple[Tensor, Head]:
    """Hidden states and head of sum_i c_i z_i for parts (c_i, hidden (N, H_i), head), over the shared first ids.

    Raises MethodError for a head with a soft cap: its logits are not linear in the hidden states.
    """
    if any(head.soft_cap is not None for _, _, head in parts):
        raise MethodError("logits under a soft cap cannot be mixed without computing them")
    size = min(len(head.weight) for _, _, head in parts)
    hidden = torch.cat([coefficient * head.scale * states for coefficient, states, head in parts], -1)
    weight = torch.cat([head.weight[:size] for _, _, head in parts], -1)
    biases = [c * head.scale * head.bias[:size] for c, _, head in parts if head.bias is not None]
    bias = torch.stack(biases).sum(0) if biases else None
    return hidden.detach(), Head(weight.detach(), bias)
