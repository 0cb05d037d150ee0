"""Dual-space distillation: either model's hidden states through the other one's LM head, with projectors that learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.fused.kernels import Layout
from methods.losses.fused.linear import FUSED_DIVERGENCES, Head, linear_cross_entropy, linear_divergence
from methods.modeling.core import core_model
from methods.registry import component
from methods.slots.rows import Side
from methods.slots.term import Weight
from methods.tokenizers.terms import PairTerm

SPACES = ("student", "teacher")


@component("term", "dual-space")
class DualSpace(PairTerm, nn.Module):
    """DSKD: divergences in the student's and in the teacher's space, and the cross entropy that trains a projector.

    In the student's space: D(p', q) + CE(p'), where p' are the teacher's states, projected, under the student's head;
    D has no gradient in p' and CE none in the student. In the teacher's space: KL(p || q'), where q' are the student's
    states, projected, under the teacher's head. Heads and embeddings are constants here.
    With `attention`, cross-model attention brings the states of one side to the tokens of the other: the queries are
    the student's embeddings of a token and the next one, projected, the keys the teacher's; D then counts only where p'
    gives the label the largest probability. Without it both sides must have the same tokens.
    `spaces` is one of them or both (None). Everything is divided by the student's completion tokens. Give
    `NextToken(weight=0.5)` beside it. The projectors are made for the trainer's models, from its seed where none is
    given; they learn along at `learning_rate_factor` times its learning rate.
    Source: Zhang et al., arXiv 2406.17328, and its code, which divides what the teacher brings by its standard
    deviation over the batch; here it is the sequence's, which does not depend on how a batch is cut.
    """

    def __init__(
        self,
        *,
        weight: Weight = 0.5,
        attention: bool = True,
        spaces: Sequence[str] | None = None,
        divergence: str = "forward_kl",
        temperature: float = 2.0,
        learning_rate_factor: float = 2.0,
        seed: int | None = None,
    ):
        super().__init__()
        spaces = SPACES if spaces is None else spaces
        if not spaces or not set(spaces) <= set(SPACES):
            raise MethodError(f"spaces are one or both of {', '.join(SPACES)}, not {list(spaces)}")
        self.divergence = divergence.replace("-", "_")
        if self.divergence not in FUSED_DIVERGENCES:
            raise MethodError(f"unknown divergence {divergence!r}; one of {', '.join(FUSED_DIVERGENCES)}")
        self.weight, self.attention, self.spaces = weight, attention, tuple(spaces)
        self.temperature, self.learning_rate_factor = temperature, learning_rate_factor
        self.seed = seed

    def prepare(self, trainer: Any) -> None:
        if not any(True for _ in self.parameters()):
            seed = trainer.args.seed if self.seed is None else self.seed
            self.between_models(trainer.model, trainer.models.paired_teacher(), seed=int(seed))

    def between_models(self, student: Any, teacher: Any, *, seed: int = 0) -> DualSpace:
        """Make the projectors for two models, drawn from the seed; a trainer does it otherwise.

        Raises MethodError where embeddings and hidden states of one model differ in width.
        """
        (ours, theirs), draws = (
            (_width(model) for model in (student, teacher)),
            torch.Generator().manual_seed(seed),
        )
        if self.attention:
            self.query = _linear(2 * ours, 2 * theirs, draws)
        if "student" in self.spaces:
            self.to_student = _linear(theirs, ours, draws)
        if "teacher" in self.spaces:
            self.to_teacher = _linear(ours, theirs, draws)
        return self

    def between(self, student: Side, teacher: Side) -> Tensor:
        """Sum over a micro-batch, in nats. Raises MethodError where tokens should be the same and are not."""
        if self.attention:
            student, teacher = _only_with(teacher, student), _only_with(student, teacher)
            brought, taken = self._attend(student, teacher)
        elif torch.equal(student.labels, teacher.labels):
            brought = self.to_student(teacher.hidden) if "student" in self.spaces else None
            taken = self.to_teacher(student.hidden) if "teacher" in self.spaces else None
        else:
            raise MethodError("without attention teacher and student must have the same tokens")
        total = student.hidden.sum() * 0
        if brought is not None:
            total = total + self._in_student_space(student, brought)
        if taken is not None:
            total = (
                total
                + linear_divergence(
                    taken, _constant(teacher.head), teacher.hidden, teacher.head, temperature=self.temperature
                ).total
            )
        return total

    def _in_student_space(self, student: Side, brought: Tensor) -> Tensor:
        head = _constant(student.head)
        learnt = linear_cross_entropy(brought, head, student.labels).total
        right = _largest(brought, head) == student.labels if self.attention else None
        distilled = linear_divergence(
            student.hidden,
            student.head,
            brought.detach(),
            head,
            right,
            divergence=self.divergence,
            temperature=self.temperature,
        ).total
        return learnt + distilled

    def _attend(self, student: Side, teacher: Side) -> tuple[Tensor | None, Tensor | None]:
        """The teacher's states at the student's tokens (N, H_s), and the student's at the teacher's (M, H_t)."""
        (ours, our_next), (theirs, after) = _embedded(student), _embedded(teacher)
        queries = self.query(torch.cat([ours, our_next], -1))
        sizes, their_sizes = (
            s.sequence.unique_consecutive(return_counts=True)[1] for s in (student, teacher)
        )
        keys = _unit_spread(torch.cat([theirs, after], -1), their_sizes)
        pairs = [
            _at_least_fp32(q @ k.t()) / math.sqrt(keys.shape[-1])
            for q, k in zip(queries.split(sizes.tolist()), keys.split(their_sizes.tolist()), strict=True)
        ]
        brought = taken = None
        if "student" in self.spaces:
            given = _unit_spread(teacher.hidden, their_sizes) + _unit_spread(after, their_sizes)
            values = self.to_student(given)
            parts = zip(pairs, values.split(their_sizes.tolist()), strict=True)
            brought = torch.cat([values[:0], *(p.softmax(1).to(v.dtype) @ v for p, v in parts)])
        if "teacher" in self.spaces:
            values = self.to_teacher(student.hidden)
            parts = zip(pairs, values.split(sizes.tolist()), strict=True)
            taken = torch.cat([values[:0], *(p.softmax(0).t().to(v.dtype) @ v for p, v in parts)])
        return brought, taken


@torch.no_grad()
def _embedded(side: Side) -> tuple[Tensor, Tensor]:
    """Each token that goes in and the one after it, `(N, E)`; by the layer, whose weights may be in shards."""
    return side.embed(side.inputs).detach(), side.embed(side.labels).detach()


def _width(model: Any) -> int:
    core = core_model(model)
    layers: tuple[Any, Any] = core.get_input_embeddings(), core.get_output_embeddings()
    inside, outside = (layer.weight.shape[1] for layer in layers)
    if inside != outside:
        raise MethodError(
            f"{type(core).__name__} embeds tokens in {inside} dimensions and has hidden states of {outside}"
        )
    return outside


def _linear(width: int, size: int, draws: torch.Generator) -> nn.Linear:
    """An affine layer with torch's usual weights, drawn from `draws`."""
    layer = nn.utils.skip_init(nn.Linear, width, size)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-(width**-0.5), width**-0.5, generator=draws)
    return layer


def _constant(head: Head) -> Head:
    """A head that gets no gradient."""
    bias = None if head.bias is None else head.bias.detach()
    return Head(head.weight.detach(), bias, head.scale, head.soft_cap)


def _only_with(other: Side, side: Side) -> Side:
    """The rows of sequences that `other` has too: a length limit may have cut a completion away on one side."""
    keep = torch.isin(side.sequence, other.sequence)
    names = ("hidden", "labels", "sequence", "inputs")
    return replace(side, **{name: getattr(side, name)[keep] for name in names})


def _unit_spread(rows: Tensor, sizes: Tensor) -> Tensor:
    """Rows of sequences of some sizes, each sequence divided by the standard deviation of all numbers in it."""
    return torch.cat([rows[:0], *(part / part.std() for part in rows.split(sizes.tolist()))])


def _at_least_fp32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def _largest(hidden: Tensor, head: Head) -> Tensor:
    """The most probable id of each row (N,); logits exist a few rows at a time."""
    rows = Layout.plan(len(hidden), len(head.weight), hidden.device, torch.float32, None).chunk
    return torch.cat([head.logits(part).argmax(-1) for part in hidden.split(rows)])
