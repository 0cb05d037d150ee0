"""Divergences on some ids of each row: the likeliest of teacher or student, the one that was sampled, or all others.

With K the ids, what becomes of the rest of both distributions is the choice (`Reduction.rest`):

- "tail": one outcome more, the mass outside K. Never above the whole divergence (data processing inequality).
- "renormalise": both distributions within K alone, each divided by its mass there; with a `recalibration` c the
  teacher's is softmax(p / c) of its probabilities within K instead.
- "drop": the summands of K, as they are. No divergence any more: mass may leave K, or gather in it.
- "excess": the same with p - q (or q - p for forward KL) added for each id, which puts the minimum back to q = p.
- "rewards": the excess over the student's mass within K, which has no gradient: of reverse KL that of rewarding each id
  of K by log p - log q, weighed by its share of q there.
- "estimate": of one sampled id y, f(p_y, q_y) over the probability with which it was drawn: f is the divergence's
  summand, so that over draws value and gradient are those of the whole divergence. Its gradient is the policy gradient
  of the reward -df/dq: of reverse KL (log q - log p) times the gradient of log q.

The teacher's and the student's logits are projected chunk by chunk as in `methods.losses.fused.linear`; every
divergence that is fused there works here. One that weighs by what it sees of a whole distribution (adaptive-kl) sees
the reduced one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_temperature, shared_size
from methods.losses.fused.formulas import FUSED_DIVERGENCES, Block, Fused
from methods.losses.fused.kernels import DivergenceObjective, Layout
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
from methods.losses.fused.projection import Projection
from methods.losses.fused.raw import Raw

TEACHER, STUDENT, SAMPLED, OTHERS = "teacher", "student", "sampled", "others"
OF = (TEACHER, STUDENT, SAMPLED, OTHERS)
BY_LABEL = (SAMPLED, OTHERS)
RESTS = ("tail", "renormalise", "drop", "excess", "rewards", "estimate")
# df/dq of a divergence's summand at p = q = anything: what "excess" and "rewards" take back for each id.
EXCESS = {FUSED_DIVERGENCES["reverse_kl"]: 1.0, FUSED_DIVERGENCES["forward_kl"]: -1.0}


@dataclass(frozen=True)
class Reduction:
    """Which ids of a row are looked at (the `k` likeliest `of` one model, the sampled one, all others), and the rest.

    Of a vocabulary of fewer ids than k all are looked at.

    `recalibration` makes the teacher's distribution within K anew, of its probabilities there; for "renormalise" alone.
    `drawn_from` says whose distribution drew the sampled id; `clip` keeps the reward of an estimate within +-clip nats.
    Raises MethodError for choices that do not go together.
    """

    of: str = TEACHER
    k: int = 1
    rest: str = "tail"
    drawn_from: str = STUDENT
    clip: float | None = None
    recalibration: float | None = None

    def __post_init__(self) -> None:
        for name, value, known in (
            ("of", self.of, OF),
            ("rest", self.rest, RESTS),
            ("drawn_from", self.drawn_from, (TEACHER, STUDENT)),
        ):
            if value not in known:
                raise MethodError(f"{name} is {value!r}, none of {', '.join(known)}")
        if self.k < 1:
            raise MethodError(f"k={self.k}: at least one id is looked at")
        if self.of == OTHERS and self.rest != "renormalise":
            raise MethodError("the ids beside the sampled one are renormalised")
        if self.rest == "renormalise" and self.of != OTHERS and (self.k < 2 or self.of == SAMPLED):
            raise MethodError("one id renormalised is certain to both models: take two or more, or the tail")
        if self.rest == "estimate" and self.of != SAMPLED:
            raise MethodError("an estimate needs the sampled token")
        if self.recalibration is not None and (self.rest != "renormalise" or self.recalibration <= 0):
            raise MethodError("a recalibration is a positive number, for ids that are renormalised")
        if self.clip is not None and (self.rest != "estimate" or self.clip <= 0):
            raise MethodError("clip is a positive number of nats, for the reward of an estimate")


def linear_reduced_divergence(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    mask: Tensor | None = None,
    *,
    reduction: Reduction,
    labels: Tensor | None = None,
    divergence: str | Fused = "forward_kl",
    temperature: float = 1.0,
    weights: Tensor | None = None,
    chunk_size: int | None = None,
    **parameters: Any,
) -> RowLoss:
    """`linear_divergence` on the ids of a `reduction`; `labels` (N,) are the sampled ids, where they are asked for.

    Shapes: hidden states `(N, H_s)` and `(N, H_t)`, `mask` (bool) and `weights` `(N,)`. Raises MethodError for settings
    that do not fit, and for a head that masks ids (a bias of -inf).
    """
    function = _divergence(divergence, parameters)
    check_temperature(temperature)
    if reduction.rest in ("excess", "rewards") and function not in EXCESS:
        raise MethodError(f"{reduction.rest} is known of forward-kl and reverse-kl alone")
    _same_rows("the teacher's hidden states", teacher_hidden[..., 0], student_hidden)
    size = shared_size(len(student_head.weight), len(teacher_head.weight))
    rows = _Rows(student_hidden, mask)
    for name, value in parameters.items():
        if isinstance(value, Tensor):
            _same_rows(name, value, student_hidden)
            parameters[name] = rows.take(value.detach())
    ids = None
    if reduction.of in BY_LABEL:
        if labels is None:
            raise MethodError("the sampled token is asked for, and no labels are given")
        _same_rows("labels", labels, student_hidden)
        ids = rows.take(labels).unsqueeze(-1)
        if ids.device.type == "cpu" and len(ids) and int(ids.max()) >= size:
            raise MethodError(f"id {int(ids.max())} was sampled, and both models share {size} ids alone")
    student = _Operands(rows.take(student_hidden), student_head, size, temperature)
    teacher = _Operands(rows.take(teacher_hidden), teacher_head, size, temperature)

    def objective() -> ReducedObjective:
        return ReducedObjective(function, parameters, *teacher.ready(), reduction, ids)

    dtype = _softmax_dtype(student, teacher)
    layout = Layout.plan(len(student.hidden), size, student.hidden.device, dtype, chunk_size)
    return _in_forward(student, objective, layout, rows.weights(weights))


class ReducedObjective(DivergenceObjective):
    """The divergence on a few ids of both models' distributions."""

    def __init__(
        self,
        divergence: Fused,
        parameters: dict[str, Any],
        hidden: Tensor,
        teacher: Projection,
        reduction: Reduction,
        ids: Tensor | None,
    ):
        super().__init__(divergence, parameters, hidden, teacher)
        self.reduction, self.ids = reduction, ids

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        if student_masked is not None or self.teacher.masked is not None:
            raise MethodError("A reduced divergence cannot work with a head whose bias masks ids.")
        super().allocate(layout, None)

    def raw(self) -> Raw | None:
        return None

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        log_p, p = self.teacher_block(within)
        if self.ids is not None:
            ids = self.ids[rows]
            if self.reduction.of == OTHERS:
                places = torch.arange(q.shape[-1] - 1, device=q.device)
                ids = places + (places >= ids)
        else:
            whose = p if self.reduction.of == TEACHER else q
            ids = whose.topk(min(self.reduction.k, whose.shape[-1])).indices
        kept = [part.gather(-1, ids) for part in (log_q, q, log_p, p)]
        outside: Tensor | None = None
        if self.reduction.rest == "tail":
            value, slope, outside = self._with_tail(kept, ids, q, p, rows)
        elif self.reduction.rest == "renormalise":
            value, slope = self._renormalised(kept, rows)
        elif self.reduction.rest == "estimate":
            value, slope = self._estimate(kept, rows)
        else:
            value, slope = self._dropped(kept, rows)
        slopes = log_q.zero_() if outside is None else log_q.copy_(outside)
        return value, slopes.scatter_(-1, ids, slope)

    def _divergence(self, parts: list[Tensor], rows: slice, **masks: Tensor) -> tuple[Tensor, Tensor]:
        log_q, q, log_p, p = parts
        return self.divergence(Block(log_q, q, log_p, p, torch.empty_like(q), **masks), **self.own(rows))

    def _with_tail(
        self, kept: list[Tensor], ids: Tensor, q: Tensor, p: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """An id outside has dD/dq of the tail, its slope is q times that; see `methods.teachers.top_k`."""
        # Both tails are summed, not 1 - sum: their logarithms would be lost where they are small.
        outside = q.scatter(-1, ids, 0)
        tails = [part.sum(-1, keepdim=True) for part in (outside, p.scatter_(-1, ids, 0))]
        ours, theirs = (tail.clamp_min_(torch.finfo(q.dtype).tiny) for tail in tails)
        ends = [ours.log(), ours, theirs.log(), theirs]
        parts = [torch.cat(pair, -1) for pair in zip(kept, ends, strict=True)]
        value, slope = self._divergence(parts, rows)
        return value, slope[:, :-1], outside.mul_(slope[:, -1:] / ours)

    def _renormalised(self, kept: list[Tensor], rows: slice) -> tuple[Tensor, Tensor]:
        """Only the kept logits have a gradient, slope - q sum(slope) within them: of that the sum is zero."""
        c = self.reduction.recalibration
        log_q, log_p = kept[0].log_softmax(-1), (kept[2] if c is None else kept[3] / c).log_softmax(-1)
        q = log_q.exp()
        value, slope = self._divergence([log_q, q, log_p, log_p.exp()], rows)
        return value, slope - q * slope.sum(-1, keepdim=True)

    def _dropped(self, kept: list[Tensor], rows: slice) -> tuple[Tensor, Tensor]:
        """An empty column that both models mask says that ids are left out, so that slopes leave out no constant."""
        own = [torch.cat([part, torch.zeros_like(part[:, :1])], -1) for part in kept]
        last = torch.tensor([kept[0].shape[-1]], device=kept[0].device)
        value, slope = self._divergence(own, rows, student_masked=last, teacher_masked=last)
        slope = slope[:, :-1]
        if self.reduction.rest in ("excess", "rewards"):
            constant = EXCESS[self.divergence]
            value = value - constant * (kept[1] - kept[3]).sum(-1)
            slope = slope - constant * kept[1]
        if self.reduction.rest == "rewards":
            mass = kept[1].sum(-1).clamp_min(torch.finfo(slope.dtype).tiny)
            value, slope = value / mass, slope / mass.unsqueeze(-1)
        return value, slope

    def _estimate(self, kept: list[Tensor], rows: slice) -> tuple[Tensor, Tensor]:
        drawn = kept[1 if self.reduction.drawn_from == STUDENT else 3].clone()
        drawn.clamp_min_(torch.finfo(drawn.dtype).tiny)
        value, slope = self._divergence(kept, rows)
        value, slope = value / drawn.squeeze(-1), slope / drawn
        clip = self.reduction.clip
        return value, slope if clip is None else slope.clamp(-clip, clip)
