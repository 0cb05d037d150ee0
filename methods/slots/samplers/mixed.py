"""Samplers on another one: for a share of the window's examples, up to some length, or from where the data begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.samplers.example import (
    SOURCES,
    Example,
    Sampler,
    Step,
    student_examples,
    with_completions,
)
from methods.slots.samplers.student import OnPolicy

SHAPES = ("linear", "geometric", "step")


@component("sampler", "mixed")
class Mixed:
    """Each example of the window stays as it is with a probability, else it is another sampler's, the student's own.

    The share that stays goes from `data_start` to `data_end` over the training: in a line, "geometric" (by the same
    factor each step), or in one "step" at the share `at` of the training. `source` names what stays.
    Source: ImitKD, arXiv 2009.07253 (200^(-t), a coin for each sequence); StableOPD, arXiv 2604.08527 (a constant share
    of golden data); Qwen3, arXiv 2505.09388 (off-policy first, then on-policy: a step from 1 to 0).
    """

    def __init__(
        self,
        data_start: float = 0.5,
        *,
        data_end: float | None = None,
        shape: str = "linear",
        at: float = 0.5,
        source: str = "data",
        sampler: Sampler | None = None,
    ):
        check_fraction("data_start", data_start)
        check_fraction("data_end", data_start if data_end is None else data_end)
        check_fraction("at", at)
        if shape not in SHAPES:
            raise MethodError(f"shape is {shape!r}, none of {', '.join(SHAPES)}")
        if shape == "geometric" and not (data_start > 0 and (data_end is None or data_end > 0)):
            raise MethodError("a geometric share is never zero")
        if sampler is not None and hasattr(sampler, "state"):
            raise MethodError(f"{type(sampler).__name__} remembers, so it cannot stand in a mixture")
        self.start, self.end = data_start, data_start if data_end is None else data_end
        self.shape, self.at, self.source = shape, at, source
        self.sampler = OnPolicy() if sampler is None else sampler

    def data_share(self, progress: float) -> float:
        """The probability with which an example stays, at some progress in [0, 1)."""
        if self.shape == "step":
            return self.start if progress < self.at else self.end
        if self.shape == "geometric":
            return self.start * (self.end / self.start) ** progress
        return self.start + (self.end - self.start) * progress

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        share = self.data_share(step.progress)
        made = [replace(example, source=self.source) for example in window]
        places = [n for n in range(len(window)) if step.random.random() >= share]
        if places:
            written = self.sampler([window[n] for n in places], step)
            if len(written) != len(places):
                raise MethodError(f"{type(self.sampler).__name__} does not give one example for each")
            for n, example in zip(places, written, strict=True):
                made[n] = example
        return made


@component("sampler", "paired")
class Paired:
    """Every second prompt of the window with two answers, the given one and what `sampler` makes; the others wait.

    `source` and `other` name where the two come from, whoever wrote them: a start that is a teacher's stand-in writes
    the student's. As many sequences a step as with any other sampler.
    Source: SODA, arXiv 2604.03873, and PLaD, arXiv 2406.02886 (answers of the teacher, and of the student before).
    """

    own_loop = True

    def __init__(self, sampler: Sampler, *, source: str = "teacher", other: str = "student"):
        for name in (source, other):
            if name not in SOURCES:
                raise MethodError(f"source {name!r} is none of {', '.join(SOURCES)}")
        if hasattr(sampler, "state"):
            raise MethodError(f"{type(sampler).__name__} remembers, so it cannot stand in a pair")
        self.sampler, self.source, self.other = sampler, source, other

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        given = [replace(example, source=self.source) for example in window]
        paired = window[: len(window) // 2 * 2 : 2]
        written = self.sampler(paired, step)
        if len(written) != len(paired):
            raise MethodError(f"{type(self.sampler).__name__} does not give one example for each")
        given[1::2] = [replace(example, source=self.other) for example in written]
        return given


@component("sampler", "truncated")
class Truncated:
    """The student's own answers up to `tokens` tokens, which may grow to `grown` over the training, linearly.

    What is behind is not written, so that it costs nothing; a cut answer lacks its end.
    Source: Prefix OPD, arXiv 2602.15260 (a constant k, or a linear schedule).
    """

    def __init__(self, tokens: int, *, grown: int | None = None, temperature: float = 1.0):
        if tokens < 1 or (grown is not None and grown < tokens):
            raise MethodError("an opening has one token or more, and may grow, not shrink")
        self.tokens, self.grown, self.temperature = tokens, grown, temperature

    def limit(self, progress: float) -> int:
        """How many tokens at some progress in [0, 1)."""
        grown = self.tokens if self.grown is None else self.grown
        return int(self.tokens + (grown - self.tokens) * progress)

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        return student_examples(window, step, temperature=self.temperature, limit=self.limit(step.progress))


@component("sampler", "gated-length")
class GatedLength:
    """The student's own answers up to a number of tokens, which grows to the next one while the student stays unsure.

    Every so many steps (`every`) the entropy of the student at its fresh answers is looked at: the length goes from one
    of `lengths` to the next where its mean is at least `level` nats. That it is looked at there is our reading.
    Source: Decoupling KL and trajectories, arXiv 2605.16826 (L_m, H_min; on held-out tokens; no numbers were seen).
    """

    def __init__(self, lengths: Sequence[int], level: float, *, every: int = 10, temperature: float = 1.0):
        rises = all(a < b for a, b in zip(lengths, lengths[1:], strict=False))
        if not lengths or lengths[0] < 1 or not rises:
            raise MethodError(f"lengths rise from one token or more, not {list(lengths)}")
        if every < 1:
            raise MethodError(f"every is {every}, not a number of steps")
        self.lengths, self.level, self.every, self.temperature = list(lengths), level, every, temperature
        self.stage = self._step = 0

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        examples = student_examples(
            window, step, temperature=self.temperature, limit=self.lengths[self.stage]
        )
        self._step += 1
        last = len(self.lengths) - 1
        if self.stage < last and self._step % self.every == 0 and step.entropy(examples) >= self.level:
            self.stage += 1
        return examples

    def state(self) -> dict[str, int]:
        """What a checkpoint must keep, as plain data."""
        return {"stage": self.stage, "step": self._step}

    def restore(self, state: Mapping[str, int]) -> None:
        """Go on from what `state` gave."""
        self.stage, self._step = state["stage"], state["step"]


@component("sampler", "continued")
class Continued:
    """The student goes on from the first part of each given answer, a share that may fall to `share_end`.

    The given part is learnt from too; it counts as the student's. At most all but one token of an answer is given.
    Source: TrOPD, arXiv 2606.01249 (a prefix of the teacher's whose length falls to zero).
    """

    def __init__(self, share: float = 0.5, *, share_end: float | None = None, temperature: float = 1.0):
        check_fraction("share", share)
        check_fraction("share_end", share if share_end is None else share_end)
        self.share, self.share_end, self.temperature = share, share_end, temperature

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        if not window:
            return []
        end = self.share if self.share_end is None else self.share_end
        share = self.share + (end - self.share) * step.progress
        begun = [
            e.completion[: max(0, min(int(share * len(e.completion)), len(e.completion) - 1))] for e in window
        ]
        completions = step.generate([e.prompt for e in window], begun=begun, temperature=self.temperature)
        return with_completions(window, completions, "student")
