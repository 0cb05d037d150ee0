"""A number for each token of a micro-batch, from what student and teacher say there: what weights are made of.

Scores are functions from `Rows` to (N,), without gradient, in nats where nothing else is said. Logits exist a few rows
at a time. Where student and teacher are compared, both are cut to the ids that they share.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused.kernels import Layout
from methods.losses.fused.linear import Head, linear_log_probs
from methods.registry import component
from methods.slots.columns import sequence_lengths
from methods.slots.rows import Rows
from methods.slots.targets import linear

Side = tuple[Tensor, Head]


class Score(Protocol):
    """A number for each token."""

    def __call__(self, rows: Rows) -> Tensor:
        """(N,), without gradient."""
        ...


@component("score", "entropy")
class Entropy:
    """How unsure one model is of the next token: of the student, or of a teacher.

    `normalised` divides by the entropy of the uniform distribution, so that it lies between 0 and 1.
    Source: Entropy-Aware OPD, arXiv 2603.07079 (of the teacher); TIP, arXiv 2604.14084 (of the student).
    """

    def __init__(self, of: str = "student", *, index: int = 0, normalised: bool = False):
        check_side(of)
        self.of, self.index, self.normalised = of, index, normalised

    def __call__(self, rows: Rows) -> Tensor:
        size = shared(rows, self.index)
        value = by_row(entropies, size, side_of(rows, self.of, self.index))
        return value / torch.log(value.new_tensor(size)) if self.normalised else value


@component("score", "entropy-gap")
class EntropyGap:
    """How much more unsure the student is than the teacher: H(q) - H(p).

    Source: TSD-KD, arXiv 2603.13260 (the gate of direct distillation).
    """

    def __init__(self, index: int = 0):
        self.index = index

    def __call__(self, rows: Rows) -> Tensor:
        size = shared(rows, self.index)
        student, teacher = (by_row(entropies, size, side_of(rows, of, self.index)) for of in SIDES)
        return student - teacher


@component("score", "gap")
class Gap:
    """How far student and teacher are from each other, by any divergence of the whole vocabulary at its defaults.

    Source: TIP, arXiv 2604.14084 (d of its token scores).
    """

    def __init__(self, divergence: str = "reverse_kl", *, index: int = 0):
        self.divergence = divergence.replace("-", "_")
        if self.divergence not in DIVERGENCES:
            raise MethodError(f"unknown divergence {divergence!r}; one of {', '.join(DIVERGENCES)}")
        self.index = index

    def __call__(self, rows: Rows) -> Tensor:
        sides = [side_of(rows, of, self.index) for of in SIDES]
        return by_row(DIVERGENCES[self.divergence], shared(rows, self.index), *sides)


@component("score", "hellinger")
class Hellinger:
    """The Hellinger distance of both models' distributions, || sqrt p - sqrt q || / sqrt 2: from 0 to 1, of no unit.

    Source: AdaKD, arXiv 2510.11615 (how hard a token is for the student).
    """

    def __init__(self, *, index: int = 0):
        self.index = index

    def __call__(self, rows: Rows) -> Tensor:
        sides = [side_of(rows, of, self.index) for of in SIDES]
        return by_row(hellinger, shared(rows, self.index), *sides)


@component("score", "log-ratio")
class LogRatio:
    """log p - log q of the sequence's own token, p of the teacher and q of the student.

    `absolute` takes off the sign.
    Source: "On-Policy Distillation" (Thinking Machines Lab, 2025): its advantage of a token.
    """

    def __init__(self, *, index: int = 0, absolute: bool = False):
        self.index, self.absolute = index, absolute

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Tensor:
        student, teacher = (
            linear_log_probs(*side_of(rows, of, self.index), rows.labels).detach() for of in SIDES
        )
        ratio = teacher - student
        return ratio.abs() if self.absolute else ratio


@component("score", "surprisal")
class Surprisal:
    """-log of the probability that one model, student or teacher, gives the sequence's own token.

    Source: ATKD, arXiv 2402.11890 (a token is easy where the teacher's 1 - p(label) is small).
    """

    def __init__(self, of: str = "teacher", *, index: int = 0):
        check_side(of)
        self.of, self.index = of, index

    @torch.no_grad()
    def __call__(self, rows: Rows) -> Tensor:
        return -linear_log_probs(*side_of(rows, self.of, self.index), rows.labels).detach()


@component("score", "soft-or")
class SoftOr:
    """h + d - h d: high where the student is unsure (h), or far from the teacher (d), or both.

    h is the student's entropy and d the `divergence`, each over its largest value within the sequence; that scale is
    our reading. `product` is h^a d^b with the powers `entropy_power` and `gap_power` instead, by which the official
    code draws the tokens, on the Jensen-Shannon divergence.
    Source: TIP, arXiv 2604.14084; its code, github.com/HJSang/OPSD_OnPolicyDistillation.
    """

    def __init__(
        self,
        divergence: str = "reverse_kl",
        *,
        product: bool = False,
        entropy_power: float = 1.0,
        gap_power: float = 1.0,
        index: int = 0,
    ):
        self.gap, self.entropy = Gap(divergence, index=index), Entropy(index=index)
        self.product, self.powers = product, (entropy_power, gap_power)

    def __call__(self, rows: Rows) -> Tensor:
        h, d = self.entropy(rows), self.gap(rows).clamp_min(0)
        if self.product:
            return h ** self.powers[0] * d ** self.powers[1]
        h, d = (by_sequence(over_largest, rows, part) for part in (h, d))
        return h + d - h * d


SIDES = ("student", "teacher")


def check_side(of: str) -> None:
    """Raise MethodError unless it is "student" or "teacher"."""
    if of not in SIDES:
        raise MethodError(f"of is {of!r}, none of {', '.join(SIDES)}")


def side_of(rows: Rows, of: str, index: int = 0) -> Side:
    """Hidden states and head of the student, or of a teacher, without gradient."""
    if of == "student":
        return rows.hidden.detach(), rows.head
    if not -len(rows.teachers) <= index < len(rows.teachers):
        raise MethodError(f"no teacher number {index}: {len(rows.teachers)} read the student's tokens")
    return linear(rows.teachers[index])


def shared(rows: Rows, index: int = 0) -> int:
    """How many leading ids the student shares with a teacher; its own where none reads its tokens."""
    size = len(rows.head.weight)
    if not rows.teachers:
        return size
    return min(size, len(side_of(rows, "teacher", index)[1].weight))


@torch.no_grad()
def by_row(function: Callable[..., Tensor], size: int, *sides: Side) -> Tensor:
    """`function` of the logits (n, size) of each side, a few rows at a time: (N,)."""
    count = len(sides[0][0])
    chunk = Layout.plan(max(count, 1), size, sides[0][0].device, torch.float32, None).chunk
    parts = [
        function(*(head.logits(hidden[start : start + chunk], size) for hidden, head in sides))
        for start in range(0, max(count, 1), chunk)
    ]
    return torch.cat(parts).detach()


def entropies(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) over the last axis, nats: (..., V) -> (...)."""
    log_q = logits.log_softmax(-1)
    return -(log_q.exp() * log_q.clamp_min(torch.finfo(log_q.dtype).min)).sum(-1)


def hellinger(student: Tensor, teacher: Tensor) -> Tensor:
    """Distance of two softmaxes over the last axis: logits (..., V), (..., V) -> (...)."""
    gap = (student.log_softmax(-1) / 2).exp() - (teacher.log_softmax(-1) / 2).exp()
    return gap.square().sum(-1).div(2).sqrt()


def by_sequence(function: Callable[..., Tensor], rows: Rows, *values: Tensor) -> Tensor:
    """`function` of each sequence's own values, put together again: (N,). Micro-batches do not matter to it."""
    sizes: Any = sequence_lengths(rows).tolist()
    parts = [function(*part) for part in zip(*(value.split(sizes) for value in values), strict=True)]
    return torch.cat(parts) if parts else values[0].clone()


def over_largest(values: Tensor) -> Tensor:
    """Values over the largest of them; all zero where that is zero."""
    largest = values.max()
    return values / largest if float(largest) > 0 else torch.zeros_like(values)
