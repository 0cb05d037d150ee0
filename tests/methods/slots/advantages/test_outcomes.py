"""Rewards and log-ratios that meet before they are compared: against plain loops over every pattern, in float64."""

import itertools
import math
import statistics

import pytest
import torch

from methods.errors import MethodError
from methods.slots.advantages import GroupReward, LogRatio, MarginShifted, RewardAndLogRatio, Signals
from methods.slots.advantages import outcomes as module

MASK = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]])
GROUP = torch.tensor([4, 4, 4, 1, 1])


def worlds():
    """Five completions of two groups, with every pattern of right, wrong and unknown ones, of 243."""
    for place, rewards in enumerate(itertools.product((1.0, 0.0, math.nan), repeat=5)):
        torch.manual_seed(place)
        said = {who: -torch.rand(5, 3, dtype=torch.float64) * 2 * MASK for who in ("student", 0)}
        made = torch.tensor(rewards, dtype=torch.float64).unsqueeze(1)
        yield Signals(mask=MASK, log_probs=said, rewards=made, group=GROUP)


def ratios_of(world):
    """Each completion's log-ratios, as lists."""
    gaps = (world.log_probs[0] - world.log_probs["student"]).tolist()
    return [row[: int(kept)] for row, kept in zip(gaps, MASK.sum(1), strict=True)]


# The margin.


def shifted_by_hand(world, margin, between, moves):
    rows, rewards = ratios_of(world), world.rewards[:, 0].tolist()
    scores, made = [statistics.fmean(row) for row in rows], []
    for row, own, reward in zip(rows, GROUP.tolist(), rewards, strict=True):
        sides = {
            side: [
                score for score, group, figure in zip(scores, GROUP.tolist(), rewards, strict=True)
                if group == own and figure == side
            ]
            for side in (1.0, 0.0)
        }  # fmt: skip
        shift = 0.0
        if sides[1.0] and sides[0.0]:
            low, high = (
                (statistics.fmean(sides[1.0]), statistics.fmean(sides[0.0]))
                if between == "means"
                else (min(sides[1.0]), max(sides[0.0]))
            )
            shift = max(0.0, margin - (low - high))
        share = {"both": 0.5, "right": float(reward == 1), "wrong": float(reward == 0)}[moves]
        sign = 0 if math.isnan(reward) else 1 if reward else -1
        made.append([value + sign * share * shift for value in row])
    return made


def margin_oracle(between, moves, margin=0.4):
    moved = 0
    for world in worlds():
        got = MarginShifted(LogRatio(), margin=margin, between=between, moves=moves)(world)
        for row, wanted, before in zip(
            got.tolist(), shifted_by_hand(world, margin, between, moves), ratios_of(world), strict=True
        ):
            assert row[: len(wanted)] == pytest.approx(wanted, abs=1e-12)
            moved += before != pytest.approx(wanted, abs=1e-12)
    assert moved > 100


@pytest.mark.parametrize("between", module.BETWEEN)
@pytest.mark.parametrize("moves", module.MOVES)
def test_the_shift_is_that_of_plain_loops(between, moves):
    margin_oracle(between, moves)


@pytest.mark.parametrize("moves", module.MOVES)
def test_every_right_one_outranks_every_wrong_one_by_the_margin(moves):
    """What "extremes" is for; the means do not promise it."""
    broken = {"means": 0, "extremes": 0}
    for between, world in itertools.product(broken, worlds()):
        shifted = MarginShifted(LogRatio(), margin=0.4, between=between, moves=moves)(world)
        scores = (shifted * MASK).sum(1) / MASK.sum(1)
        for a, b in itertools.permutations(range(5), 2):
            if GROUP[a] == GROUP[b] and world.rewards[a] == 1 and world.rewards[b] == 0:
                broken[between] += float(scores[a] - scores[b]) < 0.4 - 1e-9
    assert broken["extremes"] == 0 and broken["means"] > 20


def test_an_order_that_holds_stays_as_it_is():
    """The advantage itself, bit for bit, where the gap is there already or a side is missing."""
    for world in worlds():
        assert torch.equal(MarginShifted(LogRatio(), margin=-99.0)(world), LogRatio()(world))
    for figure in (0.0, 1.0, math.nan):
        world = next(worlds())
        same = Signals(mask=MASK, log_probs=world.log_probs, rewards=torch.full((5, 1), figure), group=GROUP)
        assert torch.equal(MarginShifted(LogRatio(), margin=9.0)(same), LogRatio()(same))


class ByTokens(MarginShifted):
    """A mutation: a sum over tokens for the mean."""

    def __call__(self, signals):
        right = self.advantage
        lengths = signals.mask.sum(1, keepdim=True)
        self.advantage = lambda given: right(given) * lengths
        made = super().__call__(signals)
        self.advantage = right
        return made - right(signals) * (lengths - 1)


class OverTheBatch(MarginShifted):
    """A mutation: one group for all."""

    def __call__(self, signals):
        one = Signals(
            mask=signals.mask, log_probs=signals.log_probs, rewards=signals.rewards, group=GROUP * 0
        )
        return super().__call__(one)


class Always(MarginShifted):
    """A mutation: a gap that is wide enough is made narrower."""

    def __call__(self, signals):
        clamped, torch.Tensor.clamp_min = torch.Tensor.clamp_min, lambda self, low: (
            self if low == 0 else clamped(self, low)
        )  # fmt: skip
        try:
            return super().__call__(signals)
        finally:
            torch.Tensor.clamp_min = clamped


@pytest.mark.parametrize("wrong", [ByTokens, OverTheBatch, Always])
def test_another_shift_is_caught(wrong, monkeypatch):
    monkeypatch.setattr("tests.methods.slots.advantages.test_outcomes.MarginShifted", wrong)
    with pytest.raises(AssertionError):
        margin_oracle("means", "both")


def test_two_ranks_see_the_group_as_one():
    """Each has a part of the group of three; what is gathered is the whole."""
    compared = 0
    for world in itertools.islice(worlds(), 0, 243, 7):
        whole, found = MarginShifted(LogRatio(), between="extremes")(world), []
        scores = (LogRatio()(world) * MASK).sum(1) / MASK.sum(1)
        for part in (slice(0, 2), slice(2, 5)):
            known = [GROUP, scores, world.rewards[:, 0] >= 1, world.rewards[:, 0] < 1]

            def everyone(local, known=known, part=part):
                return next(
                    full for full in known
                    if full.dtype == local.dtype and torch.equal(full[part], local)
                )  # fmt: skip

            here = Signals(
                mask=MASK[part],
                log_probs={who: said[part] for who, said in world.log_probs.items()},
                rewards=world.rewards[part],
                group=GROUP[part],
                everyone=everyone,
            )
            if torch.equal(here.rewards >= 1, here.rewards < 1):
                break  # the two cannot be told apart by their values
            found.append(MarginShifted(LogRatio(), between="extremes")(here))
        if len(found) == 2:
            torch.testing.assert_close(torch.cat(found), whole)
            compared += 1
    assert compared > 20


# The log-ratio within the reward.


def by_hand(world, weight, per_token, baseline):
    rows = ratios_of(world)
    figures = [
        reward + weight * (statistics.fmean(row) if per_token else math.fsum(row))
        for row, reward in zip(rows, world.rewards[:, 0].tolist(), strict=True)
    ]
    made = []
    for figure, own in zip(figures, GROUP.tolist(), strict=True):
        known = [
            other
            for other, group in zip(figures, GROUP.tolist(), strict=True)
            if group == own and not math.isnan(other)
        ]
        if math.isnan(figure):
            made.append(0.0)
            continue
        gap = figure - statistics.fmean(known)
        if baseline == "mean-std":
            gap /= (statistics.stdev(known) if len(known) > 1 else 0.0) + 1e-4
        made.append(gap)
    return made


def ratio_oracle(per_token, baseline):
    for world in worlds():
        got = RewardAndLogRatio(weight=0.3, per_token=per_token, baseline=baseline)(world)
        assert torch.equal(got, got[:, :1].expand(got.shape)), "one figure for all tokens"
        assert got[:, 0].tolist() == pytest.approx(by_hand(world, 0.3, per_token, baseline), abs=1e-9)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("baseline", ["mean", "mean-std"])
def test_the_log_ratio_goes_through_the_baseline_with_the_reward(per_token, baseline):
    ratio_oracle(per_token, baseline)


class Outside(RewardAndLogRatio):
    """A mutation: the log-ratio is added behind the baseline, as KDRL's advantage has it."""

    def __call__(self, signals):
        plain = GroupReward(self.baseline)(signals)
        ratio = ((signals.by(0) - signals.by("student")) * signals.mask).sum(1, keepdim=True)
        return plain + self.weight * ratio


class Reversed(RewardAndLogRatio):
    """A mutation: the student over the teacher."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.weight = -self.weight


@pytest.mark.parametrize("wrong", [Outside, Reversed])
def test_another_reward_is_caught(wrong, monkeypatch):
    monkeypatch.setattr("tests.methods.slots.advantages.test_outcomes.RewardAndLogRatio", wrong)
    with pytest.raises(AssertionError):
        ratio_oracle(False, "mean-std")


def test_a_weight_of_zero_is_grpo_bit_for_bit():
    for world in worlds():
        assert torch.equal(RewardAndLogRatio(weight=0.0)(world), GroupReward()(world))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MarginShifted(LogRatio(), between="mean"), '"between" is one of means, extremes, not'),
        (lambda: MarginShifted(LogRatio(), moves="up"), '"moves" is one of both, right, wrong, not'),
        (lambda: RewardAndLogRatio("student"), "of the student and itself"),
        (lambda: RewardAndLogRatio(baseline="median"), "no baseline"),
    ],
)
def test_what_there_is_not_is_refused(make, message):
    with pytest.raises(MethodError, match=message):
        make()
