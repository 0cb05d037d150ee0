"""A language-modelling loss on plain text beside any other terms: L_PT of MiniLLM, which DistiLLM takes over."""

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
from methods.losses.fused.linear import Head, linear_cross_entropy
from methods.modeling.core import hidden_states
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.term import NOTHING, Term, Weight, Window


@dataclass(frozen=True)
class TextBatch:
    """Right-padded `ids` and `labels` (B, L), -100 on padding."""

    ids: Tensor
    labels: Tensor

    def count(self) -> Tensor:
        """How many tokens are predicted."""
        return (self.labels[:, 1:] != -100).sum()

    def loss(self, core: torch.nn.Module, head: Head) -> tuple[Tensor, Tensor]:
        """Sum of -log q(token) under this head, in nats, and how many tokens `core` has read."""
        device = next(core.parameters()).device
        ids, labels = self.ids.to(device), self.labels.to(device)[:, 1:]
        rows = labels != -100
        attention = torch.ones_like(ids)
        attention[:, 1:] = rows
        hidden = hidden_states(core, ids, attention)[:, :-1][rows]
        return linear_cross_entropy(hidden, head, labels[rows]).total, attention.sum()


class TextStream:
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
        return [TextBatch(ids, labels) for ids, labels in drawn]

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


@component("term", "plain-text")
class PlainText(Term):
    """-log q(token) on as many rows of plain text as of the data, mean over the text's own tokens of the window.

    `corpus` has a column `text`; a text is cut at `max_length` tokens.
    Source: MiniLLM, arXiv 2306.08543, section 2.2 (L_PT); DistiLLM's official code (finetune.py: `lm_coef`, `pt_loss`).
    """

    reads = NOTHING

    def __init__(self, corpus: Dataset | None, *, weight: Weight = 1.0, max_length: int | None = 512):
        if corpus is None:
            raise MethodError("a loss on plain text needs a corpus: rows with a column text")
        self.corpus, self.weight, self.max_length = corpus, weight, max_length
        self._key, self._read = "", lambda tokens: None

    def prepare(self, trainer: Any) -> None:
        self._key = f"plain text {id(self)}"  # a window may hold the texts of several such terms
        self._read = lambda tokens: trainer.count_tokens("student", tokens)
        self._stream = TextStream(
            self.corpus,
            trainer.processing_class,
            trainer.accelerator,
            batch_size=trainer.args.per_device_train_batch_size,
            max_length=self.max_length,
            seed=trainer.args.seed,
        )

    def begin_step(self, window: Window) -> None:
        texts = self._stream.window(len(window.batches))
        for batch, text in zip(window.batches, texts, strict=True):
            batch[self._key] = text

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        text = batch.get(self._key)  # none in an evaluation
        return torch.zeros((), dtype=torch.long) if text is None else text.count()

    def total(self, rows: Rows) -> Tensor:
        if self._key not in rows.batch:
            return rows.hidden.new_zeros(())
        loss, read = rows.batch[self._key].loss(rows.core, rows.head)
        self._read(read)
        return loss

    def state(self) -> dict[str, int]:
        """What a checkpoint must keep, as plain data."""
        return self._stream.state()

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` gave."""
        self._stream.restore(state)
