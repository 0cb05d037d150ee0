"""Neighbouring tokens of a span tied to each other: the span consistency of DAC-KL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.targets import linear
from methods.slots.term import Term, Weight
from methods.slots.terms.chunks import by_chunk

# Which tokens end a span, by their text.
SPANS: Mapping[str, Callable[[str], bool]] = {
    "ends-in-digit": lambda token: token[-1:].isdigit(),
    "ends-in-punctuation": lambda token: token[-1:] in tuple(".,;:!?"),
}


@component("term", "span-consistency")
class SpanConsistency(Term):
    """|| p_i * p_j - q_i * q_j || over neighbouring tokens i, j of a span, products token by token.

    Divided by the completion tokens. A span ends with its sequence and at each token that `spans` says: "ends-in-digit"
    (the vowels of phonemes with a stress mark), "ends-in-punctuation", or a list of ids. Logits of `chunk_size` pairs
    exist at a time (default: by memory).
    Source: arXiv 2407.10068, eq. 10, whose spans are phrases that a chunker finds; the norm unsquared is our reading.
    """

    def __init__(
        self,
        spans: str | Sequence[int] = "ends-in-punctuation",
        *,
        weight: Weight = 1.0,
        chunk_size: int | None = None,
    ):
        if isinstance(spans, str) and spans not in SPANS:
            raise MethodError(f"unknown spans {spans!r}; a list of ids, or one of {', '.join(SPANS)}")
        self.spans, self.weight, self.chunk_size = spans, weight, chunk_size

    def prepare(self, trainer: Any) -> None:
        if isinstance(self.spans, str):
            ends = SPANS[self.spans]
            vocabulary = trainer.processing_class.get_vocab()
            self.spans = sorted(index for token, index in vocabulary.items() if token and ends(token))

    def total(self, rows: Rows) -> Tensor:
        states, head = linear(rows.teachers[0])
        size = min(len(head.weight), len(rows.head.weight))
        ends = torch.isin(rows.labels, torch.tensor(self.spans, device=rows.labels.device))
        inside = (rows.sequence[1:] == rows.sequence[:-1]) & ~ends[:-1]
        first = inside.nonzero().squeeze(-1)

        def product(hidden: Tensor, of: Head) -> Tensor:
            i, j = (of.logits(part, size).log_softmax(-1) for part in hidden.unbind(1))
            return (i + j).exp()

        def distance(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.linalg.vector_norm(product(ours, rows.head) - product(theirs, head), dim=-1).sum()

        pairs = (torch.stack([h[first], h[first + 1]], 1) for h in (rows.hidden, states))
        return by_chunk(distance, size, self.chunk_size, *pairs)
