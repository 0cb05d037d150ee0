"""Samplers that ask the student, the teacher, or a mixture of both for new completions at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.samplers.example import SOURCES, Example, Step, student_examples, with_completions


@component("sampler", "on-policy")
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


@component("sampler", "teacher-mixed")
class TeacherMixed:
    """Every completion is sampled token by token from teacher_mix * teacher + (1 - teacher_mix) * student.

    `teacher_mix` 1 samples from the teacher: the fresh answers that keep a student from hacking its teacher (Tiapkin
    et al., arXiv 2502.02671).
    Source: MiniLLM, arXiv 2306.08543, section 2.2 (alpha), without its importance weights.
    """

    own_loop = True

    def __init__(self, teacher_mix: float, *, temperature: float = 1.0):
        check_fraction("teacher_mix", teacher_mix)
        self.teacher_mix, self.temperature = teacher_mix, temperature

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        completions = step.generate(
            [e.prompt for e in window], temperature=self.temperature, teacher_mix=self.teacher_mix
        )
        source = "teacher" if self.teacher_mix == 1 else "student"
        return with_completions(window, completions, source)


@component("sampler", "with-student")
class WithStudent:
    """Both: each given example and, beside it, the student's own completion of its prompt.

    For losses whose terms ask for sequences of either side. Where the data are the teacher's answers, `source` names
    them "teacher".
    Source: f-DISTILL, arXiv 2307.15190, section 2.2 (symmetric divergences need samples of both).
    """

    def __init__(self, source: str = "teacher", *, temperature: float = 1.0):
        if source not in SOURCES:
            raise MethodError(f"source {source!r} is none of {', '.join(SOURCES)}")
        self.source, self.temperature = source, temperature

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        sampled = student_examples(window, step, temperature=self.temperature)
        given = [replace(example, source=self.source) for example in window]
        return [example for pair in zip(given, sampled, strict=True) for example in pair]


@component("sampler", "half-student")
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


@component("sampler", "paired-student")
class PairedStudent:
    """Every second prompt of the window with two answers, the given one and the student's own; the others wait.

    As many sequences a step as with any other sampler. The given answers are the teacher's and stay so as `source`.
    Source: DistiLLM-2, arXiv 2503.07067, which samples the student's side for an epoch beforehand; here it is fresh
    at each step.
    """

    def __init__(self, source: str = "teacher", *, temperature: float = 1.0):
        self._both = WithStudent(source, temperature=temperature)

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        given = [replace(example, source=self._both.source) for example in window]
        paired = window[: len(window) // 2 * 2 : 2]
        given[1::2] = student_examples(paired, step, temperature=self._both.temperature)
        return given
