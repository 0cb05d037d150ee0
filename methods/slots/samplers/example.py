"""What samplers take and give: examples of a window, and what may be asked for at a step.

A sampler gets the examples of a whole accumulation window at once and gives back examples to learn from, so that
rollouts are one large batch and nothing depends on how the window is cut into micro-batches.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

SOURCES = ("data", "teacher", "student")


@dataclass(frozen=True)
class Example:
    """A prompt and a completion as token ids, the end-of-sequence token included; `source` is one of SOURCES."""

    prompt: list[int]
    completion: list[int]
    source: str = "data"
    text: str | None = None  # the prompt as text, where a teacher with other tokens has to read it


@dataclass(frozen=True)
class Comparison:
    """What both models think of a completion, token by token, each with the same tokens before it."""

    divergence: list[float]  # KL(teacher || student), nats
    teacher_tokens: list[int]  # what the teacher says there


Perplexities = tuple[Mapping[str, float], Mapping[str, float]]


@dataclass(frozen=True)
class Step:
    """What a sampler may ask for at an optimizer step."""

    progress: float  # steps done over all steps, in [0, 1)
    random: random.Random  # seeded by seed, rank and step: a resumed run draws the same numbers
    # (prompts, begun, limit, **settings of methods.modeling.rollouts.rollout) -> completions; `begun` holds their first
    # tokens, `limit` is how many they may have in all, where the trainer's own limit is higher
    generate: Callable[..., list[list[int]]]
    validation_loss: Callable[[], float]  # mean -log q(label) over the trainer's eval_dataset, nats per token
    # (examples, greedy=False) -> one for each; the teacher's tokens are drawn, or its most probable ones
    compare: Callable[..., list[Comparison]] = lambda *a, **k: []
    # examples by group -> exp of the mean -log q(label) of student and first teacher, by group, over all ranks
    perplexities: Callable[[Mapping[str, Sequence[Example]]], Perplexities] = lambda groups: ({}, {})
    seed: int = 0  # of the training, the same on all ranks
    rank: int = 0
    ranks: int = 1
    # (prompts, rule=..., **settings of methods.modeling.interleaved.interleaved) -> completions
    interleave: Callable[..., list[list[int]]] = lambda *a, **k: []
    # examples -> how unsure the student is of their completions' tokens: mean entropy, nats, over all ranks
    entropy: Callable[[Sequence[Example]], float] = lambda examples: 0.0


class Sampler(Protocol):
    """Turns the examples of a window into those to learn from; k examples for each given one, side by side.

    One with `own_loop` true writes token by token by a rule or with the teacher, which an inference engine cannot do.
    """

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]: ...


def student_examples(window: Sequence[Example], step: Step, **settings: Any) -> list[Example]:
    """The student's own completions of the window's prompts."""
    if not window:
        return []
    return with_completions(window, step.generate([e.prompt for e in window], **settings), "student")


def with_completions(
    window: Sequence[Example], completions: Sequence[list[int]], source: str
) -> list[Example]:
    """The window's prompts with other completions."""
    return [replace(e, completion=c, source=source) for e, c in zip(window, completions, strict=True)]
