"""Scale tiny: chains of sums and differences of digits, with the reasoning written out or kept silent.

A problem is a list of steps and the digit they start from; results below 0 count as 0 and above 9 as 9. So every number
is one digit, every step a fact that a small model can know, and the order of the steps matters: the sum of all steps is
a guess that is often right, the answer takes every result on the way. Writing results down makes that easy, one pass
of few layers does not. On that difference papers about chains of thought make their claims. The common start of all
arms knows the facts and has never seen a chain.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from methods.modeling.latent_reasoning import latent_of, rollout_after_thoughts
from methods.modeling.rollouts import rollout
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.testbeds import evaluation as ev
from reproductions.testbeds.scratch_models import scratch_llama
from reproductions.testbeds.training import fine_tune, on_device

if TYPE_CHECKING:
    from reproductions.engine.run import Run

# Changing any of these makes another testbed: results of before and after do not compare.
# Set once, on SFT with and without written reasoning, before any other method was run here.
VERSION = "1"
TRAIN_BY_STEPS = {3: 4_000, 4: 5_000, 5: 5_500, 6: 5_500}
HELD_OUT_BY_STEPS = {"validation": 75, "test": 150}
STUDENT_SHAPE = {"layers": 2, "hidden": 64, "heads": 4, "intermediate": 128}

OPERATIONS = {"+": lambda a, b: min(9, a + b), "-": lambda a, b: max(0, a - b)}
OPERANDS = range(1, 6)
MOST_STEPS = max(TRAIN_BY_STEPS)
# Every problem has room for the most steps, so that a step stands at one distance from where its result is due.
FILLER, THEN, MARKER, BEGIN, END = ".", ",", ":", "<think>", "</think>"
MAX_TOKENS = 32

METRICS = {
    "exact_match": Metric("mean", ("correct",), True, "exact match", "%"),
    "decoding_steps": Metric("mean", ("decoding_steps",), False, "tokens and latent thoughts generated"),
    "right_per_step": Metric("ratio", ("correct", "decoding_steps"), True, "right answers per step", "%"),
    "unfinished": Metric("mean", ("unfinished",), False, "answers cut by the token limit", "%"),
}

Step = tuple[str, int]  # an operation and its second operand


def draw(source: random.Random, count: int) -> tuple[int, list[Step]]:
    """A first digit and so many steps."""
    steps = [(source.choice(list(OPERATIONS)), source.choice(OPERANDS)) for _ in range(count)]
    return source.randrange(10), steps


def write(first: int, steps: Sequence[Step]) -> dict[str, str]:
    """Columns `prompt`, `thoughts` (the results of all steps but the last) and `completion` (the marker, the answer).

    The last result is left out of the thoughts, as CODI (arXiv 2502.21074) does in its data: the answer must not stand
    there to be copied.
    """
    value, results = first, []
    for symbol, operand in steps:
        value = OPERATIONS[symbol](value, operand)
        results.append(value)
    room = [FILLER] * (2 * (MOST_STEPS - len(steps)))
    prompt = " ".join([*(f"{symbol} {operand}" for symbol, operand in steps), *room, str(first)])
    thoughts = "".join(f" {THEN} {result}" for result in results[:-1])
    return {"prompt": prompt, "thoughts": thoughts, "completion": f" {MARKER} {value}"}


def place(first: int, steps: Sequence[Step]) -> str:
    """The split of a problem, by its start and first two steps: no training problem begins like a test problem."""
    key = f"{VERSION}:{first}:{list(steps[:2])}"
    share = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return "test" if share < 0.08 else "validation" if share < 0.12 else "train"


def problems(split: str) -> list[dict[str, str]]:
    """The distinct problems of a split, in a fixed shuffled order."""
    rows = {}
    for length, wanted in TRAIN_BY_STEPS.items():
        source, found = random.Random(f"{VERSION}:{split}:{length}"), 0
        while found < (wanted if split == "train" else HELD_OUT_BY_STEPS[split]):
            first, steps = draw(source, length)
            row = write(first, steps)
            if place(first, steps) == split and row["prompt"] not in rows:
                rows[row["prompt"]] = row
                found += 1
    ordered = list(rows.values())
    random.Random(f"{VERSION}:{split}").shuffle(ordered)
    return ordered


def facts() -> list[dict[str, str]]:
    """Every single step there is, as a problem of its own."""
    return [write(a, [(symbol, b)]) for a in range(10) for symbol in OPERATIONS for b in OPERANDS]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per digit and sign, <pad>, <bos>, <eos>, and the two that enclose latent thoughts."""
    special = ["<pad>", "<bos>", "<eos>"]
    tokens = [*special, BEGIN, END, *map(str, range(10)), *OPERATIONS, FILLER, THEN, MARKER]
    core = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=special[0]))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        padding_side="left",
        model_max_length=MAX_TOKENS,
    )


class Arithmetic:
    """The testbed: steps and the digit they start from -> the digit that comes out."""

    name = "arithmetic"
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens = 2 * MOST_STEPS + 1
    max_completion_tokens = 2 * MOST_STEPS + 1  # all results but the last, the marker, the answer, EOS
    pretraining = None

    def __init__(self) -> None:
        self.tokenizer = make_tokenizer()

    @cached_property
    def revision(self) -> str:
        """Hash of every row of every split."""
        rows = [problems(split) for split in ("train", "validation", "test")]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]

    @cached_property
    def train(self) -> Dataset:
        return Dataset.from_list(problems("train"))

    @cached_property
    def validation(self) -> Dataset:
        return Dataset.from_list(problems("validation"))

    @cached_property
    def test(self) -> Dataset:
        return Dataset.from_list(problems("test"))

    @cached_property
    def branches(self) -> Dataset:
        """The training rows as token ids `prompt_ids`, `thought_ids`, `marker_ids`, `answer_ids` (with EOS)."""
        columns = self.train.to_dict()
        prompts, thoughts, ends = (
            self.tokenizer(columns[name])["input_ids"] for name in ("prompt", "thoughts", "completion")
        )
        return Dataset.from_dict(
            {
                "prompt_ids": prompts,
                "thought_ids": thoughts,
                "marker_ids": [row[:1] for row in ends],
                "answer_ids": [[*row[1:], self.tokenizer.eos_token_id] for row in ends],
            }
        )

    @property
    def thought_ids(self) -> dict[str, int]:
        """The tokens before and after latent thoughts."""
        vocabulary = self.tokenizer.get_vocab()
        return {"begin_id": vocabulary[BEGIN], "end_id": vocabulary[END]}

    def teacher(self, run: Run) -> PreTrainedModel:
        """There is none: a student's teacher here is itself, thinking aloud. Raises KDError."""
        raise KDError("the arithmetic testbed has no teacher of its own")

    def student(self, run: Run) -> PreTrainedModel:
        """A student with the random weights of `run.seed`."""
        model = scratch_llama(self.tokenizer, STUDENT_SHAPE, max_tokens=MAX_TOKENS, seed=run.seed)
        return on_device(model, run)

    def sft_start(self, run: Run) -> PreTrainedModel:
        """The student after learning the facts by `settings["sft_start"]` (SFTConfig fields); cached per seed."""
        training = dict(run.settings["sft_start"])

        def build() -> PreTrainedModel:
            rows = Dataset.from_list(facts())
            return fine_tune(
                self.student(run),
                rows,
                self.tokenizer,
                run,
                training,
                max_tokens=MAX_TOKENS,
                phase="sft_start",
            )

        key = {"shape": STUDENT_SHAPE, "training": training, "seed": run.seed}
        return on_device(run.cached_model("sft-start", key, build), run)

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Columns of `METRICS` for greedy answers; latent thoughts, where a model has them, count as decoding steps."""
        rows = getattr(self, split)
        rows = rows.select(range(min(len(rows), limit or len(rows))))
        prompts = self.tokenizer(list(rows["prompt"]))["input_ids"]
        eos, latent = self.tokenizer.eos_token_id, latent_of(model)
        decode = rollout if latent is None else rollout_after_thoughts
        made = decode(
            model,
            prompts,
            max_new_tokens=self.max_completion_tokens,
            eos_ids=[eos],
            pad_id=self.tokenizer.pad_token_id,
            greedy=True,
        )
        steps = made.completion_mask.sum(1).cpu().numpy() + (0 if latent is None else latent.steps)
        kept = made.completion_mask.bool() & (made.completion_ids != eos)
        said = [self._answer(ids[k].tolist()) for ids, k in zip(made.completion_ids, kept, strict=True)]
        gold = [self._answer(ids) for ids in self.tokenizer(list(rows["completion"]))["input_ids"]]
        return ev.rounded(
            {
                "correct": (100 * ev.exact_match(said, gold), 0),
                "decoding_steps": (steps, 0),
                "unfinished": (100 * made.truncated.cpu().numpy().astype(np.int64), 0),
            }
        )

    def _answer(self, ids: list[int]) -> list[int]:
        """What stands after the last marker; nothing where there is none."""
        marker = self.tokenizer.convert_tokens_to_ids(MARKER)
        return ids[len(ids) - ids[::-1].index(marker) :] if marker in ids else []


def load() -> Arithmetic:
    """The testbed; everything it needs is in this module."""
    return Arithmetic()
