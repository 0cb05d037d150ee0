"""Instruction following: databricks-dolly-15k, and the five evaluation sets of MiniLLM and the papers that follow it.

Dolly in the split that the authors of MiniLLM published, and DollyEval (500), SelfInst (252), VicunaEval (80), S-NI and
UnNI (references of at least 11 tokens; 10,000 rows of UnNI).
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.models.sources import load_rows
from reproductions.tasks.base import Limits, Score, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.scores import rouge_l_of_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

PRETRAINING = "Skylion007/openwebtext"
DOLLY, TRAIN_FILE, TEST_FILE = "MiniLLM/dolly", "raw.jsonl", "valid.jsonl"
FIELDS = ("instruction", "input", "output")

# name -> (hub id, file, rows): the published sets; `11_` is "reference of 11 or more tokens" (sec. 3.1).
EVALUATION_SETS: Mapping[str, tuple[str, str, int | None]] = {
    "dolly": (DOLLY, TEST_FILE, None),
    "self_instruct": ("MiniLLM/self-inst", "valid.jsonl", None),
    "vicuna": ("MiniLLM/Vicuna", "valid.jsonl", None),
    "super_natural": ("MiniLLM/sinst", "11_/valid.jsonl", None),
    "unnatural": ("MiniLLM/uinst", "11_/valid.jsonl", 10_000),
}

TITLES = {
    "dolly": "DollyEval",
    "self_instruct": "SelfInst",
    "vicuna": "VicunaEval",
    "super_natural": "S-NI",
    "unnatural": "UnNI",
}

# The templates that the published models were trained with (MiniLLM, appendix; from Stanford Alpaca).
BELOW = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request."
WITH_INPUT = (
    BELOW + ", paired with an input that provides further context. " + WRITE + "\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = BELOW + ". " + WRITE + "\n\n### Instruction:\n{instruction}\n\n### Response:\n"


def prompt_of(row: Mapping[str, Any]) -> str:
    """The prompt of an instruction with or without input."""
    if row.get("input"):
        return WITH_INPUT.format(instruction=row["instruction"], input=row["input"])
    return WITHOUT_INPUT.format(instruction=row["instruction"])


def plain(text: str) -> str:
    """Lower case, without ASCII punctuation, single blanks."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def right(texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """100 where the answer is one of the references, letters' case, punctuation and blanks aside."""
    pairs = zip(texts, references, strict=True)
    return 100 * np.array([float(plain(text) in map(plain, known)) for text, known in pairs])


@task("instructions")
class Instructions(Task):
    """Instruction (and input) -> response, from KD_DATA_DIR or the hub; raises KDError where something is missing.

    A test row has several references. `pretraining`: documents of OpenWebText for MiniLLM's L_PT (its sec. 2.2).
    """

    scores: Mapping[str, Score] = {
        "rouge_l": Score(rouge_l_of_texts, "ROUGE-L", 2),
        "exact_match": Score(right, "exact match on DollyEval"),
    }
    set_titles = TITLES

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        validation_rows: int = 1_000,  # the first of raw.jsonl: `--dev-num 1000` of scripts/gpt2/sft/*.sh
        pretraining_documents: int = 200_000,
    ) -> None:
        rows = load_rows(DOLLY, "train", FIELDS, file=TRAIN_FILE)
        self._sets = {
            name: [
                (prompt_of(row), row["output"] if isinstance(row["output"], list) else [row["output"]])
                for row in load_rows(hub_id, "validation", FIELDS, file=file, limit=count)
            ]
            for name, (hub_id, file, count) in EVALUATION_SETS.items()
        }

        def learnt(some: Sequence[Mapping[str, Any]]) -> Dataset:
            """Prompts of more tokens than the limit are left out, as in the authors' preparation."""
            prompts = [prompt_of(row) for row in some]
            short = [len(ids) <= limits.prompt for ids in tokenizer(prompts)["input_ids"]]
            kept = [(p, row["output"]) for p, row, fits in zip(prompts, some, short, strict=True) if fits]
            return dataset({"prompt": [p for p, _ in kept], "completion": [c for _, c in kept]})

        asked = self._sets["dolly"]
        super().__init__(
            shelf="instructions",
            limits=limits,
            rows={
                "train": as_made(learnt(rows[validation_rows:])),
                "validation": as_made(learnt(rows[:validation_rows])),
                "test": as_made(
                    dataset({"prompt": [p for p, _ in asked], "completion": [known[0] for _, known in asked]})
                ),
                "pretraining": lambda: documents(pretraining_documents),
            },
            revision=lambda: fingerprint([rows, self._sets], ascii=False),
        )

    def find_references(self, split: str) -> list[list[str]]:
        """All references of each row."""
        if split == "test":
            return [known for _, known in self._sets["dolly"]]
        return [[text] for text in super().find_references(split)]

    def sets(self, split: str) -> dict[str, list[tuple[str, list[str]]]]:
        """The five published sets on "test", Dolly's rows alone on others."""
        if split == "test":
            return self._sets
        return {"dolly": list(zip(self.rows(split)["prompt"], self.references(split), strict=True))}


def documents(count: int) -> Dataset:
    """The first documents of OpenWebText."""
    rows = load_rows(PRETRAINING, "train", ("text",), limit=count)
    return dataset({"text": [row["text"] for row in rows]})
