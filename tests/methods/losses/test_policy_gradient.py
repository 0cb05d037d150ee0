import pytest
import torch

from methods.losses.policy_gradient import (
    clipped_policy_loss,
    importance_weights,
    log_ratio_rewards,
    return_to_go,
    summed,
)

MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
REWARDS = torch.tensor([[1.0, 2.0, 4.0, 8.0], [3.0, 5.0, 0.0, 0.0]])


@pytest.mark.parametrize(
    ("include_present", "normalize", "discount", "expected"),
    [
        (True, False, 1.0, [[15, 14, 12, 8], [8, 5, 0, 0]]),
        (False, False, 1.0, [[14, 12, 8, 0], [5, 0, 0, 0]]),
        (True, True, 1.0, [[15 / 4, 14 / 3, 6, 8], [4, 5, 0, 0]]),
        (False, True, 1.0, [[14 / 3, 6, 8, 0], [5, 0, 0, 0]]),
        (True, False, 0.5, [[1 + 1 + 1 + 1, 2 + 2 + 2, 4 + 4, 8], [5.5, 5, 0, 0]]),
        (False, False, 0.5, [[2 + 2 + 2, 4 + 4, 8, 0], [5, 0, 0, 0]]),
    ],
)
def test_returns_by_hand(include_present, normalize, discount, expected):
    got = return_to_go(REWARDS, MASK, include_present=include_present, normalize=normalize, discount=discount)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float32))


def test_rewards_are_clipped_masked_and_detached():
    student = torch.tensor([[-1.0, -5.0, -1.0]], requires_grad=True)
    rewards = log_ratio_rewards(
        torch.tensor([[-2.0, -1.0, -9.0]]), student, torch.tensor([[1, 1, 0]]), clip=3.0
    )
    torch.testing.assert_close(rewards, torch.tensor([[-1.0, 3.0, 0.0]]))
    assert not rewards.requires_grad


def test_importance_weights_by_hand():
    q, p = torch.tensor([[0.5, 0.1, 0.5]]), torch.tensor([[0.5, 0.9, 0.5]])
    weights = importance_weights(q.log(), p.log(), torch.tensor([[1, 1, 0]]), teacher_mix=0.2)
    torch.testing.assert_close(weights, torch.tensor([[1.0, 0.1 / (0.8 * 0.1 + 0.2 * 0.9), 0.0]]))


def test_importance_weights_average_to_one_under_the_mixture():
    q, p = torch.rand(5, 7).softmax(-1), torch.rand(5, 7).mul(4).softmax(-1)
    mixture = 0.7 * q + 0.3 * p
    weights = importance_weights(q.log(), p.log(), torch.ones(5, 7), teacher_mix=0.3)
    torch.testing.assert_close((mixture * weights).sum(-1), torch.ones(5))
    assert weights.max() <= 1 / 0.7 + 1e-6


def test_without_a_teacher_share_every_weight_is_one():
    weights = importance_weights(torch.randn(2, 4), torch.randn(2, 4), MASK, teacher_mix=0)
    torch.testing.assert_close(weights, MASK.float())


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected", "slope"),
    [
        (0.0, 2.0, -2.0, -2.0),
        (1.0, 2.0, -2.4, 0.0),  # too likely already and still praised: clipped, no gradient
        (1.0, -2.0, 2 * 2.718281828, 2 * 2.718281828),
        (-1.0, -2.0, 1.6, 0.0),
        (-1.0, 2.0, -2 * 0.36787944, -2 * 0.36787944),
    ],
)
def test_clipping_takes_the_pessimistic_branch(log_ratio, advantage, expected, slope):
    logps = torch.tensor([[log_ratio]], requires_grad=True)
    one = torch.ones(1, 1)
    loss = clipped_policy_loss(logps, torch.zeros(1, 1), torch.full((1, 1), advantage), one, one, clip=0.2)
    loss.sum().backward()
    torch.testing.assert_close(loss.detach(), torch.tensor([[expected]]))
    torch.testing.assert_close(logps.grad, torch.tensor([[slope]]))


@pytest.mark.parametrize(
    ("loss_type", "by_hand"),
    [
        ("dapo", 1 + 2 + 4 + 8),
        ("cispo", 1 + 2 + 4 + 8),
        ("grpo", (1 + 2 + 4) / 3 + 8),
        ("dr_grpo", (1 + 2 + 4 + 8) / 5),
    ],
)
def test_losses_of_tokens_are_summed_as_each_paper_says(loss_type, by_hand):
    """Two completions of three tokens and one; a third without any counts for nothing."""
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    per_token = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    assert summed(per_token, mask, loss_type, longest=5).item() == pytest.approx(by_hand, abs=1e-12)
