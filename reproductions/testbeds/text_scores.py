"""ROUGE-L of texts, as the papers on instructions measure it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rouge_score import rouge_scorer


def rouge_l(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) ROUGE-L F1 in percent with the stemmer: of each text the best over its references."""
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    best = [
        max(scorer.score(reference, text)["rougeL"].fmeasure for reference in known)
        for text, known in zip(texts, references, strict=True)
    ]
    return 100 * np.array(best)
