"""What every slot of the loss sees of a micro-batch: the completion tokens of the student, and each teacher at them.

A teacher may read the student's own ids (one vocabulary), or the same text cut by a tokenizer of its own. The first is
`Rows.teachers`, row by row beside the student's; the second is `Rows.sides()`, two lists of tokens with the chunks of
text that both tokenizers cut alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.slots.inside import Inside
from methods.teachers.top_k import TopK


@dataclass(frozen=True)
class Rows:
    """The N completion tokens of a micro-batch."""

    hidden: Tensor  # (N, H) of the student, with gradient; row n predicts label n
    head: Head
    # per teacher of the student's ids: hidden states (N, H_t) and head without gradient, or its most probable ids
    teachers: tuple[tuple[Tensor, Head] | TopK, ...]
    labels: Tensor  # (N,)
    source: Tensor  # (N,) where the sequence comes from: an index into methods.slots.samplers.SOURCES
    sequence: Tensor  # (N,) row of the micro-batch
    position: Tensor  # (N,) place in the completion, from 0
    core: Any = None  # the student, for a term that reads text of its own
    batch: Mapping[str, Any] = field(default_factory=dict)  # the collated batch
    blocks: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # outputs (N, H) of the student's blocks asked for
    teacher_blocks: Mapping[int, Tensor] = field(
        default_factory=dict
    )  # the first teacher's, at the rows it has
    pair: tuple[Side, Side] | None = None
    inside: tuple[Inside, Inside] | None = None  # every token of student and first teacher, of encoders

    def sides(self) -> tuple[Side, Side]:
        """Student and teacher under their own tokenizers. Raises MethodError where the rows are the student's alone."""
        if self.pair is None:
            raise MethodError("this term compares two tokenisations, and these rows have one")
        return self.pair


@dataclass(frozen=True)
class Side:
    """The N completion tokens of one model under its own tokenizer, sequence by sequence."""

    hidden: Tensor  # (N, H); row n predicts label n
    head: Head
    labels: Tensor  # (N,)
    sequence: Tensor  # (N,) row of the micro-batch
    chunks: Tensor  # (N,) number of the chunk within the micro-batch, -1 for none
    shared: Tensor  # (M,) ids of the tokens that both sides have, in one order
    eos: int
    inputs: Tensor  # (N,) the token before label n
    embed: Callable[[Tensor], Tensor]  # ids (...) -> (..., E), as the model embeds the tokens that go in

    def chunk_count(self) -> int:
        """How many chunks there are."""
        return int(self.chunks.max()) + 1 if len(self.chunks) else 0

    def rows_of_chunks(self, count: int, end: str = "last") -> Tensor:
        """The row of each chunk's "first" or "last" token: (count,)."""
        rows = torch.arange(len(self.chunks), device=self.chunks.device)
        inside = self.chunks >= 0
        start, pick = (0, "amax") if end == "last" else (len(rows), "amin")
        return rows.new_full((count,), start).scatter_reduce_(0, self.chunks[inside], rows[inside], pick)


def count_tokens(batch: Mapping[str, Any], prefix: str = "") -> Tensor:
    """How many completion tokens a collated batch has."""
    return (batch[prefix + "labels"][:, 1:] != -100).sum()


def count_sequences(batch: Mapping[str, Any]) -> Tensor:
    """How many sequences of a collated batch have completion tokens."""
    return (batch["labels"][:, 1:] != -100).any(1).sum()


def count_chunks(batch: Mapping[str, Any]) -> Tensor:
    """How many chunks a collated batch of two tokenisations has."""
    return (batch["chunks"].amax(1) + 1).sum()
