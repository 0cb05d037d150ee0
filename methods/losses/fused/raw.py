"""The commonest losses by the fewest passes over the logits: nothing is normalised or shifted.

With e = exp(z) and E = sum e of the student, f and F of the teacher, the gradient of forward KL is q - p =
(e - f E / F) / E. The factor 1 / E is constant along a row, so `methods.losses.fused.kernels` leaves it to the `(n, H)`
operands. exp(z) without the row's maximum taken off is as exact as with it while it neither overflows nor vanishes; the
sums tell. Where they are out of range a chunk is done again with normalised distributions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.losses.divergences import check_fraction
from methods.losses.fused.formulas import FUSED_DIVERGENCES, Fused

# Sums of exponentials that leave fp32 room: 60 nats below the largest logit, and the quotient of two of them.
SMALLEST, LARGEST = 1e-12, 1e24
LARGEST_SCALE = 1e15  # of a row's slopes: the inverse leaves them room


@dataclass
class Sums:
    """What a loss leaves of each row, `(n, 1)`: sum of exp of both models, one moment that its value needs, and what
    its slopes still have to be multiplied by beside 1 / student."""

    student: Tensor
    teacher: Tensor
    moment: Tensor
    scale: Tensor

    @classmethod
    def empty(cls, like: Tensor, rows: int) -> Sums:
        """Of `rows` rows, with a teacher's sum and a scale of 1."""
        return cls(*like.new_ones(4, rows, 1).unbind())

    def __getitem__(self, rows: slice) -> Sums:
        return Sums(self.student[rows], self.teacher[rows], self.moment[rows], self.scale[rows])

    def usable(self) -> bool:
        """Whether no exponential overflowed and none that matters vanished."""
        smallest, largest = torch.stack([self.student, self.teacher]).aminmax()
        scale = self.scale.abs().amax().item()
        return smallest.item() > SMALLEST and largest.item() < LARGEST and scale < LARGEST_SCALE


@dataclass(frozen=True)
class Raw:
    """A loss on raw logits.

    `block(logits (n, V), rows, within, sums)` turns the logits into the gradient times `sums.student / sums.scale`, and
    fills the sums; `finish(logits, rows, sums)`, if any, does so for a whole chunk what need not be done in the cache.
    `values(sums)` are the rows' losses `(n, 1)`. `first` gives the teacher's logits of a chunk's first row.
    """

    block: Callable[[Tensor, slice, slice, Sums], None]
    values: Callable[[Sums], Tensor]
    first: Callable[[], Tensor] | None = None
    finish: Callable[[Tensor, slice, Sums], None] | None = None


class RawDivergence(Protocol):
    """A divergence on raw logits. With e = exp(z), E = sum e, p and q as above:"""

    def slopes(self, logits: Tensor, teacher: Tensor, spares: Sequence[Tensor], sums: Sums) -> None:
        """Turn the student's `logits` into the gradient times E / scale, fill the sums.

        `teacher` are its logits, `spares` three buffers; all are `(n, V)` and may be overwritten.
        """

    def values(self, sums: Sums) -> Tensor:
        """The rows' divergences `(n, 1)`, nats."""


@dataclass(frozen=True)
class ForwardKL:
    """KL(p || q)."""

    def slopes(self, logits: Tensor, teacher: Tensor, spares: Sequence[Tensor], sums: Sums) -> None:
        """See `RawDivergence`."""
        f = torch.exp(teacher, out=spares[0])
        torch.sum(f, -1, keepdim=True, out=sums.teacher)
        torch.sum(teacher.sub_(logits).mul_(f), -1, keepdim=True, out=sums.moment)
        torch.sum(logits.exp_(), -1, keepdim=True, out=sums.student)
        logits.addcmul_(f, sums.student / sums.teacher, value=-1)

    def values(self, sums: Sums) -> Tensor:
        """Sum p (t - z) + log E - log F."""
        return sums.moment / sums.teacher + (sums.student / sums.teacher).log()


@dataclass(frozen=True)
class ReverseKL:
    """KL(q || p)."""

    def slopes(self, logits: Tensor, teacher: Tensor, spares: Sequence[Tensor], sums: Sums) -> None:
        """See `RawDivergence`."""
        torch.sum(torch.exp(teacher, out=spares[0]), -1, keepdim=True, out=sums.teacher)
        gap = torch.sub(logits, teacher, out=teacher)
        torch.sum(logits.exp_(), -1, keepdim=True, out=sums.student)
        torch.sum(torch.mul(gap, logits, out=spares[0]), -1, keepdim=True, out=sums.moment)
        logits.mul_(gap.sub_(sums.moment / sums.student))

    def values(self, sums: Sums) -> Tensor:
        """Sum q (z - t) + log F - log E."""
        return sums.moment / sums.student - (sums.student / sums.teacher).log()


@dataclass(frozen=True)
class JensenShannon:
    """w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q, w = `teacher_weight` strictly between 0 and 1.

    With e + a f, a = w / (1 - w) E / F, in the place of m, from which it differs by a factor of the row.
    """

    teacher_weight: float = 0.5

    def slopes(self, logits: Tensor, teacher: Tensor, spares: Sequence[Tensor], sums: Sums) -> None:
        """See `RawDivergence`."""
        w = self.teacher_weight
        f = torch.exp(teacher, out=spares[0])
        torch.sum(f, -1, keepdim=True, out=sums.teacher)
        e = torch.exp(logits, out=spares[1])
        torch.sum(e, -1, keepdim=True, out=sums.student)
        share = (sums.student / sums.teacher).mul_(w / (1 - w))
        log_m = torch.addcmul(e, f, share, out=spares[2]).clamp_min_(torch.finfo(e.dtype).tiny).log_()
        of_teacher = teacher.sub_(log_m).mul_(f).sum(-1, keepdim=True).div_(sums.teacher)
        of_student = logits.sub_(log_m).mul_(e).sum(-1, keepdim=True).div_(sums.student)
        torch.lerp(of_student, of_teacher, w, out=sums.moment)
        sums.scale.fill_(1 - w)
        logits.addcmul_(e, of_student, value=-1)

    def values(self, sums: Sums) -> Tensor:
        """Sum w p (t - log(e + a f)) + (1 - w) q (z - log(e + a f)) + w log(E / F) - log(1 - w)."""
        w = self.teacher_weight
        return sums.moment + (sums.student / sums.teacher).log().mul_(w).sub_(math.log1p(-w))


def cross_entropy(logits: Tensor, ids: Tensor, sums: Sums) -> None:
    """-log q at `ids` (n, 1); overwrites the logits."""
    torch.gather(logits, -1, ids, out=sums.moment)
    torch.sum(logits.exp_(), -1, keepdim=True, out=sums.student)
    logits.scatter_add_(-1, ids, -sums.student)


def cross_entropy_values(sums: Sums) -> Tensor:
    """log E - z at the label."""
    return sums.student.log() - sums.moment


def raw_divergence(divergence: Fused, parameters: dict[str, Any]) -> RawDivergence | None:
    """The same divergence with the same parameters on raw logits, if it can be had."""
    if divergence is FUSED_DIVERGENCES["forward_kl"]:
        return ForwardKL(**parameters)
    if divergence is FUSED_DIVERGENCES["reverse_kl"]:
        return ReverseKL(**parameters)
    if divergence is FUSED_DIVERGENCES["jensen_shannon"]:
        made = JensenShannon(**parameters)
        check_fraction("teacher_weight", made.teacher_weight)
        return made if 0 < made.teacher_weight < 1 else None
    return None
