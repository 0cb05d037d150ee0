"""Scale paper: conversations of UltraChat, with any pair of published chat teacher and student.

Both models read the teacher's tokenizer and chat template, as the authors' code has it. The papers have a judge (GPT-4)
compare answers to other prompts; what is measured here, without one, is ROUGE-L with the answers of held-out rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

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

Messages = list[dict[str, str]]  # `role` and `content`, the last one the assistant's

ULTRACHAT = "HuggingFaceH4/ultrachat_200k"
SPIN = (
    "UCLA-AGI/SPIN_iter1"  # the 50,000 opening questions of UltraChat that DistiLLM-2's generate_vllm.py asks
)
BATCH = 16  # rows measured together

METRICS = {
    "rouge_l": Metric("mean", ("rouge_l",), True, "ROUGE-L on held-out conversations, sampled", "%"),
    "greedy_rouge_l": Metric(
        "mean", ("greedy_rouge_l",), True, "ROUGE-L on held-out conversations, greedy", "%"
    ),
}


class Conversations(PretrainedPair):
    """Whole conversations to train on, their last turns to measure: UltraChat as TAID prepares it.

    Loss on every token, the user's too; left out are conversations with a last answer, or anything before it, of more
    tokens than the limits (TAID's prepare_ultrachat.py).
    """

    name = "ultrachat"
    metrics: Mapping[str, Metric] = METRICS
    max_prompt_tokens, max_completion_tokens = 1536, 512  # MAX_LENGTH 2048, MAX_OUTPUT_LENGTH
    test_rows, validation_rows = 2_000, 1_000  # prepare_ultrachat.py has the same 2,000 for both
    pretraining = None

    def __init__(self, teacher: str, student: str) -> None:
        self.teacher_id, self.student_id = teacher, student
        _, self.tokenizer = load_pretrained(teacher, weights=False)
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.eos_token
        self.tokenizer.padding_side = "left"
        self._read()
        parts = [part.to_list() for part in (self.train, self.validation, self.test)]
        self.revision = hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()[:16]
        self._judge = Judge(
            self.tokenizer,
            self.teacher,
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_completion_tokens,
            batch=BATCH,
        )

    def _read(self) -> None:
        self.train = self._whole(self._fitting(self._ultrachat("train_sft")))
        held_out = self._turns(self._fitting(self._ultrachat("test_sft")))
        held_out.sort(key=lambda row: hashlib.sha256(row["prompt"].encode()).hexdigest())
        test, rest = held_out[: self.test_rows], held_out[self.test_rows :]
        self.test, self.validation = Dataset.from_list(test), Dataset.from_list(rest[: self.validation_rows])

    @staticmethod
    def _ultrachat(split: str) -> list[Messages]:
        rows = load_rows(ULTRACHAT, split, ("messages",))
        return [row["messages"] for row in rows if row["messages"][-1]["role"] == "assistant"]

    def _template(self, messages: Messages, *, ask: bool = False) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=ask))

    def _turns(self, conversations: Iterable[Messages]) -> list[dict[str, str]]:
        """The last answers, each with everything before it as its prompt."""
        return [
            {"prompt": self._template(c[:-1], ask=True), "completion": c[-1]["content"]}
            for c in conversations
        ]

    def _whole(self, conversations: Iterable[Messages]) -> Dataset:
        """Rows without a prompt; training ends each with EOS, so the template's own is left out."""
        texts = [
            self._template(c).rstrip().removesuffix(str(self.tokenizer.eos_token)) for c in conversations
        ]
        return Dataset.from_list([{"prompt": "", "completion": text} for text in texts])

    def _fitting(self, conversations: Sequence[Messages], *, answers: bool = True) -> list[Messages]:
        """Those with a prompt within its limit and, where `answers` count, an answer within the other."""
        turns = self._turns(conversations)
        limits = {"prompt": self.max_prompt_tokens} | (
            {"completion": self.max_completion_tokens} if answers else {}
        )
        short = [
            [len(ids) <= limit for ids in self.tokenizer([turn[part] for turn in turns])["input_ids"]]
            for part, limit in limits.items()
        ]
        return [c for c, *fits in zip(conversations, *short, strict=True) if all(fits)]

    def evaluate(
        self, model: PreTrainedModel, run: Run, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        """Columns of `METRICS`, one figure per row; one answer sampled at temperature 1 and one greedy."""
        rows = getattr(self, split)
        rows = rows.select(range(min(len(rows), limit or len(rows))))
        references = [[text] for text in rows["completion"]]
        answers = {
            "rouge_l": self._judge.sampled(model, run, rows["prompt"]),
            "greedy_rouge_l": self._judge.greedy(model, run, rows["prompt"])[0],
        }
        columns = {
            name: (rouge_l(self.tokenizer.batch_decode(ids, skip_special_tokens=True), references), 2)
            for name, ids in answers.items()
        }
        return ev.rounded(columns)


class OpeningQuestions(Conversations):
    """Opening questions, for a teacher and a student to answer, after SFT on UltraChat: as DistiLLM-2 trains.

    Its code cuts a question that is too long from the left, here it is left out; and it trains on the first 1,024
    tokens of question and answer, here on all.
    """

    name = "ultrachat-openings"
    max_prompt_tokens = 512  # max_prompt_length of its training_configs
    max_completion_tokens = 1024  # max_tokens of its generate_vllm.py
    max_sft_tokens = 2_048  # max_seq_length of qwen2.5-1.5b-sft.yaml
    validation_rows = 500

    def _read(self) -> None:
        train, self.test = (
            Dataset.from_list(self._turns(self._fitting(self._openings(split), answers=False)))
            for split in ("train", "test")
        )
        self.validation = train.select(range(self.validation_rows))
        self.train = train.select(range(self.validation_rows, len(train)))

    @staticmethod
    def _openings(split: str) -> list[Messages]:
        """Question and the data's own answer, which only the measurements use."""
        return [row["real"][:2] for row in load_rows(SPIN, split, ("real",))]

    @cached_property
    def sft_rows(self) -> Dataset:
        """All conversations of UltraChat, whole; training cuts the long ones."""
        return self._whole(self._ultrachat("train_sft"))
