"""Scale small: grade-school word problems with human step-by-step solutions; SmolLM2-135M and its 15-layer cut.

GSM8K (Cobbe et al. 2021, MIT), the problems whose solution has at most three lines, so that a run on a CPU stays
affordable. The teacher is SmolLM2-135M-Instruct fine-tuned on the training problems; the student starts as half of
its layers. Both use the tokens that the data needs, of the 49,152 that the model came with.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from rouge_score import rouge_scorer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.judging import Judge
from reproductions.testbeds.sources import load_pretrained, load_rows
from reproductions.testbeds.training import fine_tune, on_device
from reproductions.testbeds.trimming import keep_layers, trim_tokenizer, trim_vocabulary, used_tokens

if TYPE_CHECKING:
    from reproductions.engine.run import Run

DATA, MODEL = "openai/gsm8k", "HuggingFaceTB/SmolLM2-135M-Instruct"

# Changing any of these makes another testbed: results of before and after do not compare.
SPLIT_VERSION = "1"
MAX_LINES, MAX_PROMPT, MAX_COMPLETION = 3, 96, 80
VALIDATION_PROBLEMS, TEST_PROBLEMS = 100, 100
NGRAM = 8  # a training problem that shares this many words in a row with a held-out one is dropped

# The best 15 layers of a greedy removal measured by loss on other text (package descriptions), before this testbed
# existed; even spacing is far worse (notes of the measurement: 6.37 against 14.06 nats per token before training).
STUDENT_LAYERS = (0, 1, 2, 8, 9, 10, 11, 15, 21, 22, 23, 24, 27, 28, 29)
TEACHER_TRAINING = {
    "max_steps": 100,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 10,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}
PAD, EOS = "<|endoftext|>", "<|im_end|>"

METRICS = {
    "rouge_l": Metric("mean", ("rouge_l",), True, "ROUGE-L, sampled", "%"),
    "exact_match": Metric("mean", ("exact_match",), True, "final answer right, sampled", "%"),
    "greedy_exact_match": Metric("mean", ("greedy_exact_match",), True, "final answer right, greedy", "%"),
    "greedy_rouge_l": Metric("mean", ("greedy_rouge_l",), True, "ROUGE-L, greedy", "%"),
    "ece": Metric("ece", ("confidence", "correct"), False, "calibration error of the mean token probability"),
    "excess_error": Metric(
        "excess_ratio", ("kl_student_contexts", "kl_teacher_contexts"), False, "excess accumulated error", "%"
    ),
}


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


class WordProblems:
    """The testbed: question -> reasoning lines and a final number."""

    name = "word-problems"
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens = MAX_PROMPT
    max_completion_tokens = MAX_COMPLETION
    pretraining = None

    def __init__(self, train: Sequence[Mapping[str, str]], test: Sequence[Mapping[str, str]]) -> None:
        _, original = load_pretrained(MODEL, weights=False)
        fits = self._fitting(original)
        held_out = sorted(filter(fits, map(self._row, test)), key=lambda row: order(row["prompt"]))
        known = sorted(filter(fits, map(self._row, train)), key=lambda row: order(row["prompt"]))
        test_rows = held_out[:TEST_PROBLEMS]
        clean = [r for r, hit in zip(known, overlapping(known, test_rows), strict=True) if not hit]
        validation, rest = clean[:VALIDATION_PROBLEMS], clean[VALIDATION_PROBLEMS:]
        train_rows = [r for r, hit in zip(rest, overlapping(rest, validation), strict=True) if not hit]
        self.train, self.validation, self.test = (
            Dataset.from_list(rows) for rows in (train_rows, validation, test_rows)
        )
        self.revision = hashlib.sha256(
            json.dumps([train_rows, validation, test_rows, SPLIT_VERSION]).encode()
        ).hexdigest()[:16]
        # A held-out solution must not decide what the models can say: of completions only the training ones count.
        texts = [p for split in (self.train, self.validation, self.test) for p in split["prompt"]]
        texts += [p + c for p, c in zip(self.train["prompt"], self.train["completion"], strict=True)]
        self.tokenizer, self.kept_ids = trim_tokenizer(
            original, used_tokens(original, texts), [PAD, EOS], pad=PAD, eos=EOS
        )
        self._judge = Judge(
            self.tokenizer,
            self.teacher,
            max_prompt_tokens=MAX_PROMPT,
            max_new_tokens=MAX_COMPLETION,
            batch=100,
        )
        self._scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    @staticmethod
    def _row(row: Mapping[str, str]) -> dict[str, str]:
        return {"prompt": prompt_of(row["question"]), "completion": completion_of(row["answer"])}

    @staticmethod
    def _fitting(tokenizer: PreTrainedTokenizerBase) -> Callable[[Mapping[str, str]], bool]:
        def fits(row: Mapping[str, str]) -> bool:
            if row["completion"].count("\n") > MAX_LINES or final_number(row["completion"]) is None:
                return False
            prompt, completion = (len(tokenizer(row[name])["input_ids"]) for name in ("prompt", "completion"))
            return prompt <= MAX_PROMPT and completion < MAX_COMPLETION  # room for EOS

        return fits

    def _base(self, run: Run) -> PreTrainedModel:
        """The pretrained model with the rows of `self.tokenizer`, in fp32 on the CPU."""
        ids = {"pad_id": self.tokenizer.pad_token_id, "eos_id": self.tokenizer.eos_token_id}

        def build() -> PreTrainedModel:
            whole, _ = load_pretrained(MODEL)
            assert whole is not None
            return trim_vocabulary(whole, self.kept_ids, **ids)

        return run.cached_model("pretrained", {"model": MODEL, "vocabulary": self._vocabulary}, build)

    @cached_property
    def _vocabulary(self) -> str:
        return hashlib.sha256(json.dumps(self.kept_ids).encode()).hexdigest()[:16]

    def _fine_tune(
        self, model: PreTrainedModel, run: Run, training: Mapping[str, Any], phase: str
    ) -> PreTrainedModel:
        limit = MAX_PROMPT + MAX_COMPLETION
        return fine_tune(model, self.train, self.tokenizer, run, training, max_tokens=limit, phase=phase)

    def teacher(self, run: Run) -> PreTrainedModel:
        """The fine-tuned SmolLM2-135M, frozen on `run.device`; bf16 weights under `precision: bf16-autocast`."""
        import torch

        def build() -> PreTrainedModel:
            return self._fine_tune(on_device(self._base(run), run), run, TEACHER_TRAINING, "teacher")

        key = {"model": MODEL, "vocabulary": self._vocabulary, "training": TEACHER_TRAINING, "seed": 0}
        half = run.settings.get("precision") == "bf16-autocast"
        # The fine-tuning itself follows the scale's precision, so the key does.
        model = run.cached_model(
            "teacher", {**key, "precision": run.settings.get("precision", "fp32")}, build
        )
        model = model.to(torch.bfloat16) if half else model
        return on_device(model, run).eval().requires_grad_(False)

    def student(self, run: Run) -> PreTrainedModel:
        """Fifteen of the thirty pretrained layers, not yet trained on the task; the same for every seed."""
        return on_device(keep_layers(self._base(run), STUDENT_LAYERS), run)

    def sft_start(self, run: Run) -> PreTrainedModel:
        """The student after the SFT of `settings["sft_start"]` (SFTConfig fields); cached per seed."""
        training = dict(run.settings["sft_start"])
        key = {
            "model": MODEL,
            "vocabulary": self._vocabulary,
            "layers": list(STUDENT_LAYERS),
            "training": training,
            "precision": run.settings.get("precision", "fp32"),
            "seed": run.seed,
        }

        def build() -> PreTrainedModel:
            return self._fine_tune(self.student(run), run, training, "sft_start")

        return on_device(run.cached_model("sft-start", key, build), run)

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Columns of `METRICS`, one figure per problem; one answer sampled at temperature 1 and one greedy."""
        rows = getattr(self, split)
        rows = rows.select(range(min(len(rows), limit or len(rows))))
        references = list(rows["completion"])
        answers = self._judge.answers(model, run, rows["prompt"])
        sampled, greedy = (
            self.tokenizer.batch_decode(ids, skip_special_tokens=True)
            for ids in (answers.sampled[0], answers.greedy)
        )

        def rouge(texts: Sequence[str]) -> np.ndarray:
            scores = (self._scorer.score(r, t)["rougeL"] for t, r in zip(texts, references, strict=True))
            return np.array([100 * score.fmeasure for score in scores])

        def right(texts: Sequence[str]) -> np.ndarray:
            pairs = zip(texts, references, strict=True)
            return np.array([float(final_number(t) == final_number(r)) for t, r in pairs])

        columns = {
            "rouge_l": (rouge(sampled), 1),
            "exact_match": (100 * right(sampled), 0),
            "greedy_rouge_l": (rouge(greedy), 1),
            "greedy_exact_match": (100 * right(greedy), 0),
            # The probability of sixty tokens in a row is 0 to three digits for every model; their mean is not.
            "confidence": (answers.token_confidence, 3),
            "correct": (right(greedy), 0),
            "kl_student_contexts": (answers.regret, 2),
            "kl_teacher_contexts": (answers.step_error, 2),
        }
        return ev.rounded(columns)


def load() -> WordProblems:
    """The testbed on GSM8K from KD_DATA_DIR or the hub; raises KDError where neither has it."""
    train, test = (
        load_rows(DATA, split, ("question", "answer"), config="main") for split in ("train", "test")
    )
    return WordProblems(train, test)
