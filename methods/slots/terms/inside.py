"""Terms on every token inside two encoders that read the same ids: attention scores, relations, outputs of blocks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.registry import component
from methods.slots.features import LayerFilters, Pairs, layer_pairs, squared_error
from methods.slots.inside import (
    KEYS,
    QUERIES,
    SCORES,
    STATES,
    VALUES,
    Inside,
    Wanted,
    both,
    scaled_products,
)
from methods.slots.rows import Rows
from methods.slots.term import FIRST, Term, Weight

IDENTITY = "identity"


class InsideTerm(Term):
    """A mean over pairs of blocks, over a text's tokens; summed over texts. `kinds`: what of a block is compared."""

    reads = FIRST
    kinds: tuple[str, ...]

    def __init__(self, layers: str | Pairs = "uniform", *, weight: Weight = 1.0):
        super().__init__()
        self.weight, self._layers = weight, layers
        self.student_inside: tuple[Wanted, ...] = ()
        self.teacher_inside: tuple[Wanted, ...] = ()

    def prepare(self, trainer: Any) -> None:
        if not getattr(trainer, "sees_inside", False):
            raise MethodError(f"{type(self).__name__} is about encoders that classify texts or tag tokens")
        if not trainer.first_reads_the_same:
            raise MethodError(
                f"{type(self).__name__} compares tokens, and the teacher's tokenizer makes others"
            )
        student, teacher = trainer.models.student(), trainer.models.first_teacher()
        counts = (model.config.num_hidden_layers for model in (student, teacher))
        self.layers = layer_pairs(self._layers, *counts)
        self.student_inside = tuple((kind, s) for s, _ in self.layers for kind in self.kinds)
        self.teacher_inside = tuple((kind, t) for _, t in self.layers for kind in self.kinds)
        self.check(trainer, student.config, teacher.config)

    def check(self, trainer: Any, student: Any, teacher: Any) -> None:
        """Raises MethodError where two models do not fit; makes what learns."""

    def total(self, rows: Rows) -> Tensor:
        if rows.inside is None:
            raise MethodError(
                f"{type(self).__name__} wants tokens inside the models, and these rows have none"
            )
        total = rows.hidden.new_zeros(())
        for s, t in self.layers:
            total = total + self.between(s, t, *rows.inside).sum()
        return total / len(self.layers)

    def between(self, s: int, t: int, ours: Inside, theirs: Inside) -> Tensor:
        """(B,): of each text the distance between the student's block s and the teacher's block t."""
        raise MethodError(f"{type(self).__name__} does not say what it compares")


@component("term", "attention-match")
class AttentionMatch(InsideTerm):
    """Squared error between attention scores before the softmax, a mean over heads and a text's pairs of tokens.

    `layers` as of `hidden-match`: "uniform", "top", "bottom", "last", or pairs of blocks. Mean over these.
    Models have as many heads.
    Source: TinyBERT, Jiao et al., arXiv 1909.10351, equation 7 (its sum over blocks is a mean here), in the form of
    unnormalised scores that it found to converge faster.
    """

    kinds = (SCORES,)

    def check(self, trainer: Any, student: Any, teacher: Any) -> None:
        heads = student.num_attention_heads, teacher.num_attention_heads
        if heads[0] != heads[1]:
            raise MethodError(
                f"attention is matched head by head: the student has {heads[0]}, the teacher {heads[1]}"
            )

    def between(self, s: int, t: int, ours: Inside, theirs: Inside) -> Tensor:
        error = (ours.scores[s] - theirs.scores[t].to(ours.scores[s].dtype)).square()
        there = both(ours.mask)
        pairs = there.sum((1, 2, 3)) * error.shape[1]
        return torch.where(there, error, 0.0).sum((1, 2, 3)) / pairs


RELATIONS = {
    "attention": (QUERIES, KEYS),
    "queries": (QUERIES, QUERIES),
    "keys": (KEYS, KEYS),
    "values": (VALUES, VALUES),
}


@component("term", "relation-match")
class RelationMatch(InsideTerm):
    """Divergence in nats of a student's relations among a text's tokens from a teacher's, a mean over heads and tokens.

    KL(teacher || student) between softmaxes over the tokens of scaled products, those of `of`: "attention" (queries by
    keys: the attention itself), "values" (values by values), "queries" or "keys" (likewise). `heads`: into how many
    both models' projections are cut, whatever they have themselves; None: their attention heads, as many on both sides.
    `layers` as of `hidden-match`, "last" if nothing is said; mean over the pairs of blocks. Widths may differ.
    Source: MiniLM, Wang et al., arXiv 2002.10957, equations of self-attention distribution and value-relation transfer
    (sections 3.1 and 3.2), a mean over heads and tokens there too; `heads` as MiniLMv2, arXiv 2012.15828, has them.
    """

    def __init__(
        self, of: str, layers: str | Pairs = "last", *, weight: Weight = 1.0, heads: int | None = None
    ):
        super().__init__(layers, weight=weight)
        if of not in RELATIONS:
            raise MethodError(f"relations are of {', '.join(RELATIONS)}, not of {of!r}")
        self._of, self._heads = RELATIONS[of], heads
        self.kinds = tuple(dict.fromkeys(self._of))

    def check(self, trainer: Any, student: Any, teacher: Any) -> None:
        if self._heads is None and student.num_attention_heads != teacher.num_attention_heads:
            raise MethodError(
                f"relations are matched head by head: the student has {student.num_attention_heads}, the teacher "
                f"{teacher.num_attention_heads}; say into how many `heads` both are cut"
            )
        self._cut = self._heads or student.num_attention_heads
        for width in (student.hidden_size, teacher.hidden_size):
            if self._cut < 1 or width % self._cut:
                raise MethodError(f"{width} dimensions cannot be cut into {self._cut} heads")

    def between(self, s: int, t: int, ours: Inside, theirs: Inside) -> Tensor:
        mine, aim = self._relations(s, ours), self._relations(t, theirs)
        divergence = (aim.exp() * (aim - mine)).masked_fill(~both(ours.mask), 0.0)
        return divergence.sum((1, 2, 3)) / (ours.mask.sum(-1) * self._cut)

    def _relations(self, block: int, side: Inside) -> Tensor:
        """(B, heads, L, L): of each token the log-probabilities of those that are there, finite where one is not."""
        first, second = (side.projections[kind, block] for kind in self._of)
        products = scaled_products(first, second, self._cut)
        products = products.to(torch.promote_types(products.dtype, torch.float32))
        least = torch.finfo(products.dtype).min
        return products.masked_fill(~side.mask[:, None, None, :], least).log_softmax(-1)


@component("term", "token-states-match")
class TokenStatesMatch(InsideTerm, nn.Module):
    """Squared error between outputs of blocks at every token, a mean over dimensions and a text's tokens.

    `layers` as of `hidden-match`. `filters`: None, where a linear map to the teacher's width learns with the student
    for each block, from `seed` or the trainer's; "identity" for models of one width, where nothing is mapped.
    Source: TinyBERT, Jiao et al., arXiv 1909.10351, equation 8 (its sum over blocks is a mean here, its one map one for
    each block).
    """

    kinds = (STATES,)

    def __init__(
        self,
        layers: str | Pairs = "uniform",
        *,
        weight: Weight = 1.0,
        filters: str | None = None,
        seed: int | None = None,
    ):
        nn.Module.__init__(self)
        InsideTerm.__init__(self, layers, weight=weight)
        if filters not in (None, IDENTITY):
            raise MethodError(f"filters are {IDENTITY} or nothing, not {filters!r}")
        self._plain, self._seed = filters == IDENTITY, seed
        self.filters: LayerFilters | None = None

    def check(self, trainer: Any, student: Any, teacher: Any) -> None:
        width, aim = student.hidden_size, teacher.hidden_size
        if self._plain and width != aim:
            raise MethodError(f"the student's states have {width} dimensions, the teacher's {aim}")
        if not self._plain:
            seed = int(trainer.args.seed if self._seed is None else self._seed)
            blocks = list(dict.fromkeys(s for s, _ in self.layers))
            self.filters = LayerFilters(blocks, width, aim, seed=seed)

    def between(self, s: int, t: int, ours: Inside, theirs: Inside) -> Tensor:
        mine = ours.states[s] if self.filters is None else self.filters(s, ours.states[s])
        error = squared_error(mine, theirs.states[t].to(mine.dtype))
        return torch.where(ours.mask, error, 0.0).sum(-1) / ours.mask.sum(-1)
