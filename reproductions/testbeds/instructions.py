"""Scale paper: instruction following, GPT-2 XL (1.5B) to GPT-2 (120M), as in MiniLLM and the papers that follow it.

databricks-dolly-15k in the split that the authors of MiniLLM published, and their five evaluation sets: DollyEval
(500), SelfInst (252), VicunaEval (80), S-NI and UnNI (references of at least 11 tokens; 10,000 rows of UnNI).
ROUGE-L of one answer per instruction sampled at temperature 1, averaged over seeds 10, 20, 30, 40, 50.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel

from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.judging import Judge
from reproductions.testbeds.pretrained import PretrainedPair
from reproductions.testbeds.sources import load_pretrained, load_rows
from reproductions.testbeds.text_scores import rouge_l

if TYPE_CHECKING:
    from reproductions.engine.run import Run

TEACHER, STUDENT = "openai-community/gpt2-xl", "openai-community/gpt2"
PRETRAINING, PRETRAINING_DOCUMENTS = "Skylion007/openwebtext", 200_000

DOLLY, TRAIN_FILE, TEST_FILE = "MiniLLM/dolly", "raw.jsonl", "valid.jsonl"
VALIDATION_ROWS = 1_000  # the first rows of raw.jsonl: `--dev-num 1000` of scripts/gpt2/sft/*.sh
MAX_PROMPT, MAX_TOTAL = 256, 512  # sec. 3.1 and scripts/gpt2

# name -> (hub id, file, rows): the published sets; `11_` is "reference of 11 or more tokens" (sec. 3.1).
EVALUATION_SETS: Mapping[str, tuple[str, str, int | None]] = {
    "dolly": (DOLLY, TEST_FILE, None),
    "self_instruct": ("MiniLLM/self-inst", "valid.jsonl", None),
    "vicuna": ("MiniLLM/Vicuna", "valid.jsonl", None),
    "super_natural": ("MiniLLM/sinst", "11_/valid.jsonl", None),
    "unnatural": ("MiniLLM/uinst", "11_/valid.jsonl", 10_000),
}

# The teacher of scripts/gpt2/sft/sft_xlarge.sh: batch 2 on each of 16 GPUs.
TEACHER_TRAINING = {
    "num_train_epochs": 10,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 4,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "weight_decay": 1e-2,
    "max_grad_norm": 1.0,
}

# The templates that the published models were trained with (MiniLLM, appendix; from Stanford Alpaca).
BELOW = "Below is an instruction that describes a task"
WRITE = "Write a response that appropriately completes the request."
WITH_INPUT = (
    BELOW + ", paired with an input that provides further context. " + WRITE + "\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
WITHOUT_INPUT = BELOW + ". " + WRITE + "\n\n### Instruction:\n{instruction}\n\n### Response:\n"

TITLES = {
    "dolly": "DollyEval",
    "self_instruct": "SelfInst",
    "vicuna": "VicunaEval",
    "super_natural": "S-NI",
    "unnatural": "UnNI",
}
METRICS = {
    "rouge_l": Metric("mean", ("rouge_l_dolly",), True, "ROUGE-L on DollyEval, sampled", "%"),
    **{
        f"rouge_l_{name}": Metric("mean", (f"rouge_l_{name}",), True, f"ROUGE-L on {title}, sampled", "%")
        for name, title in TITLES.items()
    },
    "exact_match": Metric("mean", ("exact_match",), True, "exact match on DollyEval, sampled", "%"),
    "greedy_exact_match": Metric(
        "mean", ("greedy_exact_match",), True, "exact match on DollyEval, greedy", "%"
    ),
    "ece": Metric("ece", ("confidence", "correct"), False, "calibration error of the mean token probability"),
    "excess_error": Metric(
        "excess_ratio", ("kl_student_contexts", "kl_teacher_contexts"), False, "excess accumulated error", "%"
    ),
}


def prompt_of(row: Mapping[str, Any]) -> str:
    """The prompt of an instruction with or without input."""
    if row.get("input"):
        return WITH_INPUT.format(instruction=row["instruction"], input=row["input"])
    return WITHOUT_INPUT.format(instruction=row["instruction"])


def plain(text: str) -> str:
    """Lower case, without ASCII punctuation, single blanks."""
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


class Instructions(PretrainedPair):
    """The testbed: instruction (and input) -> response; GPT-2 XL fine-tuned on the training split teaches GPT-2."""

    name = "instructions"
    teacher_id, student_id = TEACHER, STUDENT
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens = MAX_PROMPT
    max_completion_tokens = MAX_TOTAL - MAX_PROMPT

    def __init__(self) -> None:
        _, self.tokenizer = load_pretrained(STUDENT, weights=False)
        # GPT-2 has no padding token. Nothing here tells padding from EOS by its id: masks say what counts.
        self.tokenizer.pad_token = self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        fields = ("instruction", "input", "output")
        rows = load_rows(DOLLY, "train", fields, file=TRAIN_FILE)
        self.validation, self.train = (
            self._training_rows(some) for some in (rows[:VALIDATION_ROWS], rows[VALIDATION_ROWS:])
        )
        self._sets = {
            name: [
                (prompt_of(row), row["output"] if isinstance(row["output"], list) else [row["output"]])
                for row in load_rows(hub_id, "validation", fields, file=file, limit=count)
            ]
            for name, (hub_id, file, count) in EVALUATION_SETS.items()
        }
        self.test = self._evaluation_rows("dolly")
        self.revision = hashlib.sha256(
            json.dumps([rows, self._sets], ensure_ascii=False).encode()
        ).hexdigest()[:16]
        self._judge = Judge(
            self.tokenizer,
            self.teacher,
            max_prompt_tokens=MAX_PROMPT,
            max_new_tokens=self.max_completion_tokens,
            batch=32,
            keep="start",  # as the authors' evaluation does
        )

    def _training_rows(self, rows: Sequence[Mapping[str, Any]]) -> Dataset:
        """Prompts of more than MAX_PROMPT tokens are left out, as in the authors' preparation."""
        prompts = [prompt_of(row) for row in rows]
        short = [len(ids) <= MAX_PROMPT for ids in self.tokenizer(prompts)["input_ids"]]
        kept = [(p, row["output"]) for p, row, fits in zip(prompts, rows, short, strict=True) if fits]
        return Dataset.from_dict({"prompt": [p for p, _ in kept], "completion": [c for _, c in kept]})

    def _evaluation_rows(self, name: str) -> Dataset:
        rows = self._sets[name]
        return Dataset.from_dict({"prompt": [p for p, _ in rows], "completion": [a[0] for _, a in rows]})

    @property
    def teacher_training(self) -> Mapping[str, Any]:
        return TEACHER_TRAINING

    @cached_property
    def pretraining(self) -> Dataset:
        """Documents of OpenWebText for the language-modelling term L_PT (sec. 2.2)."""
        rows = load_rows(PRETRAINING, "train", ("text",), limit=PRETRAINING_DOCUMENTS)
        return Dataset.from_dict({"text": [row["text"] for row in rows]})

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """On "test" the columns of all five sets (of their own lengths); on "validation" those of Dolly's rows."""
        own = self._sets["dolly"]
        if split != "test":
            rows = getattr(self, split)
            own = [(p, [c]) for p, c in zip(rows["prompt"], rows["completion"], strict=True)]
        own = own[:limit]
        answers = self._judge.answers(model, run, [prompt for prompt, _ in own])
        columns = {
            "rouge_l_dolly": (self._rouge(answers.sampled[0], own), 2),
            "exact_match": (100 * self._exact(answers.sampled[0], own), 0),
            "greedy_exact_match": (100 * self._exact(answers.greedy, own), 0),
            "confidence": (answers.token_confidence, 3),
            "correct": (self._exact(answers.greedy, own), 0),
            "kl_student_contexts": (answers.regret, 2),
            "kl_teacher_contexts": (answers.step_error, 2),
        }
        for name in [other for other in EVALUATION_SETS if other != "dolly" and split == "test"]:
            rows = self._sets[name][:limit]
            sampled = self._judge.sampled(model, run, [prompt for prompt, _ in rows])
            columns[f"rouge_l_{name}"] = (self._rouge(sampled, rows), 2)
        return ev.rounded(columns)

    def _rouge(self, sampled: list[list[int]], rows: Sequence[tuple[str, list[str]]]) -> np.ndarray:
        """ROUGE-L F1 in percent, the best over a row's references, with the stemmer as in sec. 3.1."""
        texts = self.tokenizer.batch_decode(sampled, skip_special_tokens=True)
        return rouge_l(texts, [references for _, references in rows])

    def _exact(self, answers: list[list[int]], rows: Sequence[tuple[str, list[str]]]) -> np.ndarray:
        """1.0 where the answer is one of the references, letters' case, punctuation and blanks aside."""
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        pairs = zip(texts, rows, strict=True)
        return np.array([float(plain(text) in map(plain, references)) for text, (_, references) in pairs])


def load() -> Instructions:
    """The testbed from KD_DATA_DIR and KD_MODEL_DIR or the hub; raises KDError where something is missing."""
    return Instructions()
