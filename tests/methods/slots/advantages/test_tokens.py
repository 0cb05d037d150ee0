"""Advantages of tokens against loops, closed forms and the identities of their papers, in float64."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.slots.advantages import (
    ByColumn,
    Clipped,
    Constant,
    During,
    EntropyScaled,
    GroupReward,
    HighestEntropy,
    LogRatio,
    LowestProbability,
    Only,
    Powered,
    PrefixWeighted,
    ReturnToGo,
    ScaledByRatio,
    Sign,
    StepWeighted,
    Sum,
    asked_of,
)
from tests.methods.slots.advantages.worlds import MASK, signals

INSIDE = MASK.bool()


def same(got, expected):
    torch.testing.assert_close(got[INSIDE], expected[INSIDE], rtol=1e-12, atol=1e-12)


def test_a_log_ratio_is_between_whoever_is_named():
    given = signals()
    same(LogRatio()(given), given.log_probs[0] - given.log_probs["student"])
    same(LogRatio(1, "start", weight=0.25)(given), 0.25 * (given.log_probs[1] - given.log_probs["start"]))
    assert asked_of(LogRatio(1, "start")) == {1, "start"}
    with pytest.raises(MethodError, match="is zero"):
        LogRatio("start", "start")
    with pytest.raises(MethodError, match="no log-probabilities by 3"):
        LogRatio(3)(given)


def test_a_weight_may_follow_the_training():
    half = signals(progress=0.5)
    same(LogRatio(weight=lambda progress: 1 - progress)(half), 0.5 * LogRatio()(half))


def test_extrapolation_beyond_the_teacher_is_a_sum():
    """G-OPD: lambda (log p - log b) - (log q - log b) = log p - log q + (lambda - 1) (log p - log b)."""
    given, scale = signals(), 1.25
    p, q, b = (given.log_probs[who] for who in (0, "student", "start"))
    got = Sum([LogRatio(), LogRatio(0, "start", weight=scale - 1)])(given)
    same(got, scale * (p - b) - (q - b))


def test_the_return_is_the_discounted_sum_of_what_follows():
    given = signals()
    ratio = LogRatio()(given) * MASK
    for discount in (1.0, 0.5, 0.0):
        expected = torch.zeros_like(ratio)
        for i in range(3):
            for t in range(4):
                expected[i, t] = sum(discount ** (k - t) * ratio[i, k] for k in range(t, 4))
        same(ReturnToGo(LogRatio(), discount=discount)(given), expected)
    later = ReturnToGo(LogRatio(), include_present=False, normalize=True)(given)
    assert later[1, 1] == 0 and math.isclose(later[0, 1], float(ratio[0, 2:].mean()))


def test_power_zero_is_the_log_ratio_and_one_the_ratio_itself():
    given = signals()
    same(Powered(LogRatio(), power=0.0)(given), LogRatio()(given))
    same(Powered(LogRatio(), power=1.0)(given), LogRatio()(given).exp() - 1)
    near = Powered(LogRatio(), power=1e-6)(given)
    torch.testing.assert_close(near[INSIDE], LogRatio()(given)[INSIDE], rtol=1e-5, atol=1e-5)


def test_conditions_keep_what_they_name():
    given, ratio = signals(), LogRatio()(signals())
    positive = Only(LogRatio(), Sign(LogRatio()))(given)
    rest = Only(LogRatio(), Sign(LogRatio(), sign="non-positive"))(given)
    same(positive, ratio.clamp_min(0))
    same(positive + rest, ratio)
    same(Clipped(LogRatio(), low=-0.5)(given), ratio.clamp_min(-0.5))
    assert not Only(LogRatio(), During(0.5))(given).any()
    same(Only(LogRatio(), During(0.0, 0.5))(given), ratio)


def test_shares_count_the_student_s_own_tokens_alone():
    log_probs = torch.tensor([[-9.0, -1.0, -2.0, -3.0], [-4.0, -5.0, 0.0, 0.0], [-6.0, -7.0, -8.0, 0.0]])
    given = signals(log_probs={"student": log_probs.double()}, entropy=-log_probs.double())
    lowest = LowestProbability(0.25)(given) & INSIDE
    assert sorted(log_probs[lowest].tolist()) == [-9.0, -8.0, -7.0]
    assert torch.equal(HighestEntropy(0.25)(given) & INSIDE, lowest)


def test_entropy_scales_a_negative_advantage():
    given = signals()
    got, entropy = EntropyScaled()(given), given.entropy
    low, high = entropy[INSIDE].min(), entropy[INSIDE].max()
    same(got, -0.5 - (entropy - low) / (2 * (high - low)))
    assert got[INSIDE].min() == -1 and got[INSIDE].max() == -0.5


def test_the_ends_may_be_those_of_the_chosen_tokens():
    """OPSA: entropies of the chosen tokens are brought to [0, 1] among themselves; equal ones are all the most."""
    given, lowest = signals(), LowestProbability(0.5)
    chosen = lowest(given) & INSIDE
    got, entropy = EntropyScaled(where=lowest)(given), given.entropy
    low, high = entropy[chosen].min(), entropy[chosen].max()
    torch.testing.assert_close(
        got[chosen], (-0.5 - (entropy - low) / (2 * (high - low)))[chosen], rtol=1e-12, atol=1e-12
    )
    assert got[chosen].min() == -1 and got[chosen].max() == -0.5 and chosen.sum() < INSIDE.sum()
    assert asked_of(EntropyScaled(where=lowest)) == {"entropy", "student"}
    even = signals(entropy=torch.full((3, 4), 0.7, dtype=torch.float64))
    assert (EntropyScaled()(even)[INSIDE] == -1).all()


def test_a_mean_over_all_tokens_may_be_one_over_the_kept_ones():
    given, lowest = signals(), LowestProbability(0.4)
    chosen = lowest(given) & INSIDE
    got = Only(LogRatio(), lowest, over="kept")(given) * MASK
    for row in range(3):
        kept = LogRatio()(given)[row][chosen[row]]
        expected = float(kept.mean()) if len(kept) else 0.0
        assert float(got[row].sum() / MASK[row].sum()) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(MethodError, match='"over" is tokens or kept, not "all"'):
        Only(LogRatio(), lowest, over="all")


def test_the_size_follows_the_teacher_and_the_sign_does_not():
    given = signals()
    base = GroupReward("mean")(given)
    ratio = (given.log_probs[0] - given.log_probs["student"]).exp()
    got = ScaledByRatio(GroupReward("mean"), mix=0.7, band=0.3)(given)
    factor = torch.where(base > 0, ratio, 1 / ratio).clamp(0.7, 1.3)
    same(got, base * (0.3 + 0.7 * factor))
    assert torch.equal(got.sign()[INSIDE], base.sign().to(got.dtype)[INSIDE])
    same(ScaledByRatio(GroupReward("mean"), mix=0.0)(given), base.to(got.dtype))


def test_step_weights_are_the_product_of_ratios_of_neighbouring_steps():
    """SOD writes w_k = prod d_(j-1) / d_j, which telescopes."""
    turn = torch.tensor([[0, 0, 1, 2], [0, 1, 1, 1], [0, 0, 1, 1]])
    given = signals(turn=turn)
    gap, small = (given.log_probs[0] - given.log_probs["student"]).abs(), 1e-6
    expected = torch.zeros(3, 4, dtype=torch.float64)
    for i in range(3):
        means, weight = [], 1.0
        for k in range(3):
            there = INSIDE[i] & (turn[i] == k)
            if not there.any():
                continue
            means.append(float(gap[i][there].mean()))
            if len(means) > 1:
                weight *= (means[-2] + small) / (means[-1] + small)
            expected[i][there] = min(weight, 1.2)
    same(StepWeighted(Constant(1.0))(given), expected)


def test_a_prefix_unlike_the_teacher_s_weighs_less():
    given = signals()
    ratio = given.log_probs[0] - given.log_probs["student"]
    expected = torch.ones(3, 4, dtype=torch.float64)
    for i in range(3):
        for t in range(1, 4):
            expected[i, t] = min(0.8, math.exp(float(ratio[i, :t].sum())))
    expected[:, 0] = 0.8
    same(PrefixWeighted(Constant(1.0), most=0.8)(given), expected)


def test_each_domain_has_its_own_teacher():
    given = signals()
    got = ByColumn(["maths", "code"], [LogRatio(0), LogRatio(1)])(given)
    first, second = LogRatio(0)(given), LogRatio(1)(given)
    same(got, torch.stack([first[0], second[1], first[2]]))
    with pytest.raises(MethodError, match='no column "skill"; they have domain'):
        ByColumn(["maths"], [LogRatio()], column="skill")(given)
    with pytest.raises(MethodError, match="2 values and 1 parts"):
        ByColumn(["maths", "code"], [LogRatio()])


def test_distillation_on_wrong_answers_alone_is_a_sum_of_parts():
    """KDRL's response mask: the group's advantage everywhere, the teacher's where the reward is below 1."""
    from methods.slots.advantages import RewardBelow

    given = signals()
    got = Sum([GroupReward("mean"), Only(LogRatio(weight=0.1), RewardBelow())])(given)
    wrong = (given.rewards < 1).double()
    same(got, GroupReward("mean")(given) + 0.1 * LogRatio()(given) * wrong)
