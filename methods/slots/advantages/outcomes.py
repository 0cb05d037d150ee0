"""Advantages in which the reward of a completion and what somebody thinks of it meet before they are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.registry import component
from methods.slots.advantages.rewards import against_group, check_baseline
from methods.slots.advantages.signals import STUDENT, Advantage, Signals
from methods.slots.term import Weight, weight_at

BETWEEN = ("means", "extremes")
MOVES = ("both", "right", "wrong")


@component("advantage", "margin-shifted")
class MarginShifted(Advantage):
    """An advantage, shifted so that a group's right completions score `margin` above its wrong ones.

    A completion's score is the mean of the advantage over its tokens, right is a reward of `threshold` or more. The gap
    is that of the scores' means ("means"), or from the lowest right one to the highest wrong one ("extremes"); where it
    is below `margin` the difference is added to every token of the right ones, taken from the wrong ones', or half of
    it each (`moves` right, wrong, both). A group without both sides stays as it is, so does a completion without a
    reward.
    Source: Uni-OPD, arXiv 2605.03677, outcome-guided margin calibration: its released code (margin_shift.py, groups,
    means, both, 0.4 in the scripts); "extremes" is its other mode, and as the text tells it: each right one first.
    """

    def __init__(
        self,
        advantage: Advantage,
        *,
        margin: float = 0.4,
        between: str = "means",
        moves: str = "both",
        threshold: float = 1.0,
        reward: int | None = None,
    ):
        for name, value, known in (("between", between, BETWEEN), ("moves", moves, MOVES)):
            if value not in known:
                raise MethodError(f'margin-shifted: "{name}" is one of {", ".join(known)}, not {value!r}')
        self.advantage, self.margin, self.between, self.moves = advantage, margin, between, moves
        self.threshold, self.reward = threshold, reward

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        given, rewards = self.advantage(signals), signals.reward(self.reward)
        mask = signals.mask.to(given.dtype)
        scores = (given * mask).sum(1) / mask.sum(1).clamp_min(1)
        right, wrong = rewards >= self.threshold, rewards < self.threshold  # neither where it is NaN
        group = signals.groups()
        numbers, place = signals.everyone(group).unique(return_inverse=True)
        figures = signals.everyone(scores)
        counts, stats = [], []
        for side, extreme in ((signals.everyone(right), "amin"), (signals.everyone(wrong), "amax")):
            none = figures.new_zeros(len(numbers))
            counts.append(none.index_add(0, place[side], torch.ones_like(figures[side])))
            if self.between == "means":
                stats.append(none.index_add(0, place[side], figures[side]) / counts[-1].clamp_min(1))
            else:
                stats.append(none.scatter_reduce(0, place[side], figures[side], extreme, include_self=False))
        lacking = (self.margin - (stats[0] - stats[1])).clamp_min(0)
        lacking = torch.where((counts[0] > 0) & (counts[1] > 0), lacking, torch.zeros_like(lacking))
        shift = lacking[torch.searchsorted(numbers, group)]
        up, down = {"both": (0.5, 0.5), "right": (1.0, 0.0), "wrong": (0.0, 1.0)}[self.moves]
        return given + (shift * (up * right.to(shift.dtype) - down * wrong.to(shift.dtype))).unsqueeze(1)


@component("advantage", "reward-and-log-ratio")
class RewardAndLogRatio(Advantage):
    """The reward of a completion plus `weight` times its log-ratio, log p(y) - log q(y), against the group's.

    p is `over`, the number of a teacher or "start", q the student when it sampled; the log-ratio is the sum over the
    completion's tokens, or their mean (`per_token`). Then as "group-reward": one figure for all tokens of a completion.
    The log-ratio is part of the reward: it goes through the baseline with it, and through the standard deviation.
    Source: CoDistill-GRPO, arXiv 2605.08873, the small model's reward, known through the abstract and list notes
    (accuracy + alpha log(p_large / p_small)); whether over tokens it is a sum or a mean was not seen.
    """

    def __init__(
        self,
        over: int | str = 0,
        *,
        weight: Weight = 0.1,
        per_token: bool = False,
        baseline: str = "mean-std",
        reward: int | None = None,
    ):
        check_baseline(baseline)
        if over == STUDENT:
            raise MethodError("reward-and-log-ratio: a log-ratio of the student and itself is zero")
        self.over, self.weight, self.per_token = over, weight, per_token
        self.baseline, self.reward = baseline, reward
        self.asks = over, STUDENT

    def __call__(self, signals: Signals) -> Tensor:
        mask = signals.mask
        ratio = ((signals.by(self.over) - signals.by(STUDENT)) * mask).sum(1)
        if self.per_token:
            ratio = ratio / mask.sum(1).clamp_min(1)
        rewards = signals.reward(self.reward) + weight_at(self.weight, signals.progress) * ratio
        gap = against_group(signals, rewards, self.baseline)
        return gap.unsqueeze(1).expand(mask.shape)
