"""Grade-school word problems with human step-by-step solutions: question -> reasoning lines and a final number.

GSM8K (Cobbe et al. 2021, MIT), the problems whose solution is short, so that a run on a CPU stays affordable.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.models.sources import load_rows
from reproductions.tasks.base import SPLITS, Limits, Score, Task, as_made, dataset, fingerprint, task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DATA = "openai/gsm8k"
SPLIT_VERSION = "1"  # another one makes another task: results of before and after do not compare
NGRAM = 8  # a training problem that shares this many words in a row with a held-out one is dropped


def prompt_of(question: str) -> str:
    """The prompt ends in a colon: the completion's leading blank then starts a token of its own."""
    return f"Question: {' '.join(question.split())}\nAnswer:"


def completion_of(answer: str) -> str:
    """A solution without its calculator annotations, the line `#### <number>` last."""
    plain = re.sub(r"<<[^>]*>>", "", answer)
    return " " + "\n".join(" ".join(line.split()) for line in plain.strip().splitlines())


def final_number(text: str) -> str | None:
    """The number after `####` in one spelling (1,000 and 1000.0 are 1000); None where there is none."""
    found = re.search(r"####\s*\$?(-?[\d,]*\.?\d+)", text)
    if found is None:
        return None
    value = float(found[1].replace(",", ""))
    return str(int(value)) if value == int(value) else str(value)


def ngrams(text: str) -> set[tuple[str, ...]]:
    """Runs of NGRAM lower-case words with numbers blanked: the same story with other numbers is the same problem."""
    words = re.findall(r"[a-z']+|#", re.sub(r"\d[\d,.]*", "#", text.lower()))
    return {tuple(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


def order(text: str) -> str:
    """A key that shuffles rows the same way everywhere."""
    return hashlib.sha256(f"{SPLIT_VERSION}:{text}".encode()).hexdigest()


def overlapping(rows: Iterable[Mapping[str, str]], held_out: Iterable[Mapping[str, str]]) -> list[bool]:
    """For each row, whether it shares a run of NGRAM words with a held-out prompt."""
    seen: set[tuple[str, ...]] = set().union(*(ngrams(row["prompt"]) for row in held_out))
    return [bool(ngrams(row["prompt"]) & seen) for row in rows]


def right(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """100 where the final number is the reference's, else 0."""
    pairs = zip(texts, references, strict=True)
    return 100 * np.array([float(final_number(t) == final_number(r)) for t, r in pairs])


def rouge_l(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """ROUGE-L F1 in percent, with the stemmer."""
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    scores = (scorer.score(r, t)["rougeL"] for t, r in zip(texts, references, strict=True))
    return np.array([100 * score.fmeasure for score in scores])


@task("word-problems")
class WordProblems(Task):
    """GSM8K from KD_DATA_DIR or the hub; raises KDError where neither has it.

    Problems of at most `max_lines` lines of solution that fit the limits in the tokens of the student's model.
    """

    scores: Mapping[str, Score] = {
        "rouge_l": Score(rouge_l, "ROUGE-L", 1),
        "exact_match": Score(right, "final answer right"),
    }

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        max_lines: int = 3,
        validation_problems: int = 100,
        test_problems: int = 100,
    ) -> None:
        def fits(row: Mapping[str, str]) -> bool:
            if row["completion"].count("\n") > max_lines or final_number(row["completion"]) is None:
                return False
            prompt, completion = (len(tokenizer(row[name])["input_ids"]) for name in ("prompt", "completion"))
            return prompt <= limits.prompt and completion < limits.completion  # room for EOS

        held_out, known = (self._read(split, fits) for split in ("test", "train"))
        test_rows = held_out[:test_problems]
        clean = [r for r, hit in zip(known, overlapping(known, test_rows), strict=True) if not hit]
        validation, rest = clean[:validation_problems], clean[validation_problems:]
        train_rows = [r for r, hit in zip(rest, overlapping(rest, validation), strict=True) if not hit]
        parts = [train_rows, validation, test_rows]
        super().__init__(
            shelf="word-problems",
            limits=limits,
            rows={name: as_made(dataset(part)) for name, part in zip(SPLITS, parts, strict=True)},
            revision=lambda: fingerprint([*parts, SPLIT_VERSION]),
        )

    @staticmethod
    def _read(split: str, fits: Any) -> list[dict[str, str]]:
        """The rows of a published split that fit, in a fixed shuffled order."""
        rows = load_rows(DATA, split, ("question", "answer"), config="main")
        made = [
            {"prompt": prompt_of(row["question"]), "completion": completion_of(row["answer"])} for row in rows
        ]
        return sorted(filter(fits, made), key=lambda row: order(row["prompt"]))
