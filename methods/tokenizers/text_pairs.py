"""Rows of text under two tokenizers: ids, labels and chunks of both sides, made once and collated in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from methods.errors import MethodError
from methods.tokenizers.alignment import ByteSpans, Spans, align

COLUMNS = ("input_ids", "labels", "chunks")
ID_COLUMNS = tuple(prefix + name for prefix in ("", "teacher_") for name in COLUMNS)


def encode_pairs(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int | None = None,
    teacher_max_length: int | None = None,
    keep: Sequence[str] = (),
) -> Dataset:
    """Columns `input_ids`, `labels`, `chunks` and the same with `teacher_` for rows of `prompt` and `completion` text.

    Each side encodes prompt + completion as one text and ends it with its EOS, which counts as one more byte. Labels
    are -100 except on tokens that begin in the completion. `chunks` numbers the row's smallest common chunks inside
    the completion, -1 elsewhere: on tokens of a chunk that begins in the prompt, and behind either length limit.
    `prompt` stays for those who want another completion of it. A column `teacher_prompt` holds what the teacher reads
    in its place (its chat template, examples); the completion alone is aligned then, and no prompt stays. Rows without
    a label are left out. The columns `keep` stay as they are.
    Raises MethodError for missing columns or a tokenizer without an EOS.
    """
    if not {"prompt", "completion"} <= set(dataset.column_names):
        raise MethodError(
            f"rows need the columns prompt and completion, not {', '.join(dataset.column_names)}"
        )
    prompts, completions = dataset["prompt"][:], dataset["completion"][:]
    if any(not isinstance(text, str) for text in (*prompts[:1], *completions[:1])):
        raise MethodError("prompt and completion must be text: apply each side's chat template beforehand")
    sides = ByteSpans(tokenizer), ByteSpans(teacher_tokenizer)
    limits = max_length, teacher_max_length
    theirs = dataset["teacher_prompt"][:] if "teacher_prompt" in dataset.column_names else None
    encoded = encode_texts(prompts, completions, sides, limits, teacher_prompts=theirs)
    places = [n for n, row in enumerate(encoded) if any(label != -100 for label in row["labels"])]
    names = ("prompt", *ID_COLUMNS) if theirs is None else ID_COLUMNS
    columns = {name: [encoded[n][name] for n in places] for name in names}
    for name in keep:
        column = dataset[name][:]
        columns[name] = [column[n] for n in places]
    return Dataset.from_dict(columns)


def encode_texts(
    prompts: Sequence[str],
    completions: Sequence[str],
    sides: Sequence[ByteSpans],
    limits: Sequence[int | None] = (None, None),
    *,
    ended: Sequence[bool] | None = None,
    teacher_prompts: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The rows of `encode_pairs`, all of them, from texts; a completion that is not `ended` gets no EOS.

    `sides` and `limits` are the student's and the teacher's. Raises MethodError for a tokenizer without an EOS.
    """
    asked = prompts, prompts if teacher_prompts is None else teacher_prompts
    begins = [max(len(prompt.encode()) for prompt in pair) for pair in zip(*asked, strict=True)]
    endings = [True] * len(completions) if ended is None else ended
    spans = []
    for side, own in zip(sides, asked, strict=True):
        texts = [p + c for p, c in zip(own, completions, strict=True)]
        eos, read = eos_of(side.tokenizer), zip(texts, side(texts), endings, strict=True)
        whole = [_ended(one, len(text.encode()), eos, end) for text, one, end in read]
        # Both completions begin at one byte, so that they can be aligned whatever came before.
        moves = [begin - len(prompt.encode()) for begin, prompt in zip(begins, own, strict=True)]
        spans.append([_moved(one, by) for one, by in zip(whole, moves, strict=True)])
    return [
        {"prompt": prompt, **_row(begin, ours, theirs, limits)}
        for prompt, begin, ours, theirs in zip(prompts, begins, *spans, strict=True)
    ]


def _moved(spans: Spans, by: int) -> Spans:
    """As if `by` more bytes stood before the text, in its first token; nothing moves where no token has bytes."""
    return Spans(spans.ids, [end + by for end in spans.ends]) if by and any(spans.ends) else spans


def eos_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The tokenizer's EOS id. Raises MethodError where it has none."""
    if not isinstance(tokenizer.eos_token_id, int):
        raise MethodError(f"{type(tokenizer).__name__} has no EOS: a completion would never end")
    return tokenizer.eos_token_id


def _ended(spans: Spans, size: int, eos: int, end: bool) -> Spans:
    """With an EOS of one byte behind the text of `size` bytes, or without one, whether or not the template adds one."""
    added = bool(spans.ids) and spans.ids[-1] == eos and spans.starts()[-1] == spans.ends[-1]
    keep = len(spans.ids) - added
    return Spans([*spans.ids[:keep], *[eos] * end], [*spans.ends[:keep], *[size + 1] * end])


def _row(begin: int, ours: Spans, theirs: Spans, limits: Sequence[int | None]) -> dict[str, list[int]]:
    sides = [ours, theirs]
    sizes = [
        len(s.ids) if limit is None else min(limit, len(s.ids))
        for s, limit in zip(sides, limits, strict=True)
    ]
    numbers = [[-1] * len(s.ids) for s in sides]
    count = 0
    for chunk in align(ours.ends, theirs.ends):
        parts = [chunk.first, chunk.second]
        # The first token of a sequence is given, not predicted; where it is BOS the chunk does without it.
        unpredicted = any(part.start == 0 and s.ends[0] > 0 for part, s in zip(parts, sides, strict=True))
        cut = any(part.stop > size for part, size in zip(parts, sizes, strict=True))
        if chunk.start >= begin and not unpredicted and not cut:
            for part, column in zip(parts, numbers, strict=True):
                for index in part:
                    column[index] = count if index else -1
            count += 1
    row: dict[str, list[int]] = {}
    for prefix, spans, size, column in zip(("", "teacher_"), sides, sizes, numbers, strict=True):
        labels = [i if start >= begin else -100 for i, start in zip(spans.ids, spans.starts(), strict=True)]
        row[prefix + "input_ids"] = spans.ids[:size]
        row[prefix + "labels"] = [-100, *labels[1:size]][:size]
        row[prefix + "chunks"] = column[:size]
    return row


@dataclass(frozen=True)
class PairCollator:
    """Right-padded tensors of both sides, with `attention_mask` and `teacher_attention_mask`; prompts stay as text."""

    pad_id: int
    teacher_pad_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = {"prompt": [row["prompt"] for row in rows]} if "prompt" in rows[0] else {}
        for prefix, pad in (("", self.pad_id), ("teacher_", self.teacher_pad_id)):
            lengths = [len(row[prefix + "input_ids"]) for row in rows]
            width = max(lengths)
            for name, filler in zip(COLUMNS, (pad, -100, -1), strict=True):
                padded = [
                    [*row[prefix + name], *[filler] * (width - size)]
                    for row, size in zip(rows, lengths, strict=True)
                ]
                batch[prefix + name] = torch.tensor(padded)
            batch[prefix + "attention_mask"] = torch.tensor([[1] * n + [0] * (width - n) for n in lengths])
        return batch


def rows_of(batch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows that `PairCollator` made a batch of. Raises MethodError where they came without their prompts."""
    if "prompt" not in batch:
        raise MethodError("rows without their prompt as text cannot get another completion: encode them anew")
    rows: list[dict[str, Any]] = [{"prompt": prompt} for prompt in batch["prompt"]]
    for prefix in ("", "teacher_"):
        sizes = batch[prefix + "attention_mask"].sum(1).tolist()
        for name in COLUMNS:
            for row, ids, size in zip(rows, batch[prefix + name].tolist(), sizes, strict=True):
                row[prefix + name] = ids[:size]
    return rows
