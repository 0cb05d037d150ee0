"""Questions about a paragraph (SQuAD 1.1): a few words of the paragraph are the answer.

A teacher is asked by its chat template with one example, a student is shown paragraph and question; the first line of
what is said is the answer. As ULD's official code does (llm-distillation: prompt, datasets/generator.py,
benchmark/benchmark.py), with our own wording of the task and our own example.
"""

from __future__ import annotations

import hashlib
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.models.sources import load_rows
from reproductions.tasks.base import SPLITS, Limits, Score, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.prompts import asked
from reproductions.tasks.scores import rouge_l_of_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

DATA = "rajpurkar/squad"  # version 1.1

TASK = (
    "Answer questions about a text. Read it with care and answer in at most five words, which must stand in the text "
    "one after the other."
)
EXAMPLE = (
    "Context: The ferry to the island leaves twice a day, at nine in the morning and at six in the evening.\n"
    "Question: How often does the ferry leave?",
    "Answer: twice a day",
)


def question_of(row: Mapping[str, Any]) -> str:
    """Paragraph and question."""
    return f"Context: {row['context']}\nQuestion: {row['question']}"


def first_line(text: str) -> str:
    """An answer ends with its line."""
    return text.strip().partition("\n")[0].strip()


def plain(text: str) -> str:
    """Lower case without punctuation, articles and double blanks: how SQuAD compares answers."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(answer: str, references: Sequence[str]) -> float:
    """The best F1 over bags of words, in percent; of SQuAD."""
    said, best = Counter(plain(answer).split()), 0.0
    for reference in references:
        known = Counter(plain(reference).split())
        both = (said & known).total()
        best = max(best, 200 * both / (said.total() + known.total()) if both else 0.0)
    return best


def f1(answers: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """The F1 of each answer."""
    return np.array([word_f1(text, known) for text, known in zip(answers, references, strict=True)])


def right(answers: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """100 where the answer is one of the references, as SQuAD compares them, else 0."""
    pairs = zip(answers, references, strict=True)
    return np.array([100.0 * (plain(text) in map(plain, known)) for text, known in pairs])


@task("reading")
class Reading(Task):
    """Paragraph and question -> a few words, from KD_DATA_DIR or the hub; raises KDError where neither has it.

    Paragraphs longer than the prompt's limit are left out of training: a handful. Validation rows are training
    questions; the published validation set is what everybody tests on.
    """

    scores: Mapping[str, Score] = {
        "rouge_l": Score(rouge_l_of_texts, "ROUGE-L", 1),
        "exact_match": Score(right, "exact match"),
        "f1": Score(f1, "F1 over words", 1),
    }

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        validation_rows: int = 500,
    ) -> None:
        def made(rows: Sequence[Mapping[str, Any]]) -> Dataset:
            return dataset(
                {
                    "prompt": [f"{question_of(row)}\nAnswer:" for row in rows],
                    "teacher_prompt": [teacher_prompt(teacher_tokenizer, row) for row in rows],
                    "completion": [f" {row['answers']['text'][0]}" for row in rows],
                }
            )

        fields = ("context", "question", "answers")
        known, tested = (load_rows(DATA, split, fields) for split in ("train", "validation"))
        known.sort(key=lambda row: hashlib.sha256(question_of(row).encode()).hexdigest())
        train = made(known[validation_rows:])
        fitting = [
            i for i, row in enumerate(train) if len(tokenizer(row["prompt"])["input_ids"]) <= limits.prompt
        ]
        parts = [train.select(fitting), made(known[:validation_rows]), made(tested)]
        self._references = {
            "validation": [row["answers"]["text"] for row in known[:validation_rows]],
            "test": [row["answers"]["text"] for row in tested],
        }
        super().__init__(
            shelf="reading",
            limits=limits,
            rows={name: as_made(part) for name, part in zip(SPLITS, parts, strict=True)},
            revision=lambda: fingerprint([part.to_list() for part in parts]),
        )

    def find_references(self, split: str) -> list[list[str]]:
        """All references of each row."""
        return self._references[split]

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """First lines."""
        return [first_line(text) for text in super().said(ids, tokenizer)]

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """The student's rows for what the teacher wrote, its first line; how many had none and are left out."""
        train = self.rows("train")
        prompts = dict(zip(train["teacher_prompt"], train["prompt"], strict=True))
        answers = [
            {"prompt": prompts[question], "teacher_prompt": question, "completion": f" {first_line(text)}"}
            for question, text in zip(rows["prompt"], rows["completion"], strict=True)
            if first_line(text)
        ]
        return dataset(answers), len(rows) - len(answers)


def teacher_prompt(tokenizer: PreTrainedTokenizerBase, row: Mapping[str, Any]) -> str:
    """The task, the example, and the question."""
    messages = [
        {"role": "system", "content": TASK},
        {"role": "user", "content": EXAMPLE[0]},
        {"role": "assistant", "content": EXAMPLE[1]},
        {"role": "user", "content": question_of(row)},
    ]
    # The answer begins for the teacher where it does for the student.
    return asked(tokenizer, messages).rstrip() + " Answer:"
