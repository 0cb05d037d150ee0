"""Group baselines by enumeration: all groups of n answers of a bandit, each by its probability, in float64."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.slots.advantages import (
    Constant,
    GroupReward,
    GroupUnsolved,
    LogRatio,
    PerplexityWeighted,
    RewardBelow,
    RewardFrom,
    WithinBudget,
)
from methods.slots.advantages import rewards as module
from tests.methods.slots.advantages.worlds import MASK, every_group, signals

REWARDS = torch.tensor([1.0, 0.0, 0.3], dtype=torch.float64)
LOGITS = torch.tensor([0.2, 1.0, -0.5], dtype=torch.float64)


def expected_gradient(advantage, n: int) -> torch.Tensor:
    """Mean over a group of A grad log q on the logits, in expectation over every group."""
    answers, given = every_group(REWARDS, n)
    advantages = advantage(given).reshape(answers.shape)
    q = LOGITS.softmax(-1)
    slopes = torch.eye(len(q), dtype=q.dtype)[answers] - q  # of log q(answer) on the logits
    return torch.einsum("g,gn,gnk->k", q[answers].prod(1), advantages, slopes) / n


def true_gradient() -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    return torch.autograd.grad((logits.softmax(-1) * REWARDS).sum(), logits)[0]


@pytest.mark.parametrize("n", [2, 3, 4])
def test_no_baseline_and_leave_one_out_are_unbiased_and_the_mean_scales(n):
    true = true_gradient()
    for baseline, factor in (("none", 1.0), ("leave-one-out", 1.0), ("mean", (n - 1) / n)):
        torch.testing.assert_close(expected_gradient(GroupReward(baseline), n), factor * true)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_division_by_the_standard_deviation_is_biased(n):
    got, true = expected_gradient(GroupReward("mean-std"), n), true_gradient()
    alike = torch.nn.functional.cosine_similarity(got, true, 0)
    assert alike < 1 - 1e-4, "another direction, so that no learning rate makes up for it"


@pytest.mark.parametrize("mutation", ["wrong sign", "the other group's mean", "wrong factor"])
def test_mutations_of_leave_one_out_are_seen(monkeypatch, mutation):
    right = module.against_group

    def wrong(given, rewards, baseline, _=None):
        if mutation == "wrong sign":
            return -right(given, rewards, baseline)
        if mutation == "wrong factor":
            return right(given, rewards, "mean")
        return rewards - right(given, rewards, "none").flip(0)

    monkeypatch.setattr(module, "against_group", wrong)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(expected_gradient(GroupReward("leave-one-out"), 3), true_gradient())


def test_baselines_lower_the_variance():
    def second_moment(baseline):
        answers, given = every_group(REWARDS, 3)
        values = GroupReward(baseline)(given).reshape(answers.shape)
        q = LOGITS.softmax(-1)
        slopes = torch.eye(3, dtype=q.dtype)[answers] - q
        means = (values.unsqueeze(-1) * slopes).mean(1)
        return float((q[answers].prod(1) * means.square().sum(-1)).sum())

    assert second_moment("leave-one-out") < second_moment("none")


def test_a_reward_that_says_nothing_counts_nowhere():
    given = signals(rewards=torch.tensor([[1.0], [torch.nan], [0.0]]))
    assert GroupReward("mean")(given)[:, 0].tolist() == [0.5, 0.0, -0.5]
    assert GroupReward("leave-one-out")(given)[:, 0].tolist() == [1.0, 0.0, -1.0]
    alone = signals(group=torch.tensor([0, 1, 2]))
    for baseline in ("mean", "mean-std", "leave-one-out"):
        assert not GroupReward(baseline)(alone).any()


def test_a_baseline_of_the_student_s_own_answers():
    """Two groups by hand, the third answer of each the data's: own answers 1 and 0, and two that are wrong alike."""
    given = torch.tensor([False, False, True] * 2)
    shape = {"mask": torch.ones(6, 2).long(), "group": torch.tensor([0, 0, 0, 1, 1, 1])}
    world = signals(rewards=torch.tensor([[1.0], [0.0], [1.0], [0.0], [0.0], [1.0]]), given=given, **shape)

    def of(baseline, own=True):
        return GroupReward(baseline, own=own)(world)[:, 1]

    torch.testing.assert_close(of("mean"), torch.tensor([0.5, -0.5, 0.5, 0.0, 0.0, 1.0]))
    torch.testing.assert_close(of("leave-one-out"), torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 1.0]))
    spread = 0.5**0.5 + 1e-4
    wanted = torch.tensor([0.5 / spread, -0.5 / spread, 0.5 / spread, 0.0, 0.0, 1.0])
    torch.testing.assert_close(of("mean-std"), wanted, msg="equal answers have no scale: it is 1, not 1e-4")
    torch.testing.assert_close(of("mean", own=False), torch.tensor([1, -2, 1, -1, -1, 2]) / 3)
    everybody_s = signals(rewards=world.rewards, **shape)
    for baseline in module.BASELINES:
        mine = GroupReward(baseline, own=True)(everybody_s)
        torch.testing.assert_close(
            mine, GroupReward(baseline)(everybody_s), msg="where nothing is given, the same"
        )


def test_several_rewards_are_added_or_taken_by_number():
    given = signals(rewards=torch.tensor([[1.0, 0.25], [0.0, 0.5], [0.0, torch.nan]]))
    assert GroupReward("none")(given)[:, 0].tolist() == [1.25, 0.5, 0.0]
    assert GroupReward("none", reward=1)(given)[:, 0].tolist() == [0.25, 0.5, 0.0]
    with pytest.raises(MethodError, match="no reward number 2: there are 2"):
        GroupReward("none", reward=2)(given)
    with pytest.raises(MethodError, match="has no rewards"):
        GroupReward()(signals(rewards=None))


def test_groups_are_those_of_all_ranks():
    """Two ranks with half of each group: together they see what one rank sees."""
    rewards, group = torch.tensor([1.0, 0.0, 0.5, 0.2]), torch.tensor([7, 7, 9, 9])
    whole = signals(mask=torch.ones(4, 2).long(), rewards=rewards[:, None], group=group)
    expected = GroupReward()(whole)
    gathered = {torch.float32: rewards, torch.int64: group}
    for rank in (slice(0, 2), slice(1, 3)):
        part = signals(
            mask=torch.ones(2, 2).long(), rewards=rewards[rank, None], group=group[rank],
            everyone=lambda local: gathered[local.dtype],
        )  # fmt: skip
        torch.testing.assert_close(GroupReward()(part), expected[rank])


def test_beyond_the_budget_the_penalty_takes_the_reward_s_place():
    given = signals(rewards=torch.tensor([[1.0], [1.0], [0.0]]))
    spent = (given.divergence * MASK).sum(1)
    limit = float(spent.sort().values[1])  # one completion is beyond it
    beyond = spent > limit
    assert beyond.sum() == 1
    rewards = torch.where(beyond, -2.0, given.rewards[:, 0])
    got = WithinBudget(limit, penalty=-2.0, baseline="mean")(given)[:, 0]
    torch.testing.assert_close(got, rewards - rewards.mean())
    torch.testing.assert_close(WithinBudget(99.0, baseline="mean")(given), GroupReward("mean")(given))


def by_hand(given, of, power, inside):
    """n PPL_i^power / sum of the group's PPL_j^power, in Python's own floats; 0 for those that are not inside."""
    perplexity = []
    for said, mask in zip(given.by(of).tolist(), given.mask.tolist(), strict=True):
        own = [value for value, kept in zip(said, mask, strict=True) if kept]
        perplexity.append(math.exp(-sum(own) / len(own)))
    groups, found = given.groups().tolist(), []
    for row, group in enumerate(groups):
        among = [n for n, other in enumerate(groups) if other == group and inside[n]]
        total = sum(perplexity[n] ** power for n in among)
        found.append(len(among) * perplexity[row] ** power / total if inside[row] else 0.0)
    return found


@pytest.mark.parametrize(
    ("of", "power"), [("student", 1.0), ("student", -1.0), (0, -1.0), (1, 0.5), (0, 0.0)]
)
def test_weights_are_shares_of_the_perplexities_of_a_group(of, power):
    given = signals(
        rewards=torch.tensor([[0.0], [1.0], [0.0]]), group=torch.tensor([4, 4, 4]), divergence=None
    )
    for condition, inside in ((RewardBelow(), [True, False, True]), (RewardFrom(), [False, True, False])):
        got = PerplexityWeighted(Constant(2.0), condition, of=of, power=power)(given)
        weights = torch.tensor(by_hand(given, of, power, inside), dtype=got.dtype)
        torch.testing.assert_close(got, 2.0 * weights.unsqueeze(1).expand(got.shape))
        assert float(got[:, 0].sum()) == pytest.approx(2.0 * sum(inside)), "the mean weight is 1"
    ratio = PerplexityWeighted(LogRatio(), RewardBelow(), of=0, power=-1.0)(given)
    weights = torch.tensor(by_hand(given, 0, -1.0, [True, False, True]), dtype=ratio.dtype)
    torch.testing.assert_close(ratio, (given.by(0) - given.by("student")) * weights.unsqueeze(1))


def test_weights_are_of_one_group_of_all_ranks_and_do_not_overflow():
    said = torch.tensor([[-1.0], [-900.0], [-2.0], [-0.5]], dtype=torch.float64)
    rewards, group = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.tensor([3, 3, 8, 8])

    def part(rows, everyone):
        return signals(
            mask=torch.ones(len(said[rows]), 1).long(), log_probs={"student": said[rows]},
            rewards=rewards[rows, None], group=group[rows], everyone=everyone,
        )  # fmt: skip

    advantage = PerplexityWeighted(Constant(), RewardFrom(), power=1.0)
    whole = advantage(part(slice(None), lambda local: local))
    torch.testing.assert_close(whole[:, 0], torch.tensor([0.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    gathered = {torch.float64: -advantage.power * said[:, 0], torch.int64: group, torch.bool: rewards >= 1}
    for rows in (slice(0, 1), slice(1, 4)):
        got = advantage(part(rows, lambda local: gathered[local.dtype]))
        torch.testing.assert_close(got, whole[rows])


@pytest.mark.parametrize("mutation", ["sign", "sum", "all of the group", "no length"])
def test_mutations_of_the_weights_are_seen(monkeypatch, mutation):
    right = module.shares_of_group

    def wrong(given, values, inside):
        if mutation == "sign":
            return right(given, -values, inside)
        if mutation == "sum":
            return right(given, values, inside) / inside.sum()
        if mutation == "all of the group":
            return right(given, values, torch.ones_like(inside)).masked_fill(~inside, 0.0)
        return right(given, values * given.mask.sum(1), inside)

    monkeypatch.setattr(module, "shares_of_group", wrong)
    with pytest.raises(AssertionError):
        test_weights_are_shares_of_the_perplexities_of_a_group("student", 1.0)


def test_conditions_on_rewards():
    given = signals(rewards=torch.tensor([[1.0], [0.0], [0.0]]), group=torch.tensor([0, 0, 1]))
    assert RewardBelow()(given)[:, 0].tolist() == [False, True, True]
    assert RewardFrom()(given)[:, 0].tolist() == [True, False, False]
    silent = signals(rewards=torch.tensor([[torch.nan], [1.0], [0.0]]))
    for condition in (RewardBelow(), RewardFrom()):
        assert not condition(silent)[0].any(), "a reward that says nothing is neither right nor wrong"
    assert GroupUnsolved()(given)[:, 0].tolist() == [False, False, True]
    solved = signals(rewards=torch.ones(3, 1))
    assert not GroupUnsolved()(solved).any()


def test_an_unknown_baseline_is_refused():
    with pytest.raises(MethodError, match="no baseline 'median'; one of none, mean, mean-std, leave-one-out"):
        GroupReward("median")
