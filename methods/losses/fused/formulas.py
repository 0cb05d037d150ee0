"""What a divergence must supply to be fused with the LM head: its value and its slope, for a block of rows.

With q the student's distribution and D(q) the divergence, `slope = q * dD/dq`. The gradient to the student's
logits is then `slope - q * sum(slope)` for every divergence, which is why nothing else is needed; a constant
added to dD/dq cancels. Keeping the product, not dD/dq, is what makes forward KL (-p/q) finite.

The functions below are the formulas of `methods.losses.divergences` written in place: the block fits in the cache,
and at a vocabulary of 128k a temporary of one's own costs more than the arithmetic. They may overwrite every
tensor of the block except `q`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from methods.losses.divergences import check_fraction, head_gap
from methods.registry import component


@dataclass
class Block:
    """A few rows `(n, V)` of both distributions; log-probabilities at masked ids are set to 0, not -inf.

    Where the teacher's masks are given, q need not sum to one over the ids that remain: a slope leaves out no constant.
    """

    log_q: Tensor
    q: Tensor
    log_p: Tensor
    p: Tensor
    scratch: Tensor
    student_masked: Tensor | None = None  # ids whose student logit is -inf, the same in every row (a bias)
    teacher_masked: Tensor | None = None


Fused = Callable[..., tuple[Tensor, Tensor]]  # (block, **parameters) -> value (n,), slope (n, V)


@component("divergence", "forward-kl")
def forward_kl(block: Block) -> tuple[Tensor, Tensor]:
    """KL(p || q): the student covers whatever the teacher says.

    Source: word-level distillation, Kim and Rush, arXiv 1606.07947, section 3.1.
    """
    infinite = _mass(block.p, block.student_masked)
    p = _drop(block.p, block.student_masked)
    gap = block.log_p.sub_(block.log_q)
    value = gap.mul_(p).sum(-1)
    return _with_infinity(value, infinite), p.neg_()


@component("divergence", "reverse-kl")
def reverse_kl(block: Block) -> tuple[Tensor, Tensor]:
    """KL(q || p): the student keeps to what the teacher finds likely (mode-seeking).

    Source: the single-token term of MiniLLM, Gu et al., arXiv 2306.08543, eq. 1.
    """
    gap = _drop(block.log_q.sub_(block.log_p), block.teacher_masked)
    slope = gap.mul_(block.q)
    value = slope.sum(-1)
    if block.teacher_masked is not None:
        # dD/dq is log q - log p + 1; the 1 cancels only while no id is left out.
        slope = _drop(slope.add_(block.q), block.teacher_masked)
    return _with_infinity(value, _mass(block.q, block.teacher_masked)), slope


@component("divergence", "jensen-shannon")
def jensen_shannon(block: Block, teacher_weight: float = 0.5) -> tuple[Tensor, Tensor]:
    """w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q, w the `teacher_weight`.

    Source: the generalised JSD of GKD, Agarwal et al., arXiv 2306.13649, eq. 1 (w is beta there).
    """
    check_fraction("teacher_weight", teacher_weight)
    if teacher_weight in (0, 1):
        return torch.zeros_like(block.q[:, 0]), block.scratch.zero_()
    log_m = _log(torch.lerp(block.q, block.p, teacher_weight, out=block.scratch))
    teacher = block.log_p.sub_(log_m).mul_(block.p).sum(-1)
    slope = block.log_q.sub_(log_m).mul_(block.q).mul_(1 - teacher_weight)
    return teacher * teacher_weight + slope.sum(-1), slope


@component("divergence", "skew-forward-kl")
def skew_forward_kl(block: Block, skew: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """KL(p || skew p + (1 - skew) q).

    Source: DistiLLM, Ko et al., arXiv 2402.03898, section 3.1 (SKL; `skew` is alpha).
    """
    skew = by_row("skew", skew, block)
    if isinstance(skew, float) and skew == 0:
        return forward_kl(block)
    m = torch.lerp(block.q, block.p, skew, out=block.scratch).clamp_min_(_tiny(block.q))
    slope = torch.mul(block.q, block.p, out=block.log_q).div_(m).mul_(skew - 1)
    value = block.log_p.sub_(m.log_()).mul_(block.p).sum(-1)
    return value, slope


@component("divergence", "skew-reverse-kl")
def skew_reverse_kl(block: Block, skew: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """KL(q || (1 - skew) p + skew q).

    Source: DistiLLM, Ko et al., arXiv 2402.03898, section 3.1 (SRKL; `skew` is alpha).
    """
    skew = by_row("skew", skew, block)
    if isinstance(skew, float) and skew == 0:
        return reverse_kl(block)
    m = torch.lerp(block.p, block.q, skew, out=block.scratch).clamp_min_(_tiny(block.q))
    from_mixture = torch.mul(block.q, block.q, out=block.log_p).div_(m).mul_(skew).neg_()
    slope = block.log_q.sub_(m.log_()).mul_(block.q)
    value = slope.sum(-1)
    if block.teacher_masked is not None:
        slope.add_(block.q)
    return value, slope.add_(from_mixture)


@component("divergence", "total-variation")
def total_variation(block: Block) -> tuple[Tensor, Tensor]:
    """1/2 sum |p - q|, a probability.

    Source: f-DISTILL, Wen et al., arXiv 2307.15190 (TVD).
    """
    gap = torch.sub(block.q, block.p, out=block.scratch)
    slope = torch.sign(gap, out=block.log_q).mul_(block.q).mul_(0.5)
    return gap.abs_().sum(-1).mul_(0.5), slope


@component("divergence", "adaptive-kl")
def adaptive_kl(block: Block, head_mass: float = 0.5) -> tuple[Tensor, Tensor]:
    """a KL(p || q) + (1 - a) KL(q || p), a the share of the gap |p - q| that lies on the teacher's head.

    The head is the most probable tokens up to `head_mass` of p.
    Source: AKL, Wu et al., arXiv 2404.02657 (`head_mass` is mu).
    """
    check_fraction("head_mass", head_mass)
    share = head_gap(block.p, block.q, head_mass, scratch=block.scratch)
    infinite_forward = _mass(block.p, block.student_masked)
    infinite_reverse = _mass(block.q, block.teacher_masked)
    gap = _drop(block.log_q.sub_(block.log_p), block.teacher_masked)
    p = _drop(block.p, block.student_masked)
    forward = _with_infinity(torch.mul(p, gap, out=block.scratch).sum(-1).neg_(), infinite_forward)
    slope = gap.mul_(block.q)
    reverse = _with_infinity(slope.sum(-1), infinite_reverse)
    if block.teacher_masked is not None:
        slope = _drop(slope.add_(block.q), block.teacher_masked)
    column = share.unsqueeze(-1)
    value = torch.where(share > 0, share * forward, 0) + torch.where(share < 1, (1 - share) * reverse, 0)
    return value, slope.mul_(1 - column).sub_(p.mul_(column))


@component("divergence", "detached-skew-reverse-kl")
def detached_skew_reverse_kl(block: Block, skew: float | Tensor = 0.1) -> tuple[Tensor, Tensor]:
    """KL(q || (1 - skew) p + skew q), the q inside the mixture a constant.

    The value is that of skew-reverse-kl; the gradient leaves out how the mixture moves with the student.
    Source: the official code of DistiLLM-2, Ko et al., arXiv 2503.07067.
    """
    m = torch.lerp(block.p, block.q, by_row("skew", skew, block), out=block.scratch)
    m.clamp_min_(_tiny(m))
    slope = block.log_q.sub_(m.log_()).mul_(block.q)
    value = slope.sum(-1)
    return value, slope if block.teacher_masked is None else slope.add_(block.q)


FUSED_DIVERGENCES: dict[str, Fused] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
    "detached_skew_reverse_kl": detached_skew_reverse_kl,
}


def by_row(name: str, value: float | Tensor, block: Block) -> float | Tensor:
    """A fraction that is one number for all rows, checked, or one for each `(n,)`, as a column `(n, 1)`."""
    if isinstance(value, Tensor):
        return value.to(block.q.dtype).unsqueeze(-1)
    check_fraction(name, value)
    return float(value)


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny


def _log(m: Tensor) -> Tensor:
    return m.clamp_min_(_tiny(m)).log_()


def _drop(tensor: Tensor, ids: Tensor | None) -> Tensor:
    """Zero the masked ids, in place."""
    return tensor if ids is None else tensor.index_fill_(-1, ids, 0)


def _mass(probabilities: Tensor, ids: Tensor | None) -> Tensor | None:
    """Which rows have mass on ids that the other model has masked."""
    return None if ids is None else probabilities.index_select(-1, ids).sum(-1) > 0


def _with_infinity(value: Tensor, rows: Tensor | None) -> Tensor:
    return value if rows is None else value.masked_fill(rows, math.inf)
