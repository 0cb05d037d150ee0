"""Texts with labels as the trainer of classes reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

ROW = "row"  # the number of a row: what a teacher said of it is looked up by it


def encoded_texts(
    texts: Sequence[str], labels: Sequence[int], tokenizers: Mapping[str, Any], limit: int
) -> tuple[Dataset, dict[str, int]]:
    """Rows as each tokenizer makes them, under its prefix, with `labels` and `row`; how many texts each one cut."""
    from datasets import Dataset

    columns: dict[str, Any] = {"labels": list(labels), ROW: list(range(len(texts)))}
    cut = {}
    for prefix, tokenizer in tokenizers.items():
        made = tokenizer(list(texts), truncation=True, max_length=limit)
        columns |= {prefix + name: made[name] for name in tokenizer.model_input_names if name in made}
        whole = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        cut[prefix] = sum(len(own) > limit for own in whole)
    return Dataset.from_dict(columns), cut
