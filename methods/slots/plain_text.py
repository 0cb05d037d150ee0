"""A language-modelling loss on plain text beside a distillation: L_PT of MiniLLM, which DistiLLM takes over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_cross_entropy
from methods.modeling.core import hidden_states
from methods.modeling.normalise import window_tokens


@dataclass(frozen=True)
class TextBatch:
    """Right-padded `ids` and `labels` (B, L), -100 on padding; `tokens`: predicted ones of the window on all ranks."""

    ids: Tensor
    labels: Tensor
    tokens: Tensor

    def loss(self, core: torch.nn.Module) -> tuple[Tensor, Tensor]:
        """Sum of -log q(token), in nats, and how many tokens `core` has read."""
        device = next(core.parameters()).device
        ids, labels = self.ids.to(device), self.labels.to(device)[:, 1:]
        rows = labels != -100
        attention = torch.ones_like(ids)
        attention[:, 1:] = rows
        hidden = hidden_states(core, ids, attention)[:, :-1][rows]
        return linear_cross_entropy(hidden, head_of(core), labels[rows]).total, attention.sum()


class PlainText:
    """This rank's batches of a corpus (column `text`) for ever, in an order that the seed fixes.

    `max_length` cuts a text, in tokens. Every rank draws the same global batch and keeps its own rows. Raises
    MethodError where the corpus is smaller than one batch over all ranks.
    Source: MiniLLM, arXiv 2306.08543, section 2.2 (L_PT).
    """

    def __init__(
        self,
        corpus: Dataset,
        tokenizer: Any,
        accelerator: Accelerator,
        *,
        batch_size: int,
        max_length: int | None,
        seed: int,
    ):
        self.accelerator = accelerator
        ranks = accelerator.num_processes
        if len(corpus) < batch_size * ranks:
            raise MethodError(
                f"the pretraining corpus has {len(corpus)} texts, fewer than one batch over {ranks} ranks"
            )
        self._tokenizer, self._limit = tokenizer, max_length
        self._batches, self._drawn = self._endless(corpus, batch_size * ranks, seed), 0

    def window(self, micro_batches: int) -> list[TextBatch]:
        """The next batches, one for each micro-batch of an optimizer step."""
        drawn = [next(self._batches) for _ in range(micro_batches)]
        self._drawn += micro_batches
        tokens = window_tokens(
            sum(int((labels[:, 1:] != -100).sum()) for _, labels in drawn), self.accelerator
        )
        return [TextBatch(ids, labels, tokens) for ids, labels in drawn]

    def state(self) -> dict[str, int]:
        """What a checkpoint must keep, as plain data."""
        return {"drawn": self._drawn}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` gave."""
        while self._drawn < state["drawn"]:
            next(self._batches)
            self._drawn += 1

    def _endless(self, corpus: Dataset, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.Generator().manual_seed(seed)
        while True:
            yield from DataLoader(
                corpus,
                batch_size=size,
                shuffle=True,
                drop_last=True,
                generator=order,
                collate_fn=self._collate,
            )

    def _collate(self, rows: list[dict[str, str]]) -> tuple[Tensor, Tensor]:
        own = rows[self.accelerator.process_index :: self.accelerator.num_processes]
        tokens = [
            self._tokenizer(row["text"], truncation=self._limit is not None, max_length=self._limit)[
                "input_ids"
            ]
            for row in own
        ]
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), self._tokenizer.pad_token_id)
        labels = torch.full((len(tokens), width), -100)
        for i, sequence in enumerate(tokens):
            ids[i, : len(sequence)] = labels[i, : len(sequence)] = torch.tensor(sequence)
        return ids, labels
