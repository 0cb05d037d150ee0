"""Scores of answers against references, one figure per answer: token ids, words, texts.

A row's reference is one answer, or a list of answers that are all right: then the best of the scores over them counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

Pairs = Callable[[Sequence[Any], Sequence[Any]], np.ndarray]


def answers_of(reference: Any) -> list[Any]:
    """The answers that a row's reference holds: those of a list of lists, else the reference itself."""
    several = isinstance(reference, list | tuple) and reference and isinstance(reference[0], list | tuple)
    return list(reference) if several else [reference]


def best_over(pick: np.ufunc) -> Callable[[Pairs], Pairs]:
    """Makes of a score of pairs one that picks, by `np.maximum` or `np.minimum`, over the answers of each reference."""

    def wrap(score: Pairs) -> Pairs:
        @wraps(score)
        def scored(predictions: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
            known = [answers_of(reference) for reference in references]
            counts = [len(answers) for answers in known]
            said = [row for row, n in zip(predictions, counts, strict=True) for _ in range(n)]
            figures = score(said, [answer for answers in known for answer in answers])
            if len(figures) == len(counts):
                return figures
            return pick.reduceat(figures, np.cumsum([0, *counts[:-1]]))

        return scored

    return wrap


def percent_right(predictions: Sequence[Any], references: Sequence[Any]) -> np.ndarray:
    """100 where the answer is one of the reference's, else 0."""
    return 100 * exact_match(predictions, references)


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ids as one array (B, max length), with their lengths (B,)."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    out = np.full((len(rows), max(1, int(lengths.max(initial=0)))), fill, dtype=np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out, lengths


@best_over(np.maximum)
def rouge_l(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """ROUGE-L F1 in percent on token ids, one figure per pair; 0 where either side is empty (Lin 2004)."""
    a, n = padded(predictions, -1)
    b, m = padded(references, -2)
    a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)  # the pairs stand together
    table = np.zeros((len(a) + 1, len(b) + 1, len(n)), dtype=np.int16)
    for i in range(len(a)):
        for j in range(len(b)):
            table[i + 1, j + 1] = np.where(
                a[i] == b[j], table[i, j] + 1, np.maximum(table[i, j + 1], table[i + 1, j])
            )
    # The fills never match, so the last cell holds the longest common subsequence of the unpadded rows.
    common = table[-1, -1].astype(np.int64)
    return 100.0 * 2 * common / np.maximum(n + m, 1)


@best_over(np.minimum)
def edit_distance(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """Levenshtein distance on token ids, one integer per pair."""
    a, n = padded(predictions, -1)
    b, m = padded(references, -2)
    a, b = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T)
    table = np.zeros((len(a) + 1, len(b) + 1, len(n)), dtype=np.int16)
    table[:, 0] = np.arange(len(a) + 1)[:, None]
    table[0] = np.arange(len(b) + 1)[:, None]
    for i in range(len(a)):
        for j in range(len(b)):
            table[i + 1, j + 1] = np.minimum(
                np.minimum(table[i, j + 1], table[i + 1, j]) + 1, table[i, j] + (a[i] != b[j])
            )
    return table[n, m, np.arange(len(n))].astype(np.int64)


@best_over(np.minimum)
def error_rate(predictions: Sequence[Sequence[int]], references: Sequence[Sequence[int]]) -> np.ndarray:
    """Edit distance over reference length, in percent, one figure per pair; can exceed 100."""
    lengths = np.array([max(1, len(row)) for row in references])
    return 100.0 * edit_distance(predictions, references) / lengths


@best_over(np.maximum)
def exact_match(predictions: Sequence[Sequence[Any]], references: Sequence[Sequence[Any]]) -> np.ndarray:
    """1.0 where the answer is one of the reference's, else 0.0."""
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
