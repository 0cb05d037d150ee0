"""One model on the first rows of one split: what it answers is made once, for every measurement that asks for it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from reproductions.metrics.decoding.decoder import Comparison, Decoder, TeacherSide
from reproductions.metrics.decoding.sampling import Samples

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reproductions.engine.work.run import Run
    from reproductions.testbeds.testbed import Testbed


class Evaluation:
    """`prompts` and `references` of the first `limit` rows, and the model's answers to them."""

    def __init__(
        self,
        testbed: Testbed,
        model: PreTrainedModel,
        run: Run,
        *,
        split: str,
        limit: int | None,
        reader: str | None = None,
    ) -> None:
        self.testbed, self.task, self.model, self.run = testbed, testbed.task, model, run
        self.split, self.limit = split, limit
        self.decoder: Decoder = testbed.decoder if reader is None else testbed.decoder_of(reader)
        rows = testbed.task.rows(split)
        column = "prompt" if reader is None or "teacher_prompt" not in rows.column_names else "teacher_prompt"
        self.all_prompts = list(rows[column])
        self.prompts = self.all_prompts[: limit or len(rows)]
        self._beside: dict[str, tuple[Comparison, Comparison]] = {}

    @cached_property
    def references(self) -> list[Any]:
        """What the task's scores compare with."""
        return self.task.references(self.split)[: len(self.prompts)]

    @cached_property
    def sampled(self) -> Samples:
        """Answers at temperature 1: to all prompts, and then again, as often as the testbed says."""
        return self.decoder.sampled(self.model, self.run, self.prompts, self.testbed.samples)

    @cached_property
    def greedy(self) -> Samples:
        """The most probable token at every step."""
        return self.decoder.greedy(self.model, self.run, self.prompts)

    @property
    def first_sampled(self) -> Samples:
        """The first of the samples of each prompt."""
        return self.sampled.rows(slice(len(self.prompts)))

    def said_sampled(self) -> list[list[Any]]:
        """Copies of (N,) sampled answers as the task reads them."""
        said, count = self.said(self.sampled), len(self.prompts)
        return [said[start : start + count] for start in range(0, len(said), count)]

    def said(self, samples: Samples) -> list[Any]:
        """Answers as the task's scores read them."""
        return self.task.said(samples.answers(self.decoder.eos_ids), self.decoder.tokenizer)

    def ask(self, prompts: list[str], *, greedy: bool) -> list[Any]:
        """What the model answers to other prompts, read by the task."""
        return self.said(
            self.decoder.greedy(self.model, self.run, prompts)
            if greedy
            else self.decoder.sampled(self.model, self.run, prompts)
        )

    def beside(self, teacher: str) -> tuple[Comparison, Comparison]:
        """The model beside a teacher: on its own first samples, and on the teacher's."""
        if teacher not in self._beside:
            side = self.teacher(teacher)
            own = side.compare(self.model, self.prompts, self.first_sampled)
            self._beside[teacher] = own, side.compare(self.model, self.prompts)
        return self._beside[teacher]

    def teacher(self, name: str) -> TeacherSide:
        """A teacher of the testbed, with what it answered in this run."""
        return self.testbed.teacher_side(self.run, name)
