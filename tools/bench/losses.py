"""The losses that `kd bench` measures, all on one problem, and the problem itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 4  # sequences; the second half of each is its completion
# TRL's and Liger's `beta` for each of our divergences.
BETA = {"forward_kl": 0.0, "jensen_shannon": 0.5}


@dataclass(frozen=True)
class Case:
    """What is measured: `positions` in all, half of them completion."""

    vocabulary: int
    positions: int
    student_width: int
    teacher_width: int
    divergence: str
    dtype: str
    device: str


@dataclass
class Problem:
    """Hidden states `(B, L, H)`, heads `(V, H)`, labels `(B, L)` that are -100 outside the completion."""

    hidden: Tensor
    weight: Tensor
    teacher_hidden: Tensor
    teacher_weight: Tensor
    labels: Tensor
    divergence: str

    @property
    def count(self) -> int:
        """Completion positions."""
        return int((self.labels != -100).sum())


Loss = Callable[[Problem], "Tensor"]


def ours(problem: Problem) -> Tensor:
    """The fused loss of this library."""
    from methods.losses.fused.linear import Head, linear_divergence

    loss = linear_divergence(
        problem.hidden, Head(problem.weight), problem.teacher_hidden, Head(problem.teacher_weight),
        problem.labels != -100, divergence=problem.divergence,
    )  # fmt: skip
    return loss.total / problem.count


def trl_full_logits() -> Loss:
    """Full logits of both models and the generalised JSD, as GKDTrainer does."""
    import torch

    gkd = importlib.import_module("trl.experimental.gkd.gkd_trainer").GKDTrainer

    def loss(problem: Problem) -> Tensor:
        logits = problem.hidden @ problem.weight.t()
        with torch.no_grad():
            teacher_logits = problem.teacher_hidden @ problem.teacher_weight.t()
        return gkd.generalized_jsd_loss(
            student_logits=logits, teacher_logits=teacher_logits, labels=problem.labels,
            beta=BETA[problem.divergence], num_items_in_batch=problem.count,
        )  # fmt: skip

    return loss


def trl_chunked() -> Loss:
    """The chunked kernel as DistillationTrainer calls it: all positions, except where Triton runs."""
    kernel = importlib.import_module("trl.kernels.chunked_divergence")

    def loss(problem: Problem) -> Tensor:
        valid = (problem.labels != -100).reshape(-1)
        hidden = problem.hidden.reshape(-1, problem.hidden.shape[-1])
        teacher_hidden = problem.teacher_hidden.reshape(-1, problem.teacher_hidden.shape[-1])
        compact = hidden.device.type == "cuda"
        if compact:
            hidden, teacher_hidden = hidden[valid], teacher_hidden[valid]
        values, _ = kernel.ChunkedDivergenceFunction.apply(
            hidden,
            problem.weight,
            None,
            teacher_hidden,
            problem.teacher_weight,
            None,
            BETA[problem.divergence],
        )
        return (values if compact else values.masked_fill(~valid, 0)).sum() / problem.count

    return loss


def liger_chunked(compiled: bool) -> Loss:
    """Liger's chunked JSD in torch; all positions, labels mask the rest."""
    losses = importlib.import_module("liger_kernel.chunked_loss")

    def loss(problem: Problem) -> Tensor:
        module = losses.LigerFusedLinearJSDLoss(
            weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA[problem.divergence], compiled=compiled
        )
        return module(
            problem.hidden.reshape(-1, problem.hidden.shape[-1]), problem.weight,
            problem.teacher_hidden.reshape(-1, problem.teacher_hidden.shape[-1]), problem.teacher_weight,
            problem.labels.reshape(-1),
        )  # fmt: skip

    return loss


def make_problem(case: Case) -> Problem:
    """Seeded hidden states and heads; logits of a spread that a trained model has.

    Made in place: a temporary of a head's size would raise the peak that memory is measured from.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, case.dtype)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.empty(*shape, dtype=dtype).normal_(0, scale, generator=generator).to(case.device)

    length = case.positions // BATCH
    hidden = normal(BATCH, length, case.student_width).requires_grad_()
    weight = normal(case.vocabulary, case.student_width, scale=2 * case.student_width**-0.5).requires_grad_()
    teacher_hidden = normal(BATCH, length, case.teacher_width)
    teacher_weight = normal(case.vocabulary, case.teacher_width, scale=2 * case.teacher_width**-0.5)
    labels = torch.full((BATCH, length), -100)
    labels[:, length // 2 :] = 0
    return Problem(hidden, weight, teacher_hidden, teacher_weight, labels.to(case.device), case.divergence)


def in_fp32(problem: Problem) -> Problem:
    """The same numbers in fp32, as what gradients of bf16 operands are held against."""

    def wide(tensor: Tensor) -> Tensor:
        return tensor.detach().float().requires_grad_(tensor.requires_grad)

    return replace(
        problem,
        hidden=wide(problem.hidden),
        weight=wide(problem.weight),
        teacher_hidden=wide(problem.teacher_hidden),
        teacher_weight=wide(problem.teacher_weight),
    )


def floor(problem: Problem) -> Callable[[], None]:
    """The four matrix products no such loss can do without, into buffers that exist already."""
    import torch

    with torch.no_grad():
        rows = min(problem.count, 512)
        hidden = problem.hidden.detach().reshape(-1, problem.hidden.shape[-1])[: problem.count]
        teacher = problem.teacher_hidden.reshape(-1, problem.teacher_hidden.shape[-1])[: problem.count]
        weight, logits = problem.weight.detach(), hidden.new_empty(rows, len(problem.weight))
        gradient, hidden_gradient = torch.zeros_like(weight), hidden.new_empty(rows, hidden.shape[-1])

    def products() -> None:
        with torch.no_grad():
            for start in range(0, len(hidden), rows):
                chunk, teacher_chunk = hidden[start : start + rows], teacher[start : start + rows]
                n = len(chunk)
                torch.mm(teacher_chunk, problem.teacher_weight.t(), out=logits[:n])
                torch.mm(chunk, weight.t(), out=logits[:n])
                torch.mm(logits[:n], weight, out=hidden_gradient[:n])
                torch.mm(logits[:n].t(), chunk, out=gradient)

    return products


def gradients(problem: Problem, loss: Loss) -> tuple[Tensor, Tensor]:
    """One step: gradients of the hidden states and of the head."""
    loss(problem).backward()
    hidden, weight = problem.hidden.grad, problem.weight.grad
    problem.hidden.grad = problem.weight.grad = None
    assert hidden is not None and weight is not None
    return hidden, weight
