"""Scores of answers against references, one figure per pair: token ids, words, texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def percent_right(predictions: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
    """100 where the answer is the reference, else 0."""
    return 100 * exact_match(predictions, references)


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array (B, max length), with their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    out = np.full((len(rows), max(1, int(lengths.max(initial=0)))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out, lengths


def rouge_l(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """ROUGE-L F1 in percent on token ids, one figure per pair; 0 where either side is empty (Lin 2004)."""
    a, n = padded(predictions, -1)
    b, m = padded(references, -2)
    table = np.zeros((len(a), a.shape[1] + 1, b.shape[1] + 1), dtype=np.int64)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            table[:, i + 1, j + 1] = np.where(
                a[:, i] == b[:, j], table[:, i, j] + 1, np.maximum(table[:, i, j + 1], table[:, i + 1, j])
            )
    # The fills never match, so the last cell holds the longest common subsequence of the unpadded rows.
    common = table[:, -1, -1]
    return 100.0 * 2 * common / np.maximum(n + m, 1)


def edit_distance(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """Levenshtein distance on token ids, one integer per pair."""
    a, n = padded(predictions, -1)
    b, m = padded(references, -2)
    table = np.zeros((len(a), a.shape[1] + 1, b.shape[1] + 1), dtype=np.int64)
    table[:, :, 0] = np.arange(a.shape[1] + 1)
    table[:, 0, :] = np.arange(b.shape[1] + 1)
    for i in range(a.shape[1]):
        for j in range(b.shape[1]):
            table[:, i + 1, j + 1] = np.minimum(
                np.minimum(table[:, i, j + 1], table[:, i + 1, j]) + 1,
                table[:, i, j] + (a[:, i] != b[:, j]),
            )
    return table[np.arange(len(a)), n, m]


def error_rate(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """Edit distance over reference length, in percent, one figure per pair; can exceed 100."""
    lengths = np.array([max(1, len(row)) for row in references])
    return 100.0 * edit_distance(predictions, references) / lengths


def exact_match(predictions: Sequence[Sequence[Any]], references: Sequence[Sequence[Any]]) -> np.ndarray:
    """1.0 where the answer is the reference, else 0.0."""
    return np.array([float(list(p) == list(r)) for p, r in zip(predictions, references, strict=True)])


def rouge_l_of_texts(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) ROUGE-L F1 in percent with the stemmer: of each text the best over its references, as papers on instructions
    measure it."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    best = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in known)
        for text, known in zip(texts, references, strict=True)
    ]
    return 100 * np.array(best)
