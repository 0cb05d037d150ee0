"""Batches as examples for a sampler, and back: of one tokenisation, or of one text under two tokenizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch import Tensor

from methods.slots.samplers import SOURCES, Example
from methods.tokenizers.alignment import ByteSpans
from methods.tokenizers.text_pairs import PairCollator, encode_texts, rows_of


class View(Protocol):
    """How rows become batches; `pad_id` is the student's."""

    pad_id: int
    retokenised: int  # completions that came back from text as other tokens than the student's sampler gave

    def examples(self, batch: Mapping[str, Any]) -> list[Example]:
        """The examples of a collated batch."""
        ...

    def examples_in(self, rows: Dataset) -> list[Example]:
        """The examples of tokenised rows."""
        ...

    def collate(self, examples: Sequence[Example], device: torch.device) -> dict[str, Any]:
        """A batch of examples, with their `source` (B,)."""
        ...


class SameTokens:
    """Rows of token ids that every teacher reads as they are."""

    def __init__(self, pad_id: int):
        self.pad_id, self.retokenised = pad_id, 0

    def examples(self, batch: Mapping[str, Tensor]) -> list[Example]:
        return examples_of(batch)

    def examples_in(self, rows: Dataset) -> list[Example]:
        return [example_of(row) for row in rows.select_columns(["input_ids", "labels"])]

    def collate(self, examples: Sequence[Example], device: torch.device) -> dict[str, Tensor]:
        return collate(examples, self.pad_id, device)


class TextPairs:
    """Rows of text under two tokenizers. A new completion becomes text, which both encode; the others stay as they are.

    `ends` says whether a completion's last id ends it. Raises MethodError for rows that came without their prompts.
    """

    def __init__(
        self,
        spans: Sequence[ByteSpans],
        limits: Sequence[int | None],
        collator: PairCollator,
        ends: Callable[[int], bool],
    ):
        self.pad_id, self.retokenised = collator.pad_id, 0
        self._spans, self._limits, self._collator, self._ends = spans, limits, collator, ends
        self._window: dict[Any, dict[str, Any]] = {}  # rows by prompt and completion, and one by prompt alone
        self._data: dict[Any, dict[str, Any]] = {}

    def examples(self, batch: Mapping[str, Any]) -> list[Example]:
        rows = rows_of(batch)
        examples = [example_of(row) for row in rows]
        self._window |= _by_example(examples, rows)
        return examples

    def examples_in(self, rows: Dataset) -> list[Example]:
        listed: list[dict[str, Any]] = list(rows)
        examples = [example_of(row) for row in listed]
        self._data |= _by_example(examples, listed)
        return examples

    def begin_window(self) -> None:
        """Forget the rows of the window before."""
        self._window = {}

    def collate(self, examples: Sequence[Example], device: torch.device) -> dict[str, Any]:
        known = [self._window.get(_key(e)) or self._data.get(_key(e)) for e in examples]
        new = [e for e, row in zip(examples, known, strict=True) if row is None]
        made = encode_texts(
            [self._prompt(e) for e in new],
            [self._spans[0].text(e.completion) for e in new],
            self._spans,
            self._limits,
            ended=[bool(e.completion) and self._ends(e.completion[-1]) for e in new],
        )
        self.retokenised += sum(
            example_of(row).completion != e.completion for e, row in zip(new, made, strict=True)
        )
        fresh = iter(made)
        batch = self._collator([next(fresh) if row is None else row for row in known])
        batch["source"] = torch.tensor([SOURCES.index(e.source) for e in examples])
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def _prompt(self, example: Example) -> str:
        """The prompt as text: its own, that of a row of the window, or what the ids spell."""
        row = self._window.get(tuple(example.prompt))
        known = example.text if row is None or example.text is not None else row["prompt"]
        return self._spans[0].text(example.prompt) if known is None else known


def _key(example: Example) -> tuple[Any, ...]:
    return tuple(example.prompt), tuple(example.completion)


def _by_example(examples: Sequence[Example], rows: Sequence[dict[str, Any]]) -> dict[Any, dict[str, Any]]:
    by_prompt = {tuple(example.prompt): row for example, row in zip(examples, rows, strict=True)}
    return by_prompt | {_key(example): row for example, row in zip(examples, rows, strict=True)}


def example_of(row: Mapping[str, Any]) -> Example:
    """Prompt and completion of a tokenised row; the completion begins at the first label."""
    ids, labels = row["input_ids"], row["labels"]
    begin = next((n for n, label in enumerate(labels) if label != -100), len(labels))
    return Example(list(ids[:begin]), list(ids[begin:]), text=row.get("prompt"))


def examples_of(batch: Mapping[str, Tensor]) -> list[Example]:
    """Prompt and completion ids of a collated batch; the completion begins at the first label."""
    examples = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        keep = mask.bool()
        examples.append(example_of({"input_ids": ids[keep].tolist(), "labels": labels[keep].tolist()}))
    return examples


def collate(examples: Sequence[Example], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask, labels (-100 on prompt and padding) and source (B,) of the examples."""
    width = max(len(e.prompt) + len(e.completion) for e in examples)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for e in examples:
        length, room = len(e.prompt) + len(e.completion), width - len(e.prompt) - len(e.completion)
        columns["input_ids"].append([*e.prompt, *e.completion, *[pad_id] * room])
        columns["attention_mask"].append([1] * length + [0] * room)
        columns["labels"].append([-100] * len(e.prompt) + e.completion + [-100] * room)
    tensors = {name: torch.tensor(rows, device=device) for name, rows in columns.items()}
    return tensors | {"source": torch.tensor([SOURCES.index(e.source) for e in examples], device=device)}
