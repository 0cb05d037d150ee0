"""The student's logits as choices one after the other: the label first, then what the teacher likes best."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.scores import shared, side_of
from methods.slots.term import Term, Weight
from methods.slots.terms.chunks import by_chunk
from methods.slots.terms.logits import check_unmasked

WEIGHTS = ("teacher", "uniform")


@component("term", "ranked-choices")
class RankedChoices(Term):
    """- sum_k a_k log(exp f_k / sum_(j >= k) exp f_j), f the student's logits in an order; mean over completion tokens.

    The order is the label, then all other ids as the teacher's logits fall. a, without gradient: "teacher" gives each
    choice what the teacher gives that id at `temperature`, "uniform" gives all of them 1 / ids (ListMLE). The first
    choice alone is the label's cross entropy. Every row is sorted: made for classes, dear for a large vocabulary.
    Source: PLD, Bassam et al., arXiv 2506.12542, sections 4.1 and 4.2, Table 6 for its other weights. Raises
    MethodError for a head that masks ids.
    """

    def __init__(
        self,
        weights: str = "teacher",
        *,
        temperature: float = 1.0,
        weight: Weight = 1.0,
        index: int = 0,
        chunk_size: int | None = None,
    ):
        if weights not in WEIGHTS:
            raise MethodError(f"choices weigh as {weights!r}, none of {', '.join(WEIGHTS)}")
        if not temperature > 0:
            raise MethodError(f"the temperature is {temperature}, not positive")
        self.weights, self.temperature = weights, temperature
        self.weight, self.index, self.chunk_size = weight, index, chunk_size

    def total(self, rows: Rows) -> Tensor:
        size = shared(rows, self.index)
        states, head = side_of(rows, "teacher", self.index)
        check_unmasked("ranked-choices cannot order", size, rows.head, head)

        def part(ours: Tensor, theirs: Tensor, labels: Tensor) -> Tensor:
            f, g = rows.head.logits(ours, size), head.logits(theirs, size).detach()
            first = g.scatter(1, labels.unsqueeze(1), torch.inf)
            order = first.argsort(dim=-1, descending=True, stable=True)
            f = f.gather(1, order)
            left = f.flip(-1).logcumsumexp(-1).flip(-1)  # of what is chosen from
            share = (g / self.temperature).softmax(-1).gather(1, order)
            if self.weights == "uniform":
                share = torch.full_like(share, 1 / size)
            return (share * (left - f)).sum()

        return by_chunk(part, size, self.chunk_size, rows.hidden, states, rows.labels)
