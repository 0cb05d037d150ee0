"""A sampler on another one: what the student wrote, corrected at its worst token and written anew from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from methods.errors import MethodError
from methods.registry import component
from methods.slots.samplers.example import Comparison, Example, Sampler, Step


@component("sampler", "corrected")
class Corrected:
    """Another sampler's student answers, each corrected at its worst token and answered anew from there.

    The worst token is the one of the highest KL(teacher || student) among those where the teacher, given the student's
    tokens before it, says something else (`greedy`: its likeliest token, else one drawn); the teacher's token takes its
    place. An answer on which both agree everywhere stays. Answers of other sources stay. Raises MethodError for a
    sampler that keeps what it sampled.
    Source: SCRG, arXiv 2407.10068, eq. 3-5; the direction of the KL and what happens without a disagreement are our
    reading.
    """

    def __init__(self, sampler: Sampler, *, temperature: float = 1.0, greedy: bool = False):
        if hasattr(sampler, "state"):
            raise MethodError(f"{type(sampler).__name__} keeps its samples, so they cannot be corrected here")
        self.sampler, self.temperature, self.greedy = sampler, temperature, greedy

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        examples = list(self.sampler(window, step))
        places = [n for n, example in enumerate(examples) if example.source == "student"]
        if not places:
            return examples
        written = [examples[n] for n in places]
        begun = [
            beginning(example.completion, found)
            for example, found in zip(written, step.compare(written, greedy=self.greedy), strict=True)
        ]
        prompts = [example.prompt for example in written]
        completions = step.generate(prompts, begun=begun, temperature=self.temperature)
        for n, completion in zip(places, completions, strict=True):
            examples[n] = replace(examples[n], completion=completion)
        return examples


def beginning(completion: list[int], found: Comparison) -> list[int]:
    """The completion up to its worst token, that one the teacher's; all of it where the teacher agrees."""
    wrong = [n for n, token in enumerate(completion) if token != found.teacher_tokens[n]]
    if not wrong:
        return completion
    worst = max(wrong, key=lambda n: found.divergence[n])
    return [*completion[:worst], found.teacher_tokens[worst]]
