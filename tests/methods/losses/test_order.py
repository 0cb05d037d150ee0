"""The likelihood of an order against enumeration of all orders, and the entropy against autograd, in float64."""

from itertools import permutations

import pytest
import torch

from methods.losses.fused.formulas import Block
from methods.losses.fused.order import plackett_luce, student_entropy


def block(z, t):
    log_q, log_p = z.log_softmax(-1), t.log_softmax(-1)
    return Block(log_q.clone(), log_q.exp(), log_p.clone(), log_p.exp(), torch.empty_like(log_q))


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teacher_of(order, size):
    """Logits whose order, from the likeliest, is `order`."""
    made = torch.zeros(size, dtype=torch.float64)
    made[list(order)] = torch.arange(size, 0, -1, dtype=torch.float64)
    return made.unsqueeze(0)


def by_hand(z, order):
    """Sum over places of log of the remaining mass less log of the one drawn."""
    q = z.softmax(-1)
    return -sum((q[order[n]] / q[list(order[n:])].sum()).log() for n in range(len(order)))


@pytest.mark.parametrize("released", [False, True])
def test_value_and_gradient_are_those_of_drawing_one_after_the_other(released):
    z = draw(4, seed=1).requires_grad_()
    for order in permutations(range(4)):
        drawn = tuple(reversed(order)) if released else order
        expected = by_hand(z, drawn)
        value, slope = plackett_luce(block(z.detach().unsqueeze(0), teacher_of(order, 4)), released)
        torch.testing.assert_close(value[0], expected.detach())
        gradient = slope - z.detach().softmax(-1) * slope.sum()
        torch.testing.assert_close(gradient[0], torch.autograd.grad(expected, z)[0])


def test_all_orders_together_are_certain():
    z = draw(1, 4, seed=2)
    chances = [(-plackett_luce(block(z, teacher_of(o, 4)))[0]).exp() for o in permutations(range(4))]
    assert float(sum(chances)) == pytest.approx(1)


def raises_the_first(released):
    z, t = draw(1, 6, seed=3), draw(1, 6, seed=4)
    _, slope = plackett_luce(block(z, t), released)
    step = -(slope - z.softmax(-1) * slope.sum())[0]
    return bool(step[t.argmax()] > 0), bool(step[t.argmin()] > 0)


def test_the_teacher_s_first_choice_rises_and_the_released_code_raises_its_last():
    assert raises_the_first(False) == (True, False)
    assert raises_the_first(True) == (False, True)


def test_large_logits_stay_finite_in_fp32():
    z = torch.tensor([[0.0, -200.0, 40.0, -90.0]])
    value, slope = plackett_luce(block(z, torch.tensor([[1.0, 4.0, 2.0, 3.0]])))
    assert bool(value.isfinite().all() and slope.isfinite().all()) and float(slope.abs().max()) <= 4


def test_the_entropy_s_slope_is_its_gradient():
    z = draw(3, 7, seed=5).requires_grad_()
    expected = -(z.softmax(-1) * z.log_softmax(-1)).sum(-1)
    value, slope = student_entropy(block(z.detach(), draw(3, 7, seed=6)))
    torch.testing.assert_close(value, expected.detach())
    gradient = slope - z.detach().softmax(-1) * slope.sum(-1, keepdim=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), z)[0])
