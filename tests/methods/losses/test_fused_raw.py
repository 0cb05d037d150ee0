"""The fused losses that work on raw exponentials: what they give, and where these do not fit into fp32."""

import pytest
import torch

from methods.losses.divergences import DIVERGENCES
from methods.losses.fused import kernels as fused_kernels
from methods.losses.fused.linear import Head, linear_cross_entropy, linear_divergence
from tests.methods.losses.fused_sides import (
    ROWS,
    VOCABULARY,
    assert_same_gradients,
    leaves,
    logits,
    normal,
    student_side,
    teacher_side,
)

RAW = ["forward_kl", "reverse_kl", "jensen_shannon", "cross_entropy"]


def raw_loss(name, hidden, head, dtype=torch.float64, **options):
    """A loss that works on raw exponentials, fused."""
    if name == "cross_entropy":
        return linear_cross_entropy(hidden, head, torch.arange(ROWS) * 3, **options)
    return linear_divergence(hidden, head, *teacher_side(dtype=dtype), divergence=name, **options)


def dense_loss(name, z, teacher_logits):
    if name == "cross_entropy":
        ids = torch.arange(ROWS).unsqueeze(-1) * 3
        return -torch.log_softmax(z, -1).gather(-1, ids).squeeze(-1)
    return DIVERGENCES[name](z, teacher_logits)


@pytest.mark.parametrize("name", RAW)
def test_the_commonest_losses_normalise_nothing(name, monkeypatch):
    monkeypatch.setattr(fused_kernels, "softmax_pair", None)
    hidden, head = student_side()
    expected = dense_loss(name, logits(hidden, head), logits(*teacher_side()))
    torch.testing.assert_close(raw_loss(name, hidden, head).values, expected.detach())


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("offset", [-300.0, -25.0, 50.0, 2000.0])
def test_logits_whose_exponentials_do_not_fit(name, offset):
    """GPT-2's logits lie near -100; in fp32 exp(89) is infinite and exp(-104) zero."""
    shift = torch.full((VOCABULARY,), offset, dtype=torch.float32)
    hidden, head = student_side(dtype=torch.float32, bias=shift.requires_grad_())
    wide = Head(head.weight.double(), shift.double())
    expected = dense_loss(name, logits(hidden.double(), wide), logits(*teacher_side()))
    loss = raw_loss(name, hidden, head, torch.float32, chunk_size=4)
    torch.testing.assert_close(loss.values.double(), expected.detach(), rtol=1e-4, atol=1e-3)
    assert_same_gradients(expected.sum(), loss.total, leaves(hidden, head), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", RAW)
@pytest.mark.parametrize("row", [1, 6, 10])
def test_a_single_row_out_of_range_spoils_no_other(name, row):
    """Neither the first row of its chunk, which is looked at before, nor in the first chunk."""
    hidden, head = student_side()
    scale = torch.ones(ROWS, 1, dtype=torch.float64)
    scale[row] = 1000
    far = (hidden.detach() * scale).requires_grad_()
    expected = dense_loss(name, logits(far, head), logits(*teacher_side()))
    loss = raw_loss(name, far, head, chunk_size=4)
    torch.testing.assert_close(loss.values, expected.detach())
    assert_same_gradients(expected.sum(), loss.total, leaves(far, head))


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
def test_fp32_values_near_convergence(name):
    teacher_hidden, teacher_head = teacher_side(vocabulary=700, dtype=torch.float32)
    nearby = teacher_hidden + 1e-3 * normal(*teacher_hidden.shape, seed=9, dtype=torch.float32)
    head = Head(teacher_head.weight * 3)
    wide = Head(head.weight.double())
    close = linear_divergence(nearby, head, teacher_hidden, head, divergence=name).values
    exact = linear_divergence(nearby.double(), wide, teacher_hidden.double(), wide, divergence=name).values
    assert exact.max() < 1e-4
    torch.testing.assert_close(close.double(), exact, rtol=0, atol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.9])
def test_jensen_shannon_of_any_weight(weight):
    hidden, head = student_side()
    teacher = teacher_side()
    expected = DIVERGENCES["jensen_shannon"](logits(hidden, head), logits(*teacher), teacher_weight=weight)
    options = {"divergence": "jensen_shannon", "teacher_weight": weight, "chunk_size": 4}
    loss = linear_divergence(hidden, head, *teacher, **options)
    torch.testing.assert_close(loss.values, expected.detach())
    assert_same_gradients(expected.sum(), loss.total, leaves(hidden, head))


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jensen_shannon"])
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_ids_far_below_the_others(name, who):
    """Their exponentials vanish in fp32; what they weigh does not depend on it."""
    far = torch.zeros(VOCABULARY)
    far[5] = -200
    hidden, head = student_side(dtype=torch.float32, bias=(far * (who != "teacher")).requires_grad_())
    teacher, teacher_head = teacher_side(dtype=torch.float32, bias=far * (who != "student"))
    loss = linear_divergence(hidden, head, teacher, teacher_head, divergence=name)
    wide = [Head(h.weight.double(), h.bias.double()) for h in (head, teacher_head)]
    expected = DIVERGENCES[name](logits(hidden.double(), wide[0]), logits(teacher.double(), wide[1]))
    torch.testing.assert_close(loss.values.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    assert_same_gradients(expected.sum(), loss.total, leaves(hidden, head), rtol=1e-4, atol=1e-5)
