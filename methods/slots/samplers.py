"""Which sequences a student learns from: the data, its own samples, replayed ones, or a mixture with the teacher's.

A sampler gets the examples of a whole accumulation window at once and gives back examples to learn from, so that
rollouts are one large batch and nothing depends on how the window is cut into micro-batches.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from methods.errors import MethodError
from methods.losses.divergences import check_fraction

SOURCES = ("data", "teacher", "student")


@dataclass(frozen=True)
class Example:
    """A prompt and a completion as token ids, the end-of-sequence token included; `source` is one of SOURCES."""

    prompt: list[int]
    completion: list[int]
    source: str = "data"


@dataclass(frozen=True)
class Comparison:
    """What both models think of a completion, token by token, each with the same tokens before it."""

    divergence: list[float]  # KL(teacher || student), nats
    teacher_tokens: list[int]  # what the teacher says there


@dataclass(frozen=True)
class Step:
    """What a sampler may ask for at an optimizer step."""

    progress: float  # steps done over all steps, in [0, 1)
    random: random.Random  # seeded by seed, rank and step: a resumed run draws the same numbers
    # (prompts, begun, **settings of methods.modeling.rollouts.rollout) -> completions; `begun` holds their first tokens
    generate: Callable[..., list[list[int]]]
    validation_loss: Callable[[], float]  # mean -log q(label) over the trainer's eval_dataset, nats per token
    # (examples, greedy=False) -> one for each; the teacher's tokens are drawn, or its most probable ones
    compare: Callable[..., list[Comparison]] = lambda *a, **k: []


class Sampler(Protocol):
    """Turns the examples of a window into those to learn from; k examples for each given one, side by side."""

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]: ...


class OnPolicy:
    """With probability `fraction` a step learns from the student's own completions instead of the data.

    Source: GKD, arXiv 2306.13649, Algorithm 1: `fraction` is lambda, one draw for the whole step.
    """

    def __init__(self, fraction: float = 1.0, *, temperature: float = 1.0):
        check_fraction("fraction", fraction)
        self.fraction, self.temperature = fraction, temperature

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        if step.random.random() >= self.fraction:
            return list(window)
        return student_examples(window, step, temperature=self.temperature)


class TeacherMixed:
    """Every completion is sampled token by token from teacher_mix * teacher + (1 - teacher_mix) * student.

    `teacher_mix` 1 samples from the teacher: the fresh answers that keep a student from hacking its teacher (Tiapkin
    et al., arXiv 2502.02671). Source: MiniLLM, arXiv 2306.08543, section 2.2 (alpha), without its importance weights.
    """

    def __init__(self, teacher_mix: float, *, temperature: float = 1.0):
        check_fraction("teacher_mix", teacher_mix)
        self.teacher_mix, self.temperature = teacher_mix, temperature

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        completions = step.generate(
            [e.prompt for e in window], temperature=self.temperature, teacher_mix=self.teacher_mix
        )
        source = "teacher" if self.teacher_mix == 1 else "student"
        return with_completions(window, completions, source)


class WithStudent:
    """Both: each given example and, beside it, the student's own completion of its prompt.

    For losses whose terms ask for sequences of either side. Where the data are the teacher's answers, `source` names
    them "teacher". Source: f-DISTILL, arXiv 2307.15190, section 2.2 (symmetric divergences need samples of both).
    """

    def __init__(self, source: str = "teacher", *, temperature: float = 1.0):
        if source not in SOURCES:
            raise MethodError(f"source {source!r} is none of {', '.join(SOURCES)}")
        self.source, self.temperature = source, temperature

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        sampled = student_examples(window, step, temperature=self.temperature)
        given = [replace(example, source=self.source) for example in window]
        return [example for pair in zip(given, sampled, strict=True) for example in pair]


class HalfStudent:
    """Every second example of the window becomes the student's own completion; the others stay, as `source`.

    The same terms as with `WithStudent`, for as many sequences a step as any other arm has.
    Source: f-DISTILL, arXiv 2307.15190, section 2.2.
    """

    def __init__(self, source: str = "teacher", *, temperature: float = 1.0):
        self._both = WithStudent(source, temperature=temperature)

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        given = [replace(example, source=self._both.source) for example in window]
        given[1::2] = student_examples(window[1::2], step, temperature=self._both.temperature)
        return given


class AdaptiveReplay:
    """The share of student samples grows when the validation loss does not fall; most samples are replayed ones.

    With probability phi a step learns from student samples: fresh ones with probability phi (1 - progress), kept in a
    buffer of `capacity` examples, else a draw from the buffer. phi starts at `start` and rises by `rise` whenever one
    of the `validations` equally spaced checks finds the validation loss above the last one by more than `tolerance`.
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
    ):
        check_fraction("start", start)
        check_fraction("rise", rise)
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
        if step.random.random() >= self.share:
            return list(window)
        fresh = step.random.random() < self.share * (1 - step.progress)
        if fresh or len(self.buffer) < len(window):
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
        if self._last is not None and loss >= self._last + self.tolerance:
            self.share = min(1.0, self.share + self.rise)
        self._last = loss


def student_examples(window: Sequence[Example], step: Step, **settings: float) -> list[Example]:
    """The student's own completions of the window's prompts."""
    if not window:
        return []
    return with_completions(window, step.generate([e.prompt for e in window], **settings), "student")


def with_completions(
    window: Sequence[Example], completions: Sequence[list[int]], source: str
) -> list[Example]:
    """The window's prompts with other completions."""
    return [Example(e.prompt, c, source) for e, c in zip(window, completions, strict=True)]
