"""Conversations of UltraChat: whole ones to train on, or opening questions for teacher and student to answer.

All models read one tokenizer and its chat template. The papers have a judge (GPT-4) compare answers to other prompts;
what is measured here, without one, is ROUGE-L with the answers of held-out rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reproductions.models.sources import load_rows
from reproductions.tasks.base import SPLITS, Limits, Score, Task, as_made, dataset, fingerprint, task
from reproductions.tasks.scores import rouge_l_of_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

Messages = list[dict[str, str]]  # `role` and `content`, the last one the assistant's

ULTRACHAT = "HuggingFaceH4/ultrachat_200k"
SPIN = (
    "UCLA-AGI/SPIN_iter1"  # the 50,000 opening questions of UltraChat that DistiLLM-2's generate_vllm.py asks
)


@task("conversations")
class Conversations(Task):
    """Whole conversations to train on, their last turns to measure: UltraChat as TAID prepares it.

    Loss on every token, the user's too; left out are conversations with a last answer, or anything before it, of more
    tokens than the limits (TAID's prepare_ultrachat.py).
    With `openings` the rows are opening questions, as DistiLLM-2 trains; its code cuts a question that is too long from
    the left, here it is left out; and it trains on the first 1,024 tokens of question and answer, here on all.
    Extra rows: `conversations`, all of UltraChat's, whole.
    """

    scores: Mapping[str, Score] = {"rouge_l": Score(rouge_l_of_texts, "ROUGE-L on held-out conversations", 2)}
    named_by = ("openings",)

    def __init__(
        self,
        *,
        tokenizer: PreTrainedTokenizerBase,
        limits: Limits,
        openings: bool = False,
        test_rows: int = 2_000,  # prepare_ultrachat.py has the same 2,000 for test and validation
        validation_rows: int | None = None,
    ) -> None:
        self._tokenizer, self._limits = tokenizer, limits
        if openings:
            parts = self._opening_questions(500 if validation_rows is None else validation_rows)
        else:
            parts = self._whole_conversations(
                1_000 if validation_rows is None else validation_rows, test_rows
            )
        super().__init__(
            shelf="ultrachat-openings" if openings else "ultrachat",
            limits=limits,
            rows={name: as_made(part) for name, part in zip(SPLITS, parts, strict=True)}
            | {"conversations": lambda: self._whole(ultrachat("train_sft"))},
            revision=lambda: fingerprint([part.to_list() for part in parts], ascii=False),
        )

    def find_references(self, split: str) -> list[list[str]]:
        """The data's own answer."""
        return [[text] for text in super().find_references(split)]

    def _whole_conversations(self, validation_rows: int, test_rows: int) -> tuple[Dataset, Dataset, Dataset]:
        held_out = self._turns(self._fitting(ultrachat("test_sft")))
        held_out.sort(key=lambda row: hashlib.sha256(row["prompt"].encode()).hexdigest())
        test, rest = held_out[:test_rows], held_out[test_rows:]
        return (
            self._whole(self._fitting(ultrachat("train_sft"))),
            dataset(rest[:validation_rows]),
            dataset(test),
        )

    def _opening_questions(self, validation_rows: int) -> tuple[Dataset, Dataset, Dataset]:
        train, test = (
            dataset(self._turns(self._fitting(openings(split), answers=False))) for split in ("train", "test")
        )
        return (
            train.select(range(validation_rows, len(train))),
            train.select(range(validation_rows)),
            test,
        )

    def _template(self, messages: Messages, *, ask: bool = False) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))

    def _turns(self, conversations: Iterable[Messages]) -> list[dict[str, str]]:
        """The last answers, each with everything before it as its prompt."""
        return [
            {"prompt": self._template(c[:-1], ask=True), "completion": c[-1]["content"]}
            for c in conversations
        ]

    def _whole(self, conversations: Iterable[Messages]) -> Dataset:
        """Rows without a prompt; training ends each with EOS, so the template's own is left out."""
        end = str(self._tokenizer.eos_token)
        texts = [self._template(c).rstrip().removesuffix(end) for c in conversations]
        return dataset([{"prompt": "", "completion": text} for text in texts])

    def _fitting(self, conversations: Sequence[Messages], *, answers: bool = True) -> list[Messages]:
        """Those with a prompt within its limit and, where `answers` count, an answer within the other."""
        turns = self._turns(conversations)
        limits = {"prompt": self._limits.prompt} | (
            {"completion": self._limits.completion} if answers else {}
        )
        short = [
            [len(ids) <= limit for ids in self._tokenizer([turn[part] for turn in turns])["input_ids"]]
            for part, limit in limits.items()
        ]
        return [c for c, *fits in zip(conversations, *short, strict=True) if all(fits)]


def ultrachat(split: str) -> list[Messages]:
    """The conversations of a published split that the assistant ends."""
    rows = load_rows(ULTRACHAT, split, ("messages",))
    return [row["messages"] for row in rows if row["messages"][-1]["role"] == "assistant"]


def openings(split: str) -> list[Messages]:
    """Question and the data's own answer, which only the measurements use."""
    return [row["real"][:2] for row in load_rows(SPIN, split, ("real",))]
