"""A sampler that asks the student only as often as it helps, and replays what it wrote before."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.samplers.example import Example, Step, student_examples


@component("sampler", "adaptive-replay")
class AdaptiveReplay:
    """The share of student samples grows when the validation loss does not fall; most samples are replayed ones.

    With probability phi a step learns from student samples: fresh ones with probability phi (1 - progress), kept in a
    buffer of `capacity` examples, else a draw from the buffer. phi starts at `start` and rises by `rise` whenever one
    of the `validations` equally spaced checks finds the validation loss above the last one by more than `tolerance`.
    `released` does as the released code (finetune.py): one draw decides, so that a step's samples are fresh with
    probability phi (1 - progress) of all steps, and always until the buffer is full; phi rises where the loss is above
    that of the last rise (at first, of the start).
    Source: DistiLLM, arXiv 2402.03898, section 3.2 and Algorithm 1 (phi, lambda_R = 1 - t/T).
    """

    def __init__(
        self,
        *,
        start: float = 0.0,
        rise: float = 0.1,
        tolerance: float = 0.0,
        validations: int = 10,
        capacity: int = 1000,
        temperature: float = 1.0,
        released: bool = False,
    ):
        check_fraction("start", start)
        check_fraction("rise", rise)
        self.released = released
        self.rise, self.tolerance, self.validations, self.temperature = (
            rise,
            tolerance,
            validations,
            temperature,
        )
        self.share = start
        self.buffer: deque[Example] = deque(maxlen=capacity)
        self._checked = 0
        self._last: float | None = None

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        self._validate(step)
        draw = step.random.random()
        if draw >= self.share:
            return list(window)
        if not self.released:
            draw = step.random.random()
        fresh = draw < self.share * (1 - step.progress)
        full = self.buffer.maxlen if self.released else len(window)
        if fresh or len(self.buffer) < max(full or 0, len(window)):
            examples = student_examples(window, step, temperature=self.temperature)
            self.buffer.extend(examples)
            return examples
        return step.random.sample(list(self.buffer), len(window))

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as plain data."""
        buffer = [asdict(example) for example in self.buffer]
        return {"share": self.share, "checked": self._checked, "last": self._last, "buffer": buffer}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.share, self._checked, self._last = state["share"], state["checked"], state["last"]
        self.buffer.clear()
        self.buffer.extend(Example(**example) for example in state["buffer"])

    def _validate(self, step: Step) -> None:
        due = int(step.progress * self.validations)
        if due < self._checked:
            return
        self._checked = due + 1
        loss = step.validation_loss()
        rises = self._last is not None and loss >= self._last + self.tolerance
        if rises:
            self.share = min(1.0, self.share + self.rise)
        if rises or self._last is None or not self.released:
            self._last = loss
