"""Rows of text as token ids: prompt, completion, end of sequence; what is learnt begins behind the prompt."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from methods.errors import MethodError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# SFTConfig fields for rows that `encode` made.
SKIP_PREPARATION: Mapping[str, Any] = {"dataset_kwargs": {"skip_prepare_dataset": True}, "max_length": None}


def encode(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *columns: str) -> Dataset:
    """Columns `input_ids` and `labels` (-100 on the prompt), cut at `max_tokens`; further `columns` of the rows stay.

    What TRL's preparation gives, in one batched call instead of four passes row by row: for runs of ten seconds those
    passes cost more than the training. Hand it over with `SKIP_PREPARATION`. A completion that ends with EOS already
    gets no second one. What the last few rows became is kept by their content, as a worker makes many runs on the same
    rows. Raises MethodError where the tokenizer has no EOS, or the rows lack a column.
    """
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise MethodError(f'the rows have no column "{missing[0]}"; they have {", ".join(rows.column_names)}')
    key = encoding_key(rows, tokenizer, max_tokens, *columns)
    if key not in _KEPT:
        _KEPT[key] = _encoded(rows, tokenizer, max_tokens, columns)
        while len(_KEPT) > KEPT:
            del _KEPT[next(iter(_KEPT))]
    _KEPT[key] = _KEPT.pop(key)  # the last to be forgotten
    return _KEPT[key]


KEPT = 8  # rows that were encoded last
_KEPT: dict[str, Dataset] = {}


def encoding_key(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *columns: str) -> str:
    """A hash of all that `encode` reads: the rows' texts, the tokenizer as it is, and how it is asked."""
    hashed = hashlib.sha256(_tokenizer_text(tokenizer).encode())
    for name in ("prompt", "completion", *columns):
        column = rows[name][:]
        plain = json.dumps(column, ensure_ascii=False, default=repr)
        hashed.update(f"{name} {len(column)} {len(plain)} {plain}".encode("utf-8", "surrogatepass"))
    hashed.update(f"{max_tokens} {columns}".encode())
    return hashed.hexdigest()


def _tokenizer_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer does with a text, written out; of one that is not in Rust, which object it is."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    what = str(id(tokenizer)) if backend is None else backend.to_str()
    return f"{what} {tokenizer.eos_token} {getattr(tokenizer, 'add_bos_token', None)}"


def _encoded(
    rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_tokens: int, columns: Sequence[str]
) -> Dataset:
    from datasets import Dataset

    whole, begins = tokenized(rows, tokenizer)
    ids = [row[:max_tokens] for row in whole]
    starts = [min(start, len(row)) for start, row in zip(begins, ids, strict=True)]
    labels = [[-100] * n + row[n:] for n, row in zip(starts, ids, strict=True)]
    kept = [i for i, (n, row) in enumerate(zip(starts, ids, strict=True)) if n < len(row)]
    made = {"input_ids": [ids[i] for i in kept], "labels": [labels[i] for i in kept]}
    for name in columns:
        values = rows[name][:]
        made[name] = [values[i] for i in kept]
    return Dataset.from_dict(made)


def tokenized(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> tuple[list[list[int]], list[int]]:
    """Ids of each row: prompt, completion, EOS; and how many are the prompt's. Raises MethodError as `encode` does."""
    eos = eos_token(tokenizer)
    # A column is read whole: row by row takes longer than the tokenizer.
    prompts, completions = rows["prompt"][:], rows["completion"][:]
    whole = [p + c.removesuffix(eos) + eos for p, c in zip(prompts, completions, strict=True)]
    ids, asked = (
        tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
        for texts in (whole, prompts)
    )
    return list(ids), [common(a, b) for a, b in zip(asked, ids, strict=True)]


def eos_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that ends a completion. Raises MethodError where the tokenizer has none."""
    if tokenizer.eos_token is None:
        where = tokenizer.name_or_path or "the tokenizer"
        raise MethodError(
            f"{where}: no end-of-sequence token, so nothing would end an answer; name one as eos_token in its "
            "tokenizer_config.json"
        )
    return str(tokenizer.eos_token)


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
