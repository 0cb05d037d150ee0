"""Lower bounds on the mutual information of two models' hidden states, as a loss between their layers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.divergences import check_fraction


def interpolated_bound(
    scores: Tensor, log_baseline: Tensor, mixture: float, mask: Tensor | None = None
) -> Tensor:
    """A lower bound on I(X; Y) from K >= 2 pairs (x_i, y_i), in parts: their mean over the K rows is the bound, nats.

    `scores` (..., K, K) holds f(x_i, y_j) in row j and column i, `log_baseline` (..., K) log q(y_j); gives (..., K).
    With a(y_j; k) = mixture * mean over i != k of exp f(x_i, y_j) + (1 - mixture) q(y_j), row j is
    1 + mean over k != j of [f(x_j, y_j) - log a(y_j; k)] - mean over i != j of exp f(x_i, y_j) / a(y_j; j).
    `mixture` 1 is InfoNCE without one pair in turn (at most log(K - 1), low variance), 0 the bound of Barber and Agakov
    made tractable by q (TUBA: no bias with the right f and q, high variance). Rows outside `mask` (..., K), which come
    last, count nowhere and are 0, and so is everything where fewer than two are inside.
    Source: Poole et al., arXiv 1905.06922, section 2.3 (`mixture` is alpha) with the leave-one-out mean of their code.
    """
    check_fraction("mixture", mixture)
    size = scores.shape[-1]
    if scores.shape[-2] != size or log_baseline.shape != scores.shape[:-1]:
        raise MethodError(
            f"scores {tuple(scores.shape)} and baselines {tuple(log_baseline.shape)} do not fit"
        )
    mask = torch.ones_like(log_baseline, dtype=torch.bool) if mask is None else mask
    nothing = torch.finfo(scores.dtype).min / 4  # not -inf, whose gradient would be NaN
    scores = scores.masked_fill(~mask.unsqueeze(-2), nothing)
    count = mask.sum(-1).to(scores.dtype).view(*mask.shape[:-1], 1, 1)
    others = (count - 1).clamp(min=1)
    log_q = log_baseline.unsqueeze(-1).expand_as(scores)
    mean = _without_one(scores, nothing) - others.log()
    if mixture == 1:
        log_a = mean
    elif mixture == 0:
        log_a = log_q
    else:
        log_a = torch.logaddexp(mean + math.log(mixture), log_q + math.log1p(-mixture))
    pairs = mask.unsqueeze(-1) & mask.unsqueeze(-2) & ~torch.eye(size, dtype=torch.bool, device=mask.device)
    joint = scores.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) - log_a
    # Filled before the exponential, so that no row outside can overflow.
    marginal = (scores - log_a.diagonal(dim1=-2, dim2=-1).unsqueeze(-1)).masked_fill(~pairs, nothing).exp()
    value = 1 + (joint.masked_fill(~pairs, 0).sum(-1) - marginal.sum(-1)) / others.squeeze(-1)
    return torch.where(pairs.any(-1), value, 0)


def _without_one(scores: Tensor, nothing: float) -> Tensor:
    """log sum exp over all columns but one, for each of them: (..., K) -> (..., K), exact where that one dominates."""
    edge = scores.new_full((*scores.shape[:-1], 1), nothing)
    before = torch.cat([edge, scores[..., :-1].logcumsumexp(-1)], -1)
    after = torch.cat([scores[..., 1:].flip(-1).logcumsumexp(-1).flip(-1), edge], -1)
    return torch.logaddexp(before, after)


class MutualInformation(nn.Module):
    """-I between hidden states (N, D) of student and teacher, by `interpolated_bound` within every sequence: (N,) nats.

    f(x, y) = <A x, B y> / sqrt(size) with linear A and B, and log q(y) a perceptron with one hidden layer; they learn
    with the student, from the same loss. A sequence of one token counts 0.
    Source: MI-alpha of Distiller, arXiv 2109.11105, which reads losses between layers as such bounds. The other tokens
    of a sequence in the place of its other examples (so that micro-batches do not matter) and a critic without a
    transformer are our reading, as is the default `mixture`.
    """

    def __init__(self, width: int, *, mixture: float = 0.5, size: int = 64, seed: int = 0):
        super().__init__()
        check_fraction("mixture", mixture)
        self.mixture, self.size = mixture, size
        self.student, self.teacher = nn.Linear(width, size, bias=False), nn.Linear(width, size, bias=False)
        last = nn.Linear(size, 1)
        self.baseline = nn.Sequential(nn.Linear(width, size), nn.ReLU(), last)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                bound = 0.0 if parameter.dim() == 1 else parameter.shape[-1] ** -0.5
                parameter.copy_((torch.rand(parameter.shape, generator=draws) * 2 - 1) * bound)
            last.weight.zero_()  # q starts at 1

    def forward(self, student: Tensor, teacher: Tensor, sequence: Tensor) -> Tensor:
        """`sequence` (N,) numbers the sequences, rows of one side by side."""
        if not len(sequence):
            return student.sum(-1)
        _, of, counts = sequence.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(of), device=of.device) - (counts.cumsum(0) - counts)[of]
        shape = len(counts), int(counts.max())
        x, y = (
            made.new_zeros(*shape, self.size).index_put((of, place), made)
            for made in (self.student(student), self.teacher(teacher))
        )
        log_q = self.baseline(teacher).squeeze(-1)
        log_q = log_q.new_zeros(shape).index_put((of, place), log_q)
        inside = torch.ones_like(of, dtype=torch.bool)
        mask = inside.new_zeros(shape).index_put((of, place), inside)
        scores = y @ x.mT / self.size**0.5
        dtype = torch.promote_types(scores.dtype, torch.float32)
        return -interpolated_bound(scores.to(dtype), log_q.to(dtype), self.mixture, mask)[of, place]
