"""Losses between models with different tokenizers, through their LM heads a few rows at a time.

`linear_sorted_l1` compares the shapes of two next-token distributions (ULD); `chunk_divergence` compares the
probabilities of chunks of text as events that happen or not (ALM).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.losses.fused.kernels import ChunkLogits, Layout, Objective, softmax_pair
from methods.losses.fused.linear import Head, RowLoss, _in_forward, _Operands, _softmax_dtype
from methods.losses.fused.projection import Projection

CHUNK_DIVERGENCES = ("kl", "total_variation")


def sorted_l1(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
) -> Tensor:
    """sum_i |p_(i) - q_(i)| of the probabilities sorted from high to low: (..., V_s), (..., V_t) -> (...), in [0, 2].

    The shorter distribution is filled up with zeros. It is the Wasserstein-1 distance under a uniform cost.
    Source: ULD, Boizard et al., arXiv 2402.12030, and its code (`student_temperature`, `teacher_temperature` 1).
    """
    return sorted_distance(
        (student_logits / student_temperature).softmax(-1), (teacher_logits / teacher_temperature).softmax(-1)
    )


def sorted_distance(q: Tensor, p: Tensor) -> Tensor:
    """sum_i |p_(i) - q_(i)| of numbers from 0 up, sorted from high to low: (..., N), (..., M) -> (...).

    The shorter list is filled up with zeros.
    """
    q, p = (x.sort(-1, descending=True).values for x in (q, p))
    width = max(q.shape[-1], p.shape[-1])
    q, p = (torch.nn.functional.pad(x, (0, width - x.shape[-1])) for x in (q, p))
    return (q - p).abs().sum(-1)


def linear_sorted_l1(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    *,
    student_temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    chunk_size: int | None = None,
) -> RowLoss:
    """Sum over rows of `sorted_l1`, through both heads: hidden states (N, H_s) and (N, H_t), heads of any size.

    Logits of `chunk_size` rows exist at a time (default: by memory). Gradients as in `methods.losses.fused.linear`.
    Raises MethodError where the two have different numbers of rows.
    """
    for temperature in (student_temperature, teacher_temperature):
        check_temperature(temperature)
    if len(student_hidden) != len(teacher_hidden):
        raise MethodError(f"{len(student_hidden)} rows of the student, {len(teacher_hidden)} of the teacher")
    sizes = len(student_head.weight), len(teacher_head.weight)
    student = _Operands(student_hidden, student_head, sizes[0], student_temperature)
    teacher = _Operands(teacher_hidden, teacher_head, sizes[1], teacher_temperature)
    dtype = _softmax_dtype(student, teacher)
    layout = Layout.plan(len(student_hidden), max(sizes), student_hidden.device, dtype, chunk_size)
    return _in_forward(
        student, lambda: SortedL1(*teacher.ready(), sizes[1]), replace(layout, size=sizes[0]), None
    )


class SortedL1(Objective):
    """The sorted L1 distance from the teacher's distribution, projected chunk by chunk beside the student's."""

    def __init__(self, hidden: Tensor, teacher: Projection, size: int):
        self.hidden, self.teacher, self.size = hidden, teacher, size

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        own = replace(layout, size=self.size)
        self.logits, self.spare = ChunkLogits(self.teacher, own), own.block_buffer()

    def start(self, rows: slice) -> None:
        self.logits.project(self.hidden[rows])

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        logits = self.teacher.cap(self.logits.block(within))
        _, p = softmax_pair(logits, self.spare[: len(q)], self.teacher.masked)
        p_sorted = p.sort(-1, descending=True).values
        q_sorted, order = q.sort(-1, descending=True)
        width = min(p.shape[-1], q.shape[-1])
        gap = q_sorted.clone()  # where the teacher has no more ids its probability is 0
        gap[:, :width] -= p_sorted[:, :width]
        value = gap.abs().sum(-1) + p_sorted[:, width:].sum(-1)
        return value, log_q.scatter_(-1, order, q_sorted.mul_(gap.sign_()))


def linear_log_mass(hidden: Tensor, head: Head, members: Tensor, *, chunk_rows: int | None = None) -> Tensor:
    """log of the probability that q gives to the ids in `members` (V,) bool, for each row of `hidden` (N, H): (N,).

    Differentiable; the backward pass projects again, so that logits of `chunk_rows` rows exist at a time. In fp32
    (float64 for float64 inputs). An empty set has -inf.
    """
    if members.shape != head.weight.shape[:1]:
        raise MethodError(f"members {tuple(members.shape)} do not fit a vocabulary of {len(head.weight)}")
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    rows = chunk_rows or Layout.plan(len(hidden), len(head.weight), hidden.device, dtype, None).chunk

    def mass(part: Tensor) -> Tensor:
        logits = head.logits(part)
        return logits.masked_fill(~members, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)

    parts = [
        checkpoint(mass, part, use_reentrant=False, preserve_rng_state=False) for part in hidden.split(rows)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=dtype)


def log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0, exact near both ends."""
    near = x > -0.6931471805599453
    # The branch not taken must not make a NaN in the gradient of the other.
    return torch.where(
        near, (-torch.expm1(x.where(near, -0.5))).log(), torch.log1p(-torch.exp(x.where(~near, -1.0)))
    )


def chunk_divergence(
    student_log_probs: Tensor,
    teacher_log_probs: Tensor,
    *,
    temperature: float = 100.0,
    divergence: str = "kl",
    epsilon: float = 1e-6,
) -> Tensor:
    """D between two yes/no events: (...) log-probabilities of chunks under student and teacher -> (...), nats.

    With p and q the chunk's probabilities and tau the `temperature`: f(p^(1/tau), q^(1/tau)) +
    f(1 - p^(1/tau), 1 - q^(1/tau)), f(a, b) = a log(a / b) for "kl", |a - b| for "total_variation". `epsilon` is taken
    off both log-probabilities over tau, so that a probability of 1 stays finite.
    Source: ALM, Minixhofer et al., arXiv 2503.20083, section 3 and appendix A.2; epsilon as in its code (tokenkit).
    """
    check_temperature(temperature)
    if divergence not in CHUNK_DIVERGENCES:
        raise MethodError(
            f"unknown divergence of chunks {divergence!r}; one of {', '.join(CHUNK_DIVERGENCES)}"
        )
    log_p = teacher_log_probs.detach().clamp(max=0) / temperature - epsilon
    log_q = student_log_probs.clamp(max=0) / temperature - epsilon
    if divergence == "total_variation":
        return 2 * (log_p.exp() - log_q.exp()).abs()
    return log_p.exp() * (log_p - log_q) - torch.expm1(log_p) * (log1mexp(log_p) - log1mexp(log_q))


def merge_chunks(chunks: Tensor, ends_here: Tensor) -> tuple[Tensor, Tensor]:
    """Chunks joined to the next one wherever they must not end: new numbers (C,) of the old chunks, and which stay.

    `chunks` (C,) says for each chunk, in order, which sequence it is of; `ends_here` (C,) bool whether it may end.
    A sequence's last chunks that never reach an end are joined too, but do not stay.
    Source: the constraint of ALM (arXiv 2503.20083, section 3.1): no chunk ends where its debiasing probability is
    at most gamma; its code merges such a chunk with the next.
    """
    new = torch.ones_like(chunks, dtype=torch.bool)
    new[1:] = ends_here[:-1] | (chunks[1:] != chunks[:-1])
    numbers = new.cumsum(0) - 1
    count = int(numbers[-1]) + 1 if len(numbers) else 0
    stays = (
        torch.zeros(count, dtype=torch.long, device=chunks.device).index_add_(0, numbers, ends_here.long())
        > 0
    )
    return numbers, stays
