"""Advantages of single tokens, from what several models think of them; p a teacher, q the student that sampled."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.advantages.signals import DIVERGENCE, ENTROPY, STUDENT, Advantage, Condition, Signals
from methods.slots.term import Weight, weight_at


@component("advantage", "log-ratio")
class LogRatio(Advantage):
    """log p(y_t) - log q(y_t) at each sampled token: the reverse KL as a dense reward.

    `over` and `under` say whose log-probabilities: the number of a teacher, "student", or "start", the student before
    this training. Over a teacher and under the start it is the reward that a teacher's own training has left in it.
    Alone, undiscounted, its expected gradient is that of -KL(q || p) at each prefix; within "return-to-go" (discount 1)
    that of the whole completion's -KL.
    Source: "On-Policy Distillation", Thinking Machines Lab, 2025; G-OPD, arXiv 2602.12125, for other references.
    """

    def __init__(self, over: int | str = 0, under: int | str = "student", *, weight: Weight = 1.0):
        if over == under:
            raise MethodError(f"a log-ratio of {over!r} and itself is zero")
        self.over, self.under, self.weight = over, under, weight
        self.asks = over, under

    def __call__(self, signals: Signals) -> Tensor:
        ratio = signals.by(self.over) - signals.by(self.under)
        return weight_at(self.weight, signals.progress) * ratio


@component("advantage", "centred-log-ratio")
class CentredLogRatio(Advantage):
    """The first teacher's log-ratio less its mean over all that the student could have said there, -KL(q || p).

    log p(y_t) - log q(y_t) + KL(q || p), the KL exact over the vocabulary. The expected gradient is the log-ratio's
    own; its variance is another.
    Source: vOPD, arXiv 2605.07865, known through list notes (its control variate); centring under the student is part
    of on-policy delta distillation too, arXiv 2607.15161.
    """

    asks = 0, STUDENT, DIVERGENCE

    def __init__(self, *, weight: Weight = 1.0):
        self.weight = weight

    def __call__(self, signals: Signals) -> Tensor:
        assert signals.divergence is not None, "whoever makes signals gives what is asked for"
        ratio = signals.by(0) - signals.by(STUDENT) + signals.divergence
        return weight_at(self.weight, signals.progress) * ratio


@component("advantage", "entropy-scaled")
class EntropyScaled(Advantage):
    """From `least` at the student's smallest token entropy to `most` at its largest, linear in between.

    Smallest and largest are those of the generation batch, among the tokens `where` a condition holds (null: all); off
    them the figure says nothing. Where they are one, it is `most`. No teacher, no reward: with both ends below zero
    what the student samples is made less likely, most where it was unsure.
    Source: OPSA, arXiv 2608.31046, through reading notes (-1/2 - (H - min H) / (2 (max H - min H))); extremes among the
    chosen tokens, and `most` where all are equal, as in the README of its code and its opsa.py.
    """

    asks = (ENTROPY,)

    def __init__(self, least: float = -0.5, most: float = -1.0, *, where: Condition | None = None):
        self.least, self.most, self.where = least, most, where

    def inside(self) -> tuple[Condition, ...]:
        return () if self.where is None else (self.where,)

    def __call__(self, signals: Signals) -> Tensor:
        assert signals.entropy is not None, "whoever makes signals gives what is asked for"
        among = signals.mask.bool() if self.where is None else signals.mask.bool() & self.where(signals)
        low, high = signals.spread(signals.entropy, among)
        size = torch.finfo(high.dtype).tiny
        rank = torch.where(high > low, (signals.entropy - low) / (high - low).clamp_min(size), 1.0)
        return self.least + (self.most - self.least) * rank


@component("advantage", "scaled-by-ratio")
class ScaledByRatio(Advantage):
    """An advantage A whose size follows a teacher: A (1 - mix + mix clip((p/q)^sign(A), 1 - band, 1 + band)).

    The sign stays A's own: the direction is the verifier's, the size the teacher's.
    Source: RLSD, arXiv 2604.03128, through reading notes (lambda = `mix`, eps_w = `band`, p the student that sees the
    answer).
    """

    def __init__(self, advantage: Advantage, *, over: int | str = 0, mix: float = 0.5, band: float = 0.2):
        check_fraction("mix", mix)
        check_fraction("band", band)
        self.advantage, self.over, self.mix, self.band = advantage, over, mix, band
        self.asks = over, STUDENT

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        given = self.advantage(signals)
        ratio = (given.sign() * (signals.by(self.over) - signals.by(STUDENT))).exp()
        return given * (1 - self.mix + self.mix * ratio.clamp(1 - self.band, 1 + self.band))


@component("advantage", "step-weighted")
class StepWeighted(Advantage):
    """An advantage times min((d_1 + e) / (d_k + e), 1 + rise) in turn k, d_k the mean |log p - log q| over its tokens.

    Turns in which the student is far from the teacher weigh less; e is 1e-6.
    Source: SOD, arXiv 2605.07725, and its code (delta = `rise`, .2 in its scripts), where the weight is written as a
    product of ratios of neighbouring turns, which telescopes to this.
    """

    def __init__(self, advantage: Advantage, *, over: int | str = 0, rise: float = 0.2):
        self.advantage, self.over, self.rise = advantage, over, rise
        self.asks = over, STUDENT

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        gap = (signals.by(self.over) - signals.by(STUDENT)).abs() * signals.mask
        turn, mask = signals.turns().long(), signals.mask.to(gap.dtype)
        count = int(turn.max()) + 1 if turn.numel() else 1
        sums, tokens = (
            gap.new_zeros(len(gap), count).scatter_add_(1, turn, values) for values in (gap, mask)
        )
        mean = sums / tokens.clamp_min(1)
        first = (
            (tokens > 0).int().argmax(1, keepdim=True)
        )  # the first turn in which the student wrote anything
        weights = ((mean.gather(1, first) + 1e-6) / (mean + 1e-6)).clamp_max(1 + self.rise)
        return self.advantage(signals) * weights.gather(1, turn)


@component("advantage", "prefix-weighted")
class PrefixWeighted(Advantage):
    """An advantage times min(most, product of p/q over the tokens before): less after what a teacher would not say.

    Source: IW-OPD, arXiv 2606.22600, known through reading notes (a clipped importance ratio of the prefix); this form
    is our reading.
    """

    def __init__(self, advantage: Advantage, *, over: int | str = 0, most: float = 1.0):
        self.advantage, self.over, self.most = advantage, over, most
        self.asks = over, STUDENT

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        ratio = (signals.by(self.over) - signals.by(STUDENT)) * signals.mask
        before = ratio.cumsum(1) - ratio
        return self.advantage(signals) * before.exp().clamp_max(self.most)
