"""Divergences from a teacher of which only the most probable ids are known: those ids, and one bucket for the rest.

Both distributions are merged to k + 1 outcomes, so that nothing is assumed of how the teacher spreads its tail. With
q_T the student's mass outside the k ids, an id j there has dD/dq_j = dD/dq_T, and the slope that
`methods.losses.fused.formulas` asks for is q_j * (slope_T / q_T). Every divergence of that module works unchanged,
on k + 1 columns instead of V.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.losses.fused.formulas import FUSED_DIVERGENCES, Block, Fused
from methods.losses.fused.kernels import Layout, Objective
from methods.losses.fused.linear import (
    Head,
    RowLoss,
    _divergence,
    _in_forward,
    _Operands,
    _Rows,
    _same_rows,
    _softmax_dtype,
)
from methods.losses.fused.raw import Raw, Sums

FLOOR = -50.0  # log-probability in the place of -inf
SMALLEST_SCALE = 1e-10  # of a row's slopes in the tail: zero could not be divided by


@dataclass(frozen=True)
class TopK:
    """N rows of a teacher: `ids` and `log_probs` (N, K), `tail` (N,) the log mass outside them; nats.

    Rows with fewer ids repeat their first one with log-probability -inf. `temperature` is what the teacher's logits
    were divided by: the tail of another temperature cannot be computed from these.
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor
    vocabulary: int
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)

    def within(self, size: int) -> TopK:
        """The distribution over the first `size` ids alone, renormalised, for a student with a smaller head."""
        if size >= self.vocabulary:
            return self
        log_probs = self.log_probs.masked_fill(self.ids >= size, -torch.inf)
        log_probs, order = log_probs.sort(-1, descending=True)  # the first column must be one of the ids kept
        ids = self.ids.gather(-1, order)
        ids = torch.where(log_probs > -torch.inf, ids, ids[:, :1].clamp(max=size - 1))
        total = torch.logaddexp(log_probs.logsumexp(-1), self.tail)
        return replace(
            self, ids=ids, log_probs=log_probs - total.unsqueeze(-1), tail=self.tail - total, vocabulary=size
        )


def linear_top_k_divergence(
    student_hidden: Tensor,
    student_head: Head,
    target: TopK,
    mask: Tensor | None = None,
    *,
    divergence: str | Fused = "forward_kl",
    temperature: float = 1.0,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
    **parameters: Any,
) -> RowLoss:
    """`linear_divergence` with `target` in the teacher's place, ids outside its k merged on both sides.

    Shapes: hidden states `(N, H)`, `mask` (bool) and `weights` `(N,)`. Raises MethodError for settings that do not fit,
    a temperature other than the target's, or a head with masked ids (a bias of -inf).
    """
    function = _divergence(divergence, parameters)
    check_temperature(temperature)
    if temperature != target.temperature:
        raise MethodError(
            f"These top-k probabilities are at temperature {target.temperature}, the loss asks for {temperature}: fill "
            "a store at that temperature, or one of hidden states, which serves every temperature."
        )
    if student_hidden.dim() != 2 or len(target) != len(student_hidden):
        raise MethodError(
            f"{len(target)} rows of a teacher do not fit student {tuple(student_hidden.shape)}."
        )
    size = len(student_head.weight)
    target = target.within(size)
    rows = _Rows(student_hidden, mask)
    for name, value in parameters.items():
        if isinstance(value, Tensor):
            _same_rows(name, value, student_hidden)
            parameters[name] = rows.take(value.detach())
    student = _Operands(rows.take(student_hidden), student_head, size, temperature)
    dtype = _softmax_dtype(student)
    ids = rows.take(target.ids)
    log_p = torch.cat([rows.take(target.log_probs), rows.take(target.tail).unsqueeze(-1)], -1).to(dtype)

    def objective() -> TopKObjective:
        return TopKObjective(function, parameters, ids, log_p)

    layout = Layout.plan(len(student.hidden), size, student.hidden.device, dtype, chunk_size)
    return _in_forward(student, objective, layout, rows.weights(weights))


class TopKObjective(Objective):
    """The divergence over k ids and the merged tail, of a student's full distribution."""

    def __init__(self, divergence: Fused, parameters: dict[str, Any], ids: Tensor, log_p: Tensor):
        self.divergence, self.parameters, self.ids = divergence, parameters, ids
        self.empty = log_p == -torch.inf  # (N, K + 1)
        self.empty[:, [0, -1]] = False
        log_p = log_p.clamp(min=FLOOR)
        self.p = log_p.exp().masked_fill_(self.empty, 0)
        self.log_p = log_p.masked_fill_(self.empty, 0)

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        if student_masked is not None:
            raise MethodError("Top-k distillation cannot work with a student head whose bias masks ids.")
        self.known = self.p.new_empty(layout.chunk, self.ids.shape[-1])

    def start(self, rows: slice) -> None:
        """Nothing is projected for the teacher."""

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        ids, empty = self.ids[rows], self.empty[rows]
        known, known_log = q.gather(-1, ids), log_q.gather(-1, ids)
        # The student's tail is summed, not 1 - sum: its logarithm would be lost where it is small.
        outside = q.scatter_(-1, ids, 0)
        tail = outside.sum(-1, keepdim=True).clamp_min_(torch.finfo(q.dtype).tiny)
        merged = torch.cat([known, tail], -1).masked_fill_(empty, 0)
        merged_log = torch.cat([known_log, tail.log()], -1).masked_fill_(empty, 0)
        block = Block(
            merged_log, merged, self.log_p[rows].clone(), self.p[rows].clone(), torch.empty_like(merged)
        )
        own = {name: v[rows] if isinstance(v, Tensor) else v for name, v in self.parameters.items()}
        value, slope = self.divergence(block, **own)
        at_ids = torch.where(
            empty[:, :-1], slope[:, :1], slope[:, :-1]
        )  # an empty column repeats the first id
        slopes = torch.mul(outside, slope[:, -1:] / tail, out=log_q).scatter_(-1, ids, at_ids)
        q.scatter_(-1, ids, known)  # as it was
        return value, slopes

    def raw(self) -> Raw | None:
        if self.divergence is not FUSED_DIVERGENCES["forward_kl"]:
            return None
        return Raw(self._exponentials, lambda sums: sums.moment, finish=self._forward_kl)

    def _exponentials(self, logits: Tensor, rows: slice, within: slice, sums: Sums) -> None:
        """exp(z) outside the ids and its sum, the raw tail; the logits at the ids are kept."""
        ids = self.ids[rows]
        torch.gather(logits, -1, ids, out=self.known[within])
        torch.sum(logits.exp_().scatter_(-1, ids, 0), -1, keepdim=True, out=sums.student)

    def _forward_kl(self, logits: Tensor, rows: slice, sums: Sums) -> None:
        """KL(p || q) of the merged outcomes; with e = exp(z), E = sum e and T that of the tail, the gradient times E is
        e_j - E p_j at an id and s e_j, s = 1 - E p_T / T, elsewhere, for p that add up to 1. s is the row's scale."""
        ids, empty, p = self.ids[rows], self.empty[rows], self.p[rows]
        known_log = self.known[: len(ids)].masked_fill_(empty[:, :-1], -torch.inf)
        known = known_log.exp()
        total = known.sum(-1, keepdim=True).add_(sums.student)
        # At least so much that total / tail is finite.
        tail = torch.maximum(sums.student.clamp_min(torch.finfo(total.dtype).tiny), total * 1e-37)
        mass = p.sum(-1, keepdim=True)
        merged_log = torch.cat([known_log, tail.log()], -1).sub_(total.log()).masked_fill_(empty, 0)
        torch.sum(p * (self.log_p[rows] - merged_log), -1, keepdim=True, out=sums.moment)
        scale = mass - total * p[:, -1:] / tail
        scale = torch.where(scale.abs() < SMALLEST_SCALE, SMALLEST_SCALE, scale)
        at_ids = (known * mass - total * p[:, :-1]) / scale
        # An empty column repeats the first id.
        logits.scatter_(-1, ids, torch.where(empty[:, :-1], at_ids[:, :1], at_ids))
        sums.student.copy_(total)
        sums.scale.copy_(scale)
