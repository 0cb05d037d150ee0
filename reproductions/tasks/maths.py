"""Mathematical problems: problem -> solution with its answer in a box.

OpenMathInstruct-2 to train on; measured on GSM8K and MATH-500, as tokenkit's example does
(examples/gemma2_distill_from_openmath2-llama_gpu.sh). An answer counts as right if it is the same text as the
reference after a clean-up of LaTeX, or the same number; ALM's harness also tries algebra.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.models.sources import load_rows
from reproductions.tasks.base import Limits, Score, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.prompts import asked
from reproductions.tasks.word_problems import final_number

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

# The instruction that the teacher was trained with (NeMo-Skills, generic/math).
INSTRUCTION = (
    "Solve the following math problem. Make sure to put the answer (and only answer) inside \\boxed{}.\n\n"
)

DATA, SPLIT = "nvidia/OpenMathInstruct-2", "train_2M"  # tokenkit has the same 2M in another format
GSM8K, MATH = "openai/gsm8k", "HuggingFaceH4/MATH-500"


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


def scores_of(texts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """100 where the boxed answer is right, else 0."""
    return 100 * np.array([float(right(t, a)) for t, a in zip(texts, answers, strict=True)])


@task("maths")
class Maths(Task):
    """From KD_DATA_DIR or the hub; raises KDError where something is missing.

    Rows have a `teacher_prompt` beside the student's `prompt`: each model is asked in its own chat format.
    """

    scores: Mapping[str, Score] = {"exact_match": Score(scores_of, "right")}
    set_titles = {"gsm8k": "GSM8K", "math": "MATH-500"}

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        teacher_tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        train_rows: int = 320_000,  # 5,000 steps of 64
        validation_rows: int = 500,
    ) -> None:
        def prompt(problem: str, reader: PreTrainedTokenizerBase = tokenizer) -> str:
            return asked(reader, [{"role": "user", "content": INSTRUCTION + problem}])

        def learnt(some: Sequence[Mapping[str, Any]]) -> Dataset:
            return dataset(
                {
                    "prompt": [prompt(row["problem"]) for row in some],
                    "teacher_prompt": [prompt(row["problem"], teacher_tokenizer) for row in some],
                    "completion": [row["generated_solution"] for row in some],
                }
            )

        rows = load_rows(DATA, SPLIT, ("problem", "generated_solution", "expected_answer"))
        keys = [f"{row['problem']}{row['generated_solution']}".encode() for row in rows]
        order = sorted(range(len(rows)), key=lambda i: hashlib.sha256(keys[i]).digest())
        held_out, used = order[:validation_rows], order[validation_rows : validation_rows + train_rows]
        gsm8k = load_rows(GSM8K, "test", ("question", "answer"), config="main")
        maths = load_rows(MATH, "test", ("problem", "answer"))
        self._sets = {
            "gsm8k": [(prompt(row["question"]), str(final_number(row["answer"]))) for row in gsm8k],
            "math": [(prompt(row["problem"]), row["answer"]) for row in maths],
        }
        self._own = [(prompt(rows[i]["problem"]), rows[i]["expected_answer"]) for i in held_out]
        test = [pair for pairs in self._sets.values() for pair in pairs]
        # Ids stand for the training rows: hashing gigabytes of text would take as long as reading them.
        drawn = hashlib.sha256(b"".join(keys[i] for i in order[:1000])).hexdigest()
        count = len(rows)
        super().__init__(
            shelf="maths",
            limits=limits,
            rows={
                "train": as_made(learnt([rows[i] for i in used])),
                "validation": as_made(learnt([rows[i] for i in held_out])),
                "test": as_made(
                    dataset({"prompt": [p for p, _ in test], "completion": [a for _, a in test]})
                ),
            },
            revision=lambda: fingerprint([drawn, count, test]),
        )

    def sets(self, split: str) -> dict[str, list[tuple[str, str]]]:
        """Both published sets on "test", else the data's own problems."""
        return self._sets if split == "test" else {"own": self._own}
