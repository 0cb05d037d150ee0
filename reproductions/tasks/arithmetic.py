"""Chains of sums and differences of digits, with the reasoning written out or kept silent.

A problem is a list of steps and the digit they start from; results below 0 count as 0 and above 9 as 9. So every number
is one digit, every step a fact that a small model can know, and the order of the steps matters: the sum of all steps is
a guess that is often right, the answer takes every result on the way. Writing results down makes that easy, one pass
of few layers does not. On that difference papers about chains of thought make their claims. The common start of all
arms knows the facts and has never seen a chain.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from reproductions.tasks.base import SPLITS, Limits, Score, Task, dataset, fingerprint, task
from reproductions.tasks.scores import percent_right

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

# Changing any of these makes another task: results of before and after do not compare.
# Set once, on SFT with and without written reasoning, before any other method was run here.
VERSION = "1"
TRAIN_BY_STEPS = {3: 4_000, 4: 5_000, 5: 5_500, 6: 5_500}
HELD_OUT_BY_STEPS = {"validation": 75, "test": 150}

OPERATIONS = {"+": lambda a, b: min(9, a + b), "-": lambda a, b: max(0, a - b)}
OPERANDS = range(1, 6)
MOST_STEPS = max(TRAIN_BY_STEPS)
# Every problem has room for the most steps, so that a step stands at one distance from where its result is due.
FILLER, THEN, MARKER, BEGIN, END = ".", ",", ":", "<think>", "</think>"
MAX_TOKENS = 32

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


def rows_of(split: str) -> Dataset:
    """The problems of a split as a data set."""
    return dataset(problems(split))


def facts() -> list[dict[str, str]]:
    """Every single step there is, as a problem of its own."""
    return [write(a, [(symbol, b)]) for a in range(10) for symbol in OPERATIONS for b in OPERANDS]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per digit and sign, <pad>, <bos>, <eos>, and the two that enclose latent thoughts."""
    special = ["<pad>", "<bos>", "<eos>"]
    tokens = [*special, BEGIN, END, *map(str, range(10)), *OPERATIONS, FILLER, THEN, MARKER]
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

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


@task("arithmetic")
class Arithmetic(Task):
    """Steps and the digit they start from -> the digit that comes out. Column `thoughts` has the results on the way.

    Extra rows: `facts`, every single step as a problem, and `branches`, the training rows as token ids `prompt_ids`,
    `thought_ids`, `marker_ids`, `answer_ids` (with EOS).
    """

    scores: Mapping[str, Score] = {"exact_match": Score(percent_right, "exact match")}
    student_rows = "facts"  # the common start knows the facts and has never seen a chain

    def __init__(self) -> None:
        self.own = make_tokenizer()
        splits = {split: partial(rows_of, split) for split in SPLITS}
        super().__init__(
            shelf="arithmetic",
            # All results but the last, the marker, the answer, EOS.
            limits=Limits(prompt=2 * MOST_STEPS + 1, completion=2 * MOST_STEPS + 1, whole=MAX_TOKENS),
            rows={**splits, "facts": lambda: dataset(facts()), "branches": self._branches},
            revision=lambda: fingerprint([problems(split) for split in SPLITS], sort=True),
            tokenizer=self.own,
        )

    def _branches(self) -> Dataset:
        columns = self.rows("train").to_dict()
        prompts, thoughts, ends = (
            self.own(columns[name])["input_ids"] for name in ("prompt", "thoughts", "completion")
        )
        return dataset(
            {
                "prompt_ids": prompts,
                "thought_ids": thoughts,
                "marker_ids": [row[:1] for row in ends],
                "answer_ids": [[*row[1:], self.own.eos_token_id] for row in ends],
            }
        )

    @property
    def thought_ids(self) -> dict[str, int]:
        """The tokens before and after latent thoughts."""
        vocabulary = self.own.get_vocab()
        return {"begin_id": vocabulary[BEGIN], "end_id": vocabulary[END]}

    def find_references(self, split: str) -> list[list[int]]:
        """The answers as token ids."""
        return self.said(self.own(list(self.rows(split)["completion"]))["input_ids"], self.own)

    def said(self, ids: Sequence[Sequence[int]], tokenizer: PreTrainedTokenizerBase) -> list[Any]:
        """What stands after the last marker of each; nothing where there is none."""
        marker = tokenizer.convert_tokens_to_ids(MARKER)
        return [row[len(row) - row[::-1].index(marker) :] if marker in row else [] for row in map(list, ids)]
