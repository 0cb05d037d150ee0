"""One model on the first rows of one split: what it answers is made once, for every measurement that asks for it."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from reproductions.metrics.decoding import sampling
from reproductions.metrics.decoding.decoder import Comparison, Decoder, TeacherSide, autocast
from reproductions.metrics.decoding.sampling import Samples
from reproductions.tasks.scores import answers_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reproductions.engine.work.run import Run
    from reproductions.tasks.base import Score
    from reproductions.testbeds.testbed import Testbed

CHOOSING_SAMPLES = 2  # of each validation row, at each temperature of the grid


class Evaluation:
    """`prompts` and `references` of the first `limit` rows, and the model's answers to them.

    `wanted` are the metrics that somebody reads, None for all: a measurement does no work for others.
    """

    def __init__(
        self,
        testbed: Testbed,
        model: PreTrainedModel,
        run: Run,
        *,
        split: str,
        limit: int | None,
        reader: str | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        self.testbed, self.task, self.model, self.run = testbed, testbed.task, model, run
        self.split, self.limit, self.reader = split, limit, reader
        self.wanted = None if wanted is None else frozenset(wanted)
        self.decoder: Decoder = testbed.decoder if reader is None else testbed.decoder_of(reader)
        rows = testbed.task.rows(split)
        column = "prompt" if reader is None or "teacher_prompt" not in rows.column_names else "teacher_prompt"
        self.all_prompts = list(rows[column])
        self.prompts = self.all_prompts[: limit or len(rows)]
        self._beside: dict[tuple[str, int], tuple[Comparison, Comparison]] = {}
        self._said_at: dict[float, list[list[Any]]] = {}

    def wants(self, *metrics: str) -> bool:
        """Whether any of these is read by somebody."""
        return self.wanted is None or not self.wanted.isdisjoint(metrics)

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

    @cached_property
    def _first_sampled(self) -> Samples:
        return self.decoder.sampled(self.model, self.run, self.prompts)

    @property
    def first_sampled(self) -> Samples:
        """The first of the samples of each prompt; the others are not made for it."""
        known = self.__dict__.get("sampled")
        return self._first_sampled if known is None else known.rows(slice(len(self.prompts)))

    def said_sampled(self) -> list[list[Any]]:
        """Copies of (N,) sampled answers as the task reads them."""
        return self.said_at(1.0)

    def said_at(self, temperature: float) -> list[list[Any]]:
        """The same at another temperature, by the same random numbers."""
        if temperature not in self._said_at:
            drawn = self.sampled if temperature == 1 else self._sampled_at(temperature, self.testbed.samples)
            self._said_at[temperature] = self._by_copy(drawn)
        return self._said_at[temperature]

    def _sampled_at(self, temperature: float, copies: int) -> Samples:
        return self.decoder.sampled(self.model, self.run, self.prompts, copies, temperature)

    def _by_copy(self, samples: Samples) -> list[list[Any]]:
        said, count = self.said(samples), len(self.prompts)
        return [said[start : start + count] for start in range(0, len(said), count)]

    def best_temperature(self, score: Score) -> float:
        """Of the testbed's grid, that at which this model's samples score best on the validation rows; of equals the
        highest."""
        sign = 1 if score.higher_is_better else -1
        means = {t: sign * self._validation.mean_at(t, score) for t in self.testbed.temperatures}
        best = max(means.values())
        return max(t for t, mean in means.items() if mean == best)

    @cached_property
    def _validation(self) -> Evaluation:
        return Evaluation(
            self.testbed, self.model, self.run, split="validation", limit=None, reader=self.reader
        )

    def mean_at(self, temperature: float, score: Score) -> float:
        """The mean of a score over CHOOSING_SAMPLES answers to each prompt."""
        if temperature not in self._said_at:
            self._said_at[temperature] = self._by_copy(self._sampled_at(temperature, CHOOSING_SAMPLES))
        said = self._said_at[temperature]
        return float(np.mean([score.function(one, self.references) for one in said]))

    @cached_property
    def reference_probabilities(self) -> list[np.ndarray] | None:
        """For each row the probability of each of its answers; None where the model reads other tokens than the task.

        An answer that is listed twice counts once.
        """
        if self.decoder.tokenizer is not self.task.tokenizer:
            return None
        known = [list(dict.fromkeys(map(tuple, answers_of(row)))) for row in self.references]
        rows = [place for place, answers in enumerate(known) for _ in answers]
        ids, attention = self.decoder.encode(self.prompts)
        with autocast(self.run):
            logprobs = sampling.answer_logprobs(
                self.model,
                ids[rows],
                attention[rows],
                [answer for answers in known for answer in answers],
                max_new_tokens=self.decoder.new_tokens,
                eos_id=self.decoder.eos_ids[0],
            )
        ends = np.cumsum([len(answers) for answers in known])
        return np.split(logprobs.double().exp().numpy(), ends[:-1])

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

    def beside(self, teacher: str, rows: int | None = None) -> tuple[Comparison, Comparison]:
        """The model beside a teacher on the first `rows`: on its own first samples, and on the teacher's."""
        asked = self.prompts[:rows]
        key = teacher, len(asked)
        if key not in self._beside:
            side = self.teacher(teacher)
            whole = self.__dict__.keys() & {"sampled", "_first_sampled"} or len(asked) == len(self.prompts)
            own = (
                self.first_sampled.rows(slice(len(asked)))
                if whole
                else self.decoder.sampled(self.model, self.run, asked)
            )
            self._beside[key] = side.compare(self.model, asked, own), side.compare(self.model, asked)
        return self._beside[key]

    def teacher(self, name: str) -> TeacherSide:
        """A teacher of the testbed, with what it answered in this run."""
        return self.testbed.teacher_side(self.run, name)
