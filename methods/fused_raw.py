"""Forward KL, reverse KL and cross entropy by the fewest passes over the logits: nothing is normalised or shifted.

With e = exp(z) and E = sum e of the student, f and F of the teacher, the gradient of forward KL is q - p =
(e - f E / F) / E. The factor 1 / E is constant along a row, so `methods.fused_kernels` leaves it to the `(n, H)`
operands. exp(z) without the row's maximum taken off is as exact as with it while it neither overflows nor vanishes; the
sums tell. Where they are out of range a chunk is done again with normalised distributions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.fused_divergences import FUSED_DIVERGENCES, Fused

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


def forward_kl(logits: Tensor, teacher: Tensor, spare: Tensor, sums: Sums) -> None:
    """KL(p || q); overwrites all three `(n, V)`."""
    torch.exp(teacher, out=spare)
    torch.sum(spare, -1, keepdim=True, out=sums.teacher)
    torch.sum(teacher.sub_(logits).mul_(spare), -1, keepdim=True, out=sums.moment)
    torch.sum(logits.exp_(), -1, keepdim=True, out=sums.student)
    logits.addcmul_(spare, sums.student / sums.teacher, value=-1)


def forward_kl_values(sums: Sums) -> Tensor:
    """sum p (t - z) + log E - log F."""
    return sums.moment / sums.teacher + (sums.student / sums.teacher).log()


def reverse_kl(logits: Tensor, teacher: Tensor, spare: Tensor, sums: Sums) -> None:
    """KL(q || p); overwrites all three `(n, V)`."""
    torch.exp(teacher, out=spare)
    torch.sum(spare, -1, keepdim=True, out=sums.teacher)
    gap = torch.sub(logits, teacher, out=teacher)
    torch.sum(logits.exp_(), -1, keepdim=True, out=sums.student)
    torch.sum(torch.mul(gap, logits, out=spare), -1, keepdim=True, out=sums.moment)
    logits.mul_(gap.sub_(sums.moment / sums.student))


def reverse_kl_values(sums: Sums) -> Tensor:
    """sum q (z - t) + log F - log E."""
    return sums.moment / sums.student - (sums.student / sums.teacher).log()


def cross_entropy(logits: Tensor, ids: Tensor, sums: Sums) -> None:
    """-log q at `ids` (n, 1); overwrites the logits."""
    torch.gather(logits, -1, ids, out=sums.moment)
    torch.sum(logits.exp_(), -1, keepdim=True, out=sums.student)
    logits.scatter_add_(-1, ids, -sums.student)


def cross_entropy_values(sums: Sums) -> Tensor:
    """log E - z at the label."""
    return sums.student.log() - sums.moment


# Of the divergences in `methods.fused_divergences`, those that can be had this way.
RAW: dict[Fused, tuple[Callable[[Tensor, Tensor, Tensor, Sums], None], Callable[[Sums], Tensor]]] = {
    FUSED_DIVERGENCES["forward_kl"]: (forward_kl, forward_kl_values),
    FUSED_DIVERGENCES["reverse_kl"]: (reverse_kl, reverse_kl_values),
}
