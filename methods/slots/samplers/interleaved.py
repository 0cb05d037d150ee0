"""Samplers whose answers student and teacher write together, token by token, and the student alone, less at random."""

from __future__ import annotations

from collections.abc import Sequence

from methods.errors import MethodError
from methods.losses.divergences import check_fraction, check_temperature
from methods.modeling.interleaved import Alone, HandingOver, Rule, Speculative, Switching
from methods.registry import component
from methods.slots.samplers.example import Example, Step, with_completions


class _ByRule:
    """New answers to every prompt of the window, written as a rule says; they count as the student's."""

    own_loop = True

    def __init__(self, rule: Rule, temperature: float, *, greedy: bool = False):
        check_temperature(temperature)
        self.rule, self.temperature, self.greedy = rule, temperature, greedy

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        if not window:
            return []
        settings = {"temperature": self.temperature, **({"greedy": True} if self.greedy else {})}
        completions = step.interleave([e.prompt for e in window], rule=self.rule, **settings)
        return with_completions(window, completions, "student")


@component("sampler", "speculative")
class SpeculativeSampler(_ByRule):
    """The student proposes each token, the teacher draws another one for what is not among its `top_k` likeliest.

    Both draw among the fewest tokens with the mass `top_p`.
    Source: SKD, arXiv 2410.11325 (`top_k` is K, from which it goes from supervised-like, 1, to on-policy, V); its
    released configuration has a temperature of 0.2 and a `top_p` of 0.5.
    """

    def __init__(self, top_k: int = 25, *, top_p: float = 1.0, temperature: float = 1.0):
        check_fraction("top_p", top_p)
        if top_k < 1:
            raise MethodError(f"top_k={top_k}: the teacher accepts one token at least")
        if top_p == 0:
            raise MethodError("a nucleus holds one token at least: top_p above 0")
        super().__init__(Speculative(top_k, top_p), temperature)


@component("sampler", "switching")
class SwitchingSampler(_ByRule):
    """The teacher writes where both models are further apart than a threshold, which falls along the answer.

    Token t is the teacher's where the Jensen-Shannon divergence exceeds threshold * exp(-decay t), at most ln 2 nats.
    Source: Switch-KD, arXiv 2410.19503 (`threshold` is tau_0, not given in what was read; `decay` lambda, 1/10).
    """

    def __init__(self, threshold: float = 0.5, *, decay: float = 0.1, temperature: float = 1.0):
        if threshold < 0 or decay < 0:
            raise MethodError("threshold and decay of a switch are zero or more")
        super().__init__(Switching(threshold, decay), temperature)


@component("sampler", "handing-over")
class HandingOverSampler(_ByRule):
    """The student begins, and the teacher writes the rest once both are unusually far apart.

    That is, where KL(teacher || student) is above `factor` times its mean over the row's tokens before, or over the
    last `recent` of them.
    Source: AdaSwitch, arXiv 2510.07842 (`factor` is K; neither is given in what was read).
    """

    def __init__(self, factor: float = 3.0, *, recent: int | None = None, temperature: float = 1.0):
        if factor <= 0 or (recent is not None and recent < 1):
            raise MethodError("the factor is above zero, and recent tokens are one or more")
        super().__init__(HandingOver(factor, recent), temperature)


@component("sampler", "nucleus")
class Nucleus(_ByRule):
    """The student's own answers, drawn among its likeliest tokens only, or `greedy`.

    Of the `top_k` likeliest tokens the fewest whose mass is `top_p`.
    Source: ImitKD, arXiv 2009.07253 (greedy, and top-5 sampling); Revisiting OPD, arXiv 2603.25562 (top-p 0.9).
    """

    def __init__(
        self, top_p: float = 1.0, *, top_k: int | None = None, greedy: bool = False, temperature: float = 1.0
    ):
        check_fraction("top_p", top_p)
        if top_p == 0 or (top_k is not None and top_k < 1):
            raise MethodError("a nucleus holds one token at least: top_p above 0, top_k 1 or more")
        super().__init__(Alone(top_k, top_p), temperature, greedy=greedy)
