"""Scale paper for ULD: questions about a paragraph (SQuAD); Llama-2-7B-chat teaches Pythia 410M.

The teacher is asked by its chat template with one example, the student is shown paragraph and question; the teacher's
first line is the answer to learn. As the official code does (llm-distillation: prompt, datasets/generator.py,
benchmark/benchmark.py), with our own wording of the task and our own example.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.judging import Judge
from reproductions.testbeds.pretrained import TwoTokenizers
from reproductions.testbeds.sources import load_pretrained, load_rows
from reproductions.testbeds.text_scores import rouge_l

if TYPE_CHECKING:
    from reproductions.engine.run import Run

TEACHER, STUDENT = "meta-llama/Llama-2-7b-chat-hf", "EleutherAI/pythia-410m-deduped"
DATA = "rajpurkar/squad"  # version 1.1
VALIDATION_ROWS = 500  # of the training questions; the published validation set is what everybody tests on
MAX_PROMPT = 1_024  # longer paragraphs are left out of training: a handful
MAX_ANSWER = 150  # max_new_tokens of generator.py and benchmark.py
BATCH = 64

TASK = (
    "Answer questions about a text. Read it with care and answer in at most five words, which must stand in the text "
    "one after the other."
)
EXAMPLE = (
    "Context: The ferry to the island leaves twice a day, at nine in the morning and at six in the evening.\n"
    "Question: How often does the ferry leave?",
    "Answer: twice a day",
)

METRICS = {
    "rouge_l": Metric("mean", ("rouge_l",), True, "ROUGE-L, sampled", "%"),
    "greedy_exact_match": Metric("mean", ("greedy_exact_match",), True, "exact match, greedy", "%"),
    "greedy_f1": Metric("mean", ("greedy_f1",), True, "F1 over words, greedy", "%"),
}


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


def f1(answer: str, references: Sequence[str]) -> float:
    """The best F1 over bags of words, in percent; of SQuAD."""
    said, best = Counter(plain(answer).split()), 0.0
    for reference in references:
        known = Counter(plain(reference).split())
        both = (said & known).total()
        best = max(best, 200 * both / (said.total() + known.total()) if both else 0.0)
    return best


class Reading(TwoTokenizers):
    """The testbed: paragraph and question -> a few words of the paragraph."""

    name = "reading"
    teacher_id, student_id = TEACHER, STUDENT
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens, max_completion_tokens = MAX_PROMPT, MAX_ANSWER
    max_teacher_completion_tokens = MAX_ANSWER
    pretraining = None

    def __init__(self) -> None:
        self.tokenizer, self.teacher_tokenizer = (
            load_pretrained(name, weights=False)[1] for name in (STUDENT, TEACHER)
        )
        for tokenizer in (self.tokenizer, self.teacher_tokenizer):
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
            tokenizer.padding_side = "left"
        fields = ("context", "question", "answers")
        known, asked = (load_rows(DATA, split, fields) for split in ("train", "validation"))
        known.sort(key=lambda row: hashlib.sha256(question_of(row).encode()).hexdigest())
        validation, train = known[:VALIDATION_ROWS], known[VALIDATION_ROWS:]
        self.train = self._rows(train)
        self.train = self.train.select([i for i, row in enumerate(self.train) if self._fits(row)])
        self.validation, self.test = self._rows(validation), self._rows(asked)
        self._references = {
            "validation": [row["answers"]["text"] for row in validation],
            "test": [row["answers"]["text"] for row in asked],
        }
        self.revision = hashlib.sha256(
            json.dumps([part.to_list() for part in (self.train, self.validation, self.test)]).encode()
        ).hexdigest()[:16]
        self._judge = Judge(
            self.tokenizer,
            self.teacher,
            max_prompt_tokens=2 * MAX_PROMPT - MAX_ANSWER,
            max_new_tokens=MAX_ANSWER,
            batch=BATCH,
        )

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> Dataset:
        return Dataset.from_dict(
            {
                "prompt": [f"{question_of(row)}\nAnswer:" for row in rows],
                "teacher_prompt": [self._teacher_prompt(row) for row in rows],
                "completion": [f" {row['answers']['text'][0]}" for row in rows],
            }
        )

    def _teacher_prompt(self, row: Mapping[str, Any]) -> str:
        messages = [
            {"role": "system", "content": TASK},
            {"role": "user", "content": EXAMPLE[0]},
            {"role": "assistant", "content": EXAMPLE[1]},
            {"role": "user", "content": question_of(row)},
        ]
        # The answer begins for the teacher where it does for the student.
        return self._asked(self.teacher_tokenizer, messages).rstrip() + " Answer:"

    def _fits(self, row: Mapping[str, Any]) -> bool:
        return len(self.tokenizer(row["prompt"])["input_ids"]) <= MAX_PROMPT

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """The student's rows for what the teacher wrote, its first line; how many had none and are left out."""
        prompts = dict(zip(self.train["teacher_prompt"], self.train["prompt"], strict=True))
        answers = [
            {"prompt": prompts[asked], "teacher_prompt": asked, "completion": f" {first_line(text)}"}
            for asked, text in zip(rows["prompt"], rows["completion"], strict=True)
            if first_line(text)
        ]
        return Dataset.from_list(answers), len(rows) - len(answers)

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Columns of `METRICS`, one figure per question; one answer sampled at temperature 1 and one greedy."""
        rows, references = getattr(self, split), self._references[split][:limit]
        prompts = rows["prompt"][: len(references)]
        sampled = self._judge.sampled(model, run, prompts)
        greedy, _ = self._judge.greedy(model, run, prompts)
        said, best = (
            [first_line(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]
            for ids in (sampled, greedy)
        )
        pairs = list(zip(best, references, strict=True))
        columns = {
            "rouge_l": (rouge_l(said, references), 1),
            "greedy_exact_match": (
                np.array([100.0 * (plain(text) in map(plain, known)) for text, known in pairs]),
                0,
            ),
            "greedy_f1": (np.array([f1(text, known) for text, known in pairs]), 1),
        }
        return ev.rounded(columns)


def load() -> Reading:
    """The testbed from KD_DATA_DIR and KD_MODEL_DIR or the hub; raises KDError where something is missing."""
    return Reading()
