"""Divergences that weigh the ids of the vocabulary one by one, with weights that have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.formulas import Block, _drop, _mass, _tiny, _with_infinity
from methods.registry import component

WEIGHTS = ("student", "teacher", "uniform")


@component("divergence", "entrywise-kl")
def entrywise_kl(block: Block) -> tuple[Tensor, Tensor]:
    """Sum over ids of a p log(p / q) + (1 - a) q log(q / p), a = p / (p + q) without gradient.

    An id that the student underrates is pulled up by the forward KL's summand, one that it overrates pushed down by the
    reverse KL's. The value is exactly KL(p || q) + KL(q || p); the gradient is not, as `a` stands still.
    Source: ToDi, arXiv 2505.16297 (a is the sigmoid of log p - log q).
    """
    outside = [_mass(block.p, block.student_masked), _mass(block.q, block.teacher_masked)]
    share = torch.add(block.p, block.q, out=block.scratch).clamp_min_(_tiny(block.q)).reciprocal_()
    share.mul_(block.p)
    gap = _drop(_drop(block.log_q.sub_(block.log_p), block.student_masked), block.teacher_masked)
    value = torch.sub(block.q, block.p, out=block.log_p).mul_(gap).sum(-1)
    pull = block.p.mul_(share)
    slope = gap.add_(1).mul_(block.q).mul_(share.neg_().add_(1)).sub_(pull)
    slope = _drop(_drop(slope, block.student_masked), block.teacher_masked)
    for infinite in outside:
        value = _with_infinity(value, infinite)
    return value, slope


@component("divergence", "concrete-score")
def concrete_score(block: Block, first: str = "student", second: str = "student") -> tuple[Tensor, Tensor]:
    """Half the sum over pairs of ids of u_x w_y (d_x - d_y)^2, d = log q - log p; nats squared.

    u and w are the `first` and the `second` weight, each "student" (q), "teacher" (p) or "uniform" over the ids that
    both models know, without gradient. With one and the same weight this is the variance of d. Logits take the place of
    log-probabilities freely: a number added to all of a row changes nothing.
    Source: CSD, arXiv 2509.25837 ((S, S) is its default).
    """
    for name in (first, second):
        if name not in WEIGHTS:
            raise MethodError(f"a weight is {name!r}, none of {', '.join(WEIGHTS)}")
    gap = _drop(_drop(block.log_q.sub_(block.log_p), block.student_masked), block.teacher_masked)
    u, w = _entry_weights(first, block), _entry_weights(second, block)
    mean_u, mean_w = ((part * gap).sum(-1, keepdim=True) for part in (u, w))
    square = gap * gap
    value = 0.5 * ((u * square).sum(-1) + (w * square).sum(-1)) - (mean_u * mean_w).squeeze(-1)
    # The sum over ids is zero, so that the slope is the gradient to the logits as it stands.
    return value, u * (gap - mean_w) + w * (gap - mean_u)


def _entry_weights(name: str, block: Block) -> Tensor:
    """(n, V) that sum to one over the ids that no model has masked."""
    made = {"student": block.q, "teacher": block.p}.get(name)
    made = torch.ones_like(block.q) if made is None else made.clone()
    made = _drop(_drop(made, block.student_masked), block.teacher_masked)
    return made / made.sum(-1, keepdim=True).clamp_min(_tiny(made))
