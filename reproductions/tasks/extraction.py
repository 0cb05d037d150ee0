"""Extract the entities of a type from a sentence.

CrossNER (Liu et al. 2020, arXiv 2012.04373) as questions about one sentence and one type of entity (UniversalNER's
form of it), those that have an answer, sentences and answers short enough for a CPU.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.models.sources import mirror, read_jsonl
from reproductions.tasks.base import SPLITS, Limits, Score, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.scores import percent_right, rouge_l

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DOMAINS = ("ai", "literature", "music", "politics", "science")
PUBLISHER = "https://github.com/universal-ner/universal-ner, src/eval/test_data/CrossNER_<domain>.json"
VERSION = "1"  # another one makes another task: results of before and after do not compare


class Short(NamedTuple):
    """How long a sentence, an answer, and a list of entities may be."""

    sentence_words: int
    answer_words: int
    entities: int


def row_of(sentence: str, question: str, entities: Sequence[str]) -> dict[str, str]:
    """The prompt ends in a colon: the completion's leading blank then starts a token of its own."""
    return {"prompt": f"{sentence}\n{question}\nAnswer:", "completion": " " + "; ".join(entities)}


def rows_of(conversations: Iterable[Mapping[str, Any]], short: Short) -> list[dict[str, str]]:
    """Questions with an answer that are short enough, each once; an entity named twice is asked for once."""
    rows: dict[str, dict[str, str]] = {}
    for record in conversations:
        sentence, _, *turns = (turn["value"] for turn in record["conversations"])
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            entities = list(dict.fromkeys(json.loads(answer)))
            words = sum(len(entity.split()) for entity in entities)
            fits = len(sentence.split()) <= short.sentence_words and words <= short.answer_words
            if fits and 0 < len(entities) <= short.entities:
                row = row_of(sentence, question, entities)
                rows.setdefault(row["prompt"], row)
    return list(rows.values())


def split(
    rows: Iterable[dict[str, str]], validation_sentences: int, test_sentences: int
) -> tuple[list[dict[str, str]], ...]:
    """Training, validation and test rows; all questions about a sentence are in one of them."""
    by_sentence: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_sentence.setdefault(row["prompt"].partition("\n")[0], []).append(row)

    def order(text: str) -> str:
        return hashlib.sha256(f"{VERSION}:{text}".encode()).hexdigest()

    groups = [by_sentence[sentence] for sentence in sorted(by_sentence, key=order)]
    ends = test_sentences, test_sentences + validation_sentences
    parts = groups[ends[1] :], groups[ends[0] : ends[1]], groups[: ends[0]]
    return tuple([row for group in part for row in group] for part in parts)


def word_f1(prediction: str, reference: str) -> float:
    """F1 over the bags of words, in percent, as extractive question answering counts it (SQuAD)."""
    a, b = Counter(prediction.lower().split()), Counter(reference.lower().split())
    both = (a & b).total()
    return 100 * 2 * both / (a.total() + b.total()) if both else 0.0


def rouge_l_of_words(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """ROUGE-L over words, whatever tokens they are made of."""
    words: dict[str, int] = {}

    def numbers(some: Sequence[str]) -> list[list[int]]:
        return [[words.setdefault(w, len(words)) for w in text.lower().split()] for text in some]

    return rouge_l(numbers(texts), numbers(references))


def f1(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """F1 over the bags of words, in percent."""
    return np.array([word_f1(t, r) for t, r in zip(texts, references, strict=True)])


def read_domains() -> list[list[dict[str, Any]]]:
    """The conversations of each `$KD_DATA_DIR/crossner/<domain>.jsonl`; raises KDError where a file is missing."""
    folder = mirror("KD_DATA_DIR")
    files = [None if folder is None else folder / "crossner" / f"{domain}.jsonl" for domain in DOMAINS]
    missing = [
        domain for domain, file in zip(DOMAINS, files, strict=True) if file is None or not file.is_file()
    ]
    if missing:
        where = "KD_DATA_DIR is not set" if folder is None else f"not in {folder / 'crossner'}"
        raise KDError(
            f"CrossNER, {', '.join(missing)}: {where}. As JSON Lines, one conversation each, from {PUBLISHER}"
        )
    return [read_jsonl(file, ("id", "conversations")) for file in files if file]


@task("extraction")
class Extraction(Task):
    """Sentence and type of entity -> entities."""

    scores: Mapping[str, Score] = {
        "rouge_l": Score(rouge_l_of_words, "ROUGE-L", 1),
        "exact_match": Score(percent_right, "exact match"),
        "f1": Score(f1, "F1 over words", 1),
    }

    def __init__(
        self,
        *,
        limits: Limits,
        max_sentence_words: int = 32,
        max_answer_words: int = 10,
        max_entities: int = 2,
        validation_sentences: int = 60,
        test_sentences: int = 150,
    ) -> None:
        short = Short(max_sentence_words, max_answer_words, max_entities)
        rows = [row for conversations in read_domains() for row in rows_of(conversations, short)]
        parts = split(rows, validation_sentences, test_sentences)
        super().__init__(
            shelf="extraction",
            limits=limits,
            rows={name: as_made(dataset(part)) for name, part in zip(SPLITS, parts, strict=True)},
            revision=lambda: fingerprint(parts),
        )

    def find_references(self, split: str) -> list[str]:
        """The answers, without blanks around them."""
        return [text.strip() for text in super().find_references(split)]

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """Texts, without blanks around them."""
        return [text.strip() for text in super().said(ids, tokenizer)]
