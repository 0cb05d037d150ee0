"""Which tokens of sampled completions: for advantages that hold for some only, and for terms beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.advantages.rewards import against_group
from methods.slots.advantages.signals import ENTROPY, STUDENT, Advantage, Condition, Signals
from methods.slots.rows import Rows

SIGNS = ("positive", "non-positive", "negative")


@component("condition", "sign")
class Sign(Condition):
    """Where an advantage is "positive", "non-positive" or "negative".

    Source: AOPD, arXiv 2605.06387 (policy gradient where the log-ratio is positive, a divergence where it is not).
    """

    def __init__(self, advantage: Advantage, *, sign: str = "positive"):
        if sign not in SIGNS:
            raise MethodError(f"no sign {sign!r}; one of {', '.join(SIGNS)}")
        self.advantage, self.sign = advantage, sign

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        given = self.advantage(signals)
        return (
            given > 0 if self.sign == "positive" else given <= 0 if self.sign == "non-positive" else given < 0
        )


@component("condition", "lowest-probability")
class LowestProbability(Condition):
    """The share of the generation batch's tokens that the student gave the least probability.

    Source: OPSA, arXiv 2608.31046 (the lowest 20 %).
    """

    asks = (STUDENT,)

    def __init__(self, share: float = 0.2):
        check_fraction("share", share)
        self.share = share

    def __call__(self, signals: Signals) -> Tensor:
        log_probs = signals.by(STUDENT)
        return log_probs <= signals.quantile(log_probs, self.share)


@component("condition", "highest-entropy")
class HighestEntropy(Condition):
    """The share of the generation batch's tokens at which the student was most unsure.

    Source: REOPOLD, arXiv 2603.11137 (tokens of high entropy); "Beyond the 80/20 Rule", arXiv 2506.01939 (20 %).
    """

    asks = (ENTROPY,)

    def __init__(self, share: float = 0.2):
        check_fraction("share", share)
        self.share = share

    def __call__(self, signals: Signals) -> Tensor:
        assert signals.entropy is not None, "whoever makes signals gives what is asked for"
        return signals.entropy >= signals.quantile(signals.entropy, 1 - self.share)


@component("condition", "reward-below")
class RewardBelow(Condition):
    """All tokens of completions with a reward below `threshold`.

    Source: KDRL, arXiv 2506.02208, section 3.4 (response-level masking: distillation on wrong answers alone).
    """

    def __init__(self, threshold: float = 1.0, *, reward: int | None = None):
        self.threshold, self.reward = threshold, reward

    def __call__(self, signals: Signals) -> Tensor:
        return (signals.reward(self.reward) < self.threshold).unsqueeze(1).expand(signals.mask.shape)


@component("condition", "reward-from")
class RewardFrom(Condition):
    """All tokens of completions with a reward of `threshold` or more.

    Source: SCOPE, arXiv 2604.10688 (right completions go one way, wrong ones the other).
    """

    def __init__(self, threshold: float = 1.0, *, reward: int | None = None):
        self.threshold, self.reward = threshold, reward

    def __call__(self, signals: Signals) -> Tensor:
        return (signals.reward(self.reward) >= self.threshold).unsqueeze(1).expand(signals.mask.shape)


@component("condition", "another-right")
class AnotherRight(Condition):
    """All tokens of completions beside which another of the group reaches the reward `threshold`.

    Those are the ones whose teacher is shown a {sibling} in the trainer privileged-policy. `only_wrong`: of these the
    ones that do not reach it themselves.
    Source: SDPO, arXiv 2601.20802 (a completion without one is left out); SRPO, arXiv 2604.02288 (wrong ones alone).
    """

    def __init__(self, threshold: float = 1.0, *, reward: int | None = 0, only_wrong: bool = False):
        self.threshold, self.reward, self.only_wrong = threshold, reward, only_wrong

    def __call__(self, signals: Signals) -> Tensor:
        right, group = (signals.reward(self.reward) >= self.threshold).long(), signals.groups()
        everyones, values = signals.everyone(group), signals.everyone(right)
        numbers, place = everyones.unique(return_inverse=True)
        count = values.new_zeros(len(numbers)).index_add_(0, place, values)
        found = count[torch.searchsorted(numbers, group)] - right > 0
        if self.only_wrong:
            found = found & (right == 0)
        return found.unsqueeze(1).expand(signals.mask.shape)


@component("condition", "group-unsolved")
class GroupUnsolved(Condition):
    """All tokens of groups none of whose completions reaches the reward `threshold`.

    Source: KDRL, arXiv 2506.02208, section 3.4 (group-level masking).
    """

    def __init__(self, threshold: float = 1.0, *, reward: int | None = None):
        self.threshold, self.reward = threshold, reward

    def __call__(self, signals: Signals) -> Tensor:
        solved = (signals.reward(self.reward) >= self.threshold).float()
        # A right answer is above its group's mean or, where all are right, at it: then it is right itself.
        missed = against_group(signals, solved, "mean") == 0
        unsolved = missed & (solved == 0)
        return unsolved.unsqueeze(1).expand(signals.mask.shape)


@component("condition", "during")
class During(Condition):
    """All tokens while the training's progress is in [`begin`, `end`).

    Source: REOPOLD, arXiv 2603.11137 (an exploration stage before a refinement stage).
    """

    def __init__(self, begin: float = 0.0, end: float = 1.0):
        check_fraction("begin", begin)
        check_fraction("end", end)
        self.begin, self.end = begin, end

    def __call__(self, signals: Signals) -> Tensor:
        return (signals.mask * 0 + int(self.begin <= signals.progress < self.end)).bool()


@component("token-weights", "where")
class Where:
    """1 on the sampled tokens for which a condition held when they were sampled, 0 on the others.

    For terms of the trainer "policy-optimisation" alone.
    Source: AOPD, arXiv 2605.06387 (a divergence at the tokens that the teacher likes less than the student does).
    """

    def __init__(self, where: Condition):
        self.where = where
        self.key = ""  # of the micro-batch, which the trainer sets

    def __call__(self, rows: Rows) -> Tensor:
        if not self.key or self.key not in rows.batch:
            raise MethodError('the token weights "where" go with the trainer policy-optimisation')
        return rows.batch[self.key]


def wheres_of(part: Any) -> Iterator[Where]:
    """The conditions in a term's token weights, those that weights are made of among them."""
    weights = getattr(part, "token_weights", None)
    if isinstance(weights, Where):
        yield weights
    elif weights is not None:
        yield from wheres_of(weights)
