"""Scale paper for ALM: OpenMath2-Llama3.1-8B teaches Gemma2-2B-IT to solve mathematical problems.

Trained on OpenMathInstruct-2; measured by greedy answers to GSM8K and MATH-500, as tokenkit's example does
(examples/gemma2_distill_from_openmath2-llama_gpu.sh). An answer counts as right if it is the same text as the
reference after a clean-up of LaTeX, or the same number; the paper's harness also tries algebra.
"""

from __future__ import annotations

import hashlib
import json
import re
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
from reproductions.testbeds.word_problems import final_number

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from reproductions.engine.run import Run

TEACHER, STUDENT = "nvidia/OpenMath2-Llama3.1-8B", "google/gemma-2-2b-it"
# What ends an answer in the chat format of each (tokenkit/model_kinds.py); their tokenizers may name another EOS.
END = {TEACHER: "<|eot_id|>", STUDENT: "<end_of_turn>"}
# The instruction that the teacher was trained with (NeMo-Skills, generic/math).
INSTRUCTION = (
    "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"
)

DATA, SPLIT = "nvidia/OpenMathInstruct-2", "train_2M"  # tokenkit has the same 2M in another format
GSM8K, MATH = "openai/gsm8k", "HuggingFaceH4/MATH-500"
TRAIN_ROWS, VALIDATION_ROWS = 320_000, 500  # 5,000 steps of 64
TRAINING_TOKENS = 1_024  # max_teacher_length, max_student_length
ASKED_TOKENS, ANSWER_TOKENS = 512, 1_536  # eval.lengths 2048
BATCH = 32

METRICS = {
    "greedy_exact_match": Metric(
        "mean", ("greedy_exact_match",), True, "right, mean of GSM8K and MATH-500, greedy", "%"
    ),
    "gsm8k": Metric("mean", ("gsm8k",), True, "right on GSM8K, greedy", "%"),
    "math": Metric("mean", ("math",), True, "right on MATH-500, greedy", "%"),
}


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{...} that is closed; None where there is none."""
    start = text.rfind("\\boxed{")
    while start >= 0:
        depth = 0
        for place in range(start + len("\\boxed"), len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0)
            if depth == 0:
                return text[start + len("\\boxed{") : place]
        start = text.rfind("\\boxed{", 0, start)
    return None


def plain(answer: str) -> str:
    """One spelling of an answer in LaTeX: without blanks, sizes of brackets, text marks, currency and thousands."""
    answer = re.sub(r"\\(left|right|,|!|;|displaystyle|\$|%)", "", answer)
    answer = re.sub(r"\\(text|mathrm|mbox|textbf)\{([^{}]*)\}", r"\2", answer)
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = re.sub(r"\^\{?\\circ\}?", "", answer)
    answer = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", answer)
    return re.sub(r"[\s$%]", "", answer).rstrip(".").lower()


def right(text: str, answer: str) -> bool:
    """Whether the boxed answer of a solution is the reference: the same text once cleaned, or the same number."""
    found = boxed(text)
    if found is None:
        return False
    ours, theirs = plain(found), plain(answer)
    try:
        return ours == theirs or float(ours) == float(theirs)
    except ValueError:
        return False


class Maths(TwoTokenizers):
    """The testbed: problem -> solution with its answer in a box."""

    name = "maths"
    teacher_id, student_id = TEACHER, STUDENT
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens, max_completion_tokens = 256, TRAINING_TOKENS - 256
    pair_limits = TRAINING_TOKENS, TRAINING_TOKENS
    pretraining = None

    def __init__(self) -> None:
        self.tokenizer, self.teacher_tokenizer = (self._tokenizer(name) for name in (STUDENT, TEACHER))
        rows = load_rows(DATA, SPLIT, ("problem", "generated_solution", "expected_answer"))
        keys = [f"{row['problem']}{row['generated_solution']}".encode() for row in rows]
        order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(keys[i]).digest())
        held_out, used = order[:VALIDATION_ROWS], order[VALIDATION_ROWS : VALIDATION_ROWS + TRAIN_ROWS]
        self.train, self.validation = (self._rows([rows[i] for i in part]) for part in (used, held_out))
        gsm8k = load_rows(GSM8K, "test", ("question", "answer"), config="main")
        maths = load_rows(MATH, "test", ("problem", "answer"))
        self._sets = {
            "gsm8k": [(self._prompt(row["question"]), str(final_number(row["answer"]))) for row in gsm8k],
            "math": [(self._prompt(row["problem"]), row["answer"]) for row in maths],
        }
        self._own = [(self._prompt(rows[i]["problem"]), rows[i]["expected_answer"]) for i in held_out]
        asked = [pair for pairs in self._sets.values() for pair in pairs]
        self.test = Dataset.from_dict({"prompt": [p for p, _ in asked], "completion": [a for _, a in asked]})
        # Ids stand for the training rows: hashing gigabytes of text would take as long as reading them.
        drawn = hashlib.sha256(b"".join(keys[i] for i in order[:1000])).hexdigest()
        self.revision = hashlib.sha256(json.dumps([drawn, len(rows), asked]).encode()).hexdigest()[:16]
        self._judge = Judge(
            self.tokenizer,
            self.teacher,
            max_prompt_tokens=ASKED_TOKENS,
            max_new_tokens=ANSWER_TOKENS,
            batch=BATCH,
        )

    @staticmethod
    def _tokenizer(name: str) -> PreTrainedTokenizerBase:
        _, tokenizer = load_pretrained(name, weights=False)
        tokenizer.eos_token = END[name]
        tokenizer.pad_token = tokenizer.pad_token or END[name]
        tokenizer.padding_side = "left"
        return tokenizer

    def _prompt(self, problem: str, *, teacher: bool = False) -> str:
        tokenizer = self.teacher_tokenizer if teacher else self.tokenizer
        return self._asked(tokenizer, [{"role": "user", "content": INSTRUCTION + problem}])

    def _rows(self, rows: Sequence[Mapping[str, Any]]) -> Dataset:
        return Dataset.from_dict(
            {
                "prompt": [self._prompt(row["problem"]) for row in rows],
                "teacher_prompt": [self._prompt(row["problem"], teacher=True) for row in rows],
                "completion": [row["generated_solution"] for row in rows],
            }
        )

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """On "test" a column for each set and one in which both sets weigh the same; else one for the data's own."""
        sets = self._sets if split == "test" else {"own": self._own}
        found = {name: self._right(model, run, pairs[:limit]) for name, pairs in sets.items()}
        total = sum(map(len, found.values()))
        even = [scores * total / (len(found) * len(scores)) for scores in found.values()]
        columns = {"greedy_exact_match": (np.concatenate(even), 3)}
        if split == "test":
            columns |= {name: (scores, 0) for name, scores in found.items()}
        return ev.rounded(columns)

    def _right(self, model: PreTrainedModel, run: Run, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        answers, _ = self._judge.greedy(model, run, [prompt for prompt, _ in pairs])
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return 100 * np.array([float(right(t, a)) for t, (_, a) in zip(texts, pairs, strict=True)])


def load() -> Maths:
    """The testbed from KD_DATA_DIR and KD_MODEL_DIR or the hub; raises KDError where something is missing."""
    return Maths()
