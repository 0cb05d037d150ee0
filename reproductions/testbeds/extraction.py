"""Scale small for two tokenizers: extract the entities of a type; Gemma-3-270M teaches SmolLM2-135M-Instruct.

CrossNER (Liu et al. 2020, arXiv 2012.04373) as questions about one sentence and one type of entity (UniversalNER's
form of it), those that have an answer, sentences and answers short enough for a CPU. Both models use the tokens that
the data needs, cut as their own tokenizers cut them, of the 262,144 and 49,152 they came with. The teacher is
fine-tuned on the training rows; students start as they were published.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.judging import Judge
from reproductions.testbeds.sources import load_pretrained, mirror, read_jsonl
from reproductions.testbeds.training import fine_tune, on_device
from reproductions.testbeds.trimming import trim_tokenizer, trim_vocabulary, used_tokens

if TYPE_CHECKING:
    from reproductions.engine.run import Run

DOMAINS = ("ai", "literature", "music", "politics", "science")
PUBLISHER = "https://github.com/universal-ner/universal-ner, src/eval/test_data/CrossNER_<domain>.json"
TEACHER, STUDENT = "google/gemma-3-270m", "HuggingFaceTB/SmolLM2-135M-Instruct"
SPECIAL = {TEACHER: ("<pad>", "<eos>"), STUDENT: ("<|endoftext|>", "<|im_end|>")}  # padding and end

# Changing any of these makes another testbed: results of before and after do not compare.
VERSION = "1"
MAX_SENTENCE_WORDS, MAX_ANSWER_WORDS, MAX_ENTITIES = 32, 10, 2
VALIDATION_SENTENCES, TEST_SENTENCES = 60, 150
MAX_PROMPT, MAX_COMPLETION = 104, 32
TEACHER_TRAINING = {
    "max_steps": 150,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 15,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
}

METRICS = {
    "rouge_l": Metric("mean", ("rouge_l",), True, "ROUGE-L, sampled", "%"),
    "exact_match": Metric("mean", ("exact_match",), True, "exact match, sampled", "%"),
    "greedy_exact_match": Metric("mean", ("greedy_exact_match",), True, "exact match, greedy", "%"),
    "greedy_f1": Metric("mean", ("greedy_f1",), True, "F1 over words, greedy", "%"),
    "ece": Metric("ece", ("confidence", "correct"), False, "calibration error of the answer's probability"),
}


def row_of(sentence: str, question: str, entities: Sequence[str]) -> dict[str, str]:
    """The prompt ends in a colon: the completion's leading blank then starts a token of its own."""
    return {"prompt": f"{sentence}\n{question}\nAnswer:", "completion": " " + "; ".join(entities)}


def rows_of(conversations: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Questions with an answer that are short enough, each once; an entity named twice is asked for once."""
    rows: dict[str, dict[str, str]] = {}
    for record in conversations:
        sentence, _, *turns = (turn["value"] for turn in record["conversations"])
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            entities = list(dict.fromkeys(json.loads(answer)))
            words = sum(len(entity.split()) for entity in entities)
            short = len(sentence.split()) <= MAX_SENTENCE_WORDS and words <= MAX_ANSWER_WORDS
            if short and 0 < len(entities) <= MAX_ENTITIES:
                row = row_of(sentence, question, entities)
                rows.setdefault(row["prompt"], row)
    return list(rows.values())


def split(rows: Iterable[dict[str, str]]) -> tuple[list[dict[str, str]], ...]:
    """Training, validation and test rows; all questions about a sentence are in one of them."""
    by_sentence: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        by_sentence.setdefault(row["prompt"].partition("\n")[0], []).append(row)

    def order(text: str) -> str:
        return hashlib.sha256(f"{VERSION}:{text}".encode()).hexdigest()

    groups = [by_sentence[sentence] for sentence in sorted(by_sentence, key=order)]
    ends = TEST_SENTENCES, TEST_SENTENCES + VALIDATION_SENTENCES
    parts = groups[ends[1] :], groups[ends[0] : ends[1]], groups[: ends[0]]
    return tuple([row for group in part for row in group] for part in parts)


def word_f1(prediction: str, reference: str) -> float:
    """F1 over the bags of words, in percent, as extractive question answering counts it (SQuAD)."""
    a, b = Counter(prediction.lower().split()), Counter(reference.lower().split())
    both = (a & b).total()
    return 100 * 2 * both / (a.total() + b.total()) if both else 0.0


class Extraction:
    """The testbed: sentence and type of entity -> entities, and a teacher with its own tokenizer."""

    name = "extraction"
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens = MAX_PROMPT
    max_completion_tokens = max_teacher_completion_tokens = MAX_COMPLETION
    pretraining = None

    def __init__(self, rows: Sequence[dict[str, str]]) -> None:
        parts = split(rows)
        self.revision = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        self.train, self.validation, self.test = (Dataset.from_list(part) for part in parts)
        # A held-out answer must not decide what the models can say: of completions only the training ones count.
        texts = [prompt for part in (self.train, self.validation, self.test) for prompt in part["prompt"]]
        texts += [p + c for p, c in zip(self.train["prompt"], self.train["completion"], strict=True)]
        self._cut = {name: self._trimmed(name, texts) for name in (STUDENT, TEACHER)}
        self.tokenizer, self.teacher_tokenizer = self._cut[STUDENT][0], self._cut[TEACHER][0]
        limits: dict[str, Any] = {
            "max_prompt_tokens": MAX_PROMPT,
            "max_new_tokens": MAX_COMPLETION,
            "batch": 50,
        }
        self._judge = Judge(self.tokenizer, self.teacher, **limits)
        # Asks the teacher in its own tokens, to see beforehand that it knows more than a student.
        self.teacher_judge = Judge(self.teacher_tokenizer, self.other_teacher, **limits)

    @staticmethod
    def _trimmed(name: str, texts: list[str]) -> tuple[PreTrainedTokenizerFast, list[int]]:
        _, tokenizer = load_pretrained(name, weights=False)
        pad, eos = SPECIAL[name]
        return trim_tokenizer(tokenizer, used_tokens(tokenizer, texts), [pad, eos], pad=pad, eos=eos)

    @cached_property
    def _vocabularies(self) -> dict[str, str]:
        return {
            name: hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
            for name, (_, ids) in self._cut.items()
        }

    def _pretrained(self, name: str, run: Run) -> PreTrainedModel:
        """A published model with the rows of its trimmed tokenizer, in fp32 on `run.device`."""
        tokenizer, ids = self._cut[name]

        def build() -> PreTrainedModel:
            whole, _ = load_pretrained(name)
            assert whole is not None
            return trim_vocabulary(whole, ids, pad_id=tokenizer.pad_token_id, eos_id=tokenizer.eos_token_id)

        key = {"model": name, "vocabulary": self._vocabularies[name]}
        return on_device(run.cached_model("pretrained", key, build), run)

    def teacher(self, run: Run) -> PreTrainedModel:
        """There is none with the student's tokens. Raises KDError."""
        raise KDError("the extraction testbed has no teacher with the student's tokenizer")

    def other_teacher(self, run: Run) -> PreTrainedModel:
        """Gemma-3-270M fine-tuned on the training rows, frozen, on `run.device`; cached."""

        def build() -> PreTrainedModel:
            return fine_tune(
                self._pretrained(TEACHER, run),
                self.train,
                self.teacher_tokenizer,
                run,
                TEACHER_TRAINING,
                max_tokens=MAX_PROMPT + MAX_COMPLETION,
                phase="teacher",
            )

        key = {
            "model": TEACHER,
            "vocabulary": self._vocabularies[TEACHER],
            "training": TEACHER_TRAINING,
            "seed": 0,
        }
        return on_device(run.cached_model("teacher", key, build), run).eval().requires_grad_(False)

    def student(self, run: Run) -> PreTrainedModel:
        """The published student; the same for every seed."""
        return self._pretrained(STUDENT, run)

    def sft_start(self, run: Run) -> PreTrainedModel:
        """The published student: here no arm begins with fine-tuning."""
        return self.student(run)

    def readable(self, rows: Dataset) -> tuple[Dataset, int]:
        """The rows as they are, and how many the student cannot read: none, its tokens spell any text."""
        return rows, 0

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Columns of `METRICS`, one figure per row; one answer sampled at temperature 1 and one greedy."""
        rows = getattr(self, split)
        rows = rows.select(range(min(len(rows), limit or len(rows))))
        return self.measure(self._judge, self.tokenizer, model, run, rows)

    @staticmethod
    def measure(
        judge: Judge, tokenizer: PreTrainedTokenizerFast, model: PreTrainedModel, run: Run, rows: Dataset
    ) -> dict[str, list[float]]:
        """Columns of `METRICS` for answers that `judge` asks for in the tokens of `tokenizer`."""
        prompts, references = list(rows["prompt"]), [text.strip() for text in rows["completion"]]
        sampled = judge.sampled(model, run, prompts)
        greedy, probability = judge.greedy(model, run, prompts)
        said, best = (
            [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
            for ids in (sampled, greedy)
        )
        words: dict[str, int] = {}  # ROUGE-L over words, whatever tokens they are made of

        def numbers(texts: Sequence[str]) -> list[list[int]]:
            return [[words.setdefault(w, len(words)) for w in text.lower().split()] for text in texts]

        right = ev.exact_match(best, references)
        columns = {
            "rouge_l": (ev.rouge_l(numbers(said), numbers(references)), 1),
            "exact_match": (100 * ev.exact_match(said, references), 0),
            "greedy_exact_match": (100 * right, 0),
            "greedy_f1": (np.array([word_f1(t, r) for t, r in zip(best, references, strict=True)]), 1),
            "confidence": (probability, 3),
            "correct": (right, 0),
        }
        return ev.rounded(columns)


def load() -> Extraction:
    """The testbed on `$KD_DATA_DIR/crossner/<domain>.jsonl`; raises KDError where a file is missing."""
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
    rows = [row for file in files if file for row in rows_of(read_jsonl(file, ("id", "conversations")))]
    return Extraction(rows)
