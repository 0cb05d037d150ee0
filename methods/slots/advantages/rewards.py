"""Advantages of whole completions, from their rewards within the group of one prompt's completions."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.registry import component
from methods.slots.advantages.signals import DIVERGENCE, Advantage, Condition, Signals
from methods.slots.term import Weight, weight_at

BASELINES = ("none", "mean", "mean-std", "leave-one-out")
SMALL = 1e-4  # added to a standard deviation, as TRL's GRPO trainer does


def against_group(signals: Signals, rewards: Tensor, baseline: str, counted: Tensor | None = None) -> Tensor:
    """Rewards (B,) less their group's baseline, over all ranks; 0 where one is NaN or its group has no other.

    n rewards of a group count: "mean" subtracts their mean, "leave-one-out" the mean of the n - 1 others, "mean-std"
    divides by their standard deviation (n - 1 in its denominator) + 1e-4 too. "none" leaves them as they are.
    `counted` (B,): whose rewards make the baseline, all if None. Those of others are set against it too; where the
    counted ones of a group are equal their standard deviation is taken as 1.
    """
    if baseline == "none":
        return rewards.nan_to_num(nan=0.0)
    group = signals.groups()
    everyones, values = signals.everyone(group), signals.everyone(rewards)
    numbers, place = everyones.unique(return_inverse=True)
    scored = ~values.isnan()
    if counted is not None:
        scored = scored & signals.everyone(counted)
    known = values.nan_to_num(nan=0.0) * scored
    count = known.new_zeros(len(numbers)).index_add_(0, place, scored.to(known.dtype))
    mean = known.new_zeros(len(numbers)).index_add_(0, place, known) / count.clamp_min(1)
    own = torch.searchsorted(numbers, group)
    gap = rewards - mean[own]
    if baseline == "leave-one-out":
        others = (count / (count - 1).clamp_min(1))[own]
        gap = gap * (others if counted is None else torch.where(counted, others, torch.ones_like(others)))
    elif baseline == "mean-std":
        squares = ((known - mean[place]) * scored).square()
        variance = known.new_zeros(len(numbers)).index_add_(0, place, squares) / (count - 1).clamp_min(1)
        scale = variance.sqrt() + SMALL
        if counted is not None:
            scale = scale.masked_fill(variance == 0, 1.0)
        gap = gap / scale[own]
    return gap.nan_to_num(nan=0.0)


def check_baseline(baseline: str) -> None:
    """Raises MethodError for a baseline that there is not."""
    if baseline not in BASELINES:
        raise MethodError(f"no baseline {baseline!r}; one of {', '.join(BASELINES)}")


@component("advantage", "group-reward")
class GroupReward(Advantage):
    """The completion's reward against those of its prompt's other completions, the same at each of its tokens.

    `reward` is the number of one, all are added where it is null. `baseline` is "none", "mean" (Dr.GRPO), "mean-std"
    (GRPO: the mean subtracted, divided by the standard deviation) or "leave-one-out" (RLOO, the unbiased one). `own`:
    the baseline is of the completions that the student wrote itself, where the data give some of a group's.
    Source: DeepSeekMath, arXiv 2402.03300, section 4.1 (GRPO); Dr.GRPO, arXiv 2503.20783; RLOO, arXiv 2402.14740; `own`
    as in the released code of LUFFY, arXiv 2504.14945.
    """

    def __init__(
        self,
        baseline: str = "mean-std",
        *,
        reward: int | None = None,
        own: bool = False,
        weight: Weight = 1.0,
    ):
        check_baseline(baseline)
        self.baseline, self.reward, self.own, self.weight = baseline, reward, own, weight

    def __call__(self, signals: Signals) -> Tensor:
        counted = signals.own() if self.own else None
        gap = against_group(signals, signals.reward(self.reward), self.baseline, counted)
        return weight_at(self.weight, signals.progress) * gap.unsqueeze(1).expand(signals.mask.shape)


@component("advantage", "reward-within-budget")
class WithinBudget(Advantage):
    """The reward while the completion's KL to the first teacher is within a limit, a penalty once it is not.

    The completion's KL is the sum over its tokens of KL(student || teacher), exact at each, in nats; beyond `limit` the
    reward is `penalty`. Then as "group-reward".
    Source: constrained on-policy distillation, arXiv 2509.22921, seen in part: the problem and its cumulative budget;
    that the penalty takes the reward's place for the whole completion is our reading.
    """

    asks = (DIVERGENCE,)

    def __init__(self, limit: float, *, penalty: float = -1.0, baseline: str = "mean-std"):
        check_baseline(baseline)
        self.limit, self.penalty, self.baseline = limit, penalty, baseline

    def __call__(self, signals: Signals) -> Tensor:
        assert signals.divergence is not None, "whoever makes signals gives what is asked for"
        rewards, spent = signals.reward(), (signals.divergence * signals.mask).sum(1)
        rewards = torch.where(spent > self.limit, torch.full_like(rewards, self.penalty), rewards)
        gap = against_group(signals, rewards, self.baseline)
        return gap.unsqueeze(1).expand(signals.mask.shape)


@component("advantage", "perplexity-weighted")
class PerplexityWeighted(Advantage):
    """An advantage times a weight of the completion, made of its perplexity, where a condition holds; 0 elsewhere.

    w_i = n PPL_i^power / sum over j of PPL_j^power: over the n completions of the prompt's group for which `where`
    holds at some of their tokens. PPL is the exponential of minus the mean log-probability of a completion's tokens, by
    `of`: the number of a teacher, "student" when it sampled, or "start". The mean weight is 1; power 0 gives 1 to each.
    Source: SCOPE, arXiv 2604.10688, sections on student- and teacher-guided weights (the formula of its README, times
    n as in its released code).
    """

    def __init__(
        self, advantage: Advantage, where: Condition, *, of: int | str = "student", power: float = 1.0
    ):
        self.advantage, self.where, self.of, self.power = advantage, where, of, power
        self.asks = (of,)

    def inside(self) -> tuple[Advantage | Condition, ...]:
        return self.advantage, self.where

    def __call__(self, signals: Signals) -> Tensor:
        mask, holds = signals.mask, self.where(signals)
        inside = (holds & (mask > 0)).any(1)
        mean = (signals.by(self.of) * mask).sum(1) / mask.sum(1).clamp_min(1)
        weights = shares_of_group(signals, -self.power * mean, inside)
        return (self.advantage(signals) * weights.unsqueeze(1)).masked_fill(~holds, 0.0)


def shares_of_group(signals: Signals, values: Tensor, inside: Tensor) -> Tensor:
    """The softmax (B,) of values within each group's completions that are `inside`, times their number; else 0."""
    group = signals.groups()
    everyones, known = signals.everyone(group), signals.everyone(values)
    counts = signals.everyone(inside)
    numbers, place = everyones.unique(return_inverse=True)
    # Less the largest of a group, so that no exponential overflows.
    most = known.new_full((len(numbers),), -torch.inf)
    most = most.scatter_reduce(0, place, known.masked_fill(~counts, -torch.inf), "amax")
    sizes = (known - most[place]).exp().masked_fill(~counts, 0.0)
    total = known.new_zeros(len(numbers)).index_add_(0, place, sizes)
    count = known.new_zeros(len(numbers)).index_add_(0, place, counts.to(known.dtype))
    own = torch.searchsorted(numbers, group)
    found = (values - most[own]).exp() * count[own] / total[own]
    return torch.where(inside, found, torch.zeros_like(found))
