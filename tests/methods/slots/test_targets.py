"""Targets as weighted sums of logits, how an interpolation moves, and noise on a teacher's logits."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head, linear_divergence
from methods.slots.rows import Rows
from methods.slots.targets import AverageLogits, InterpolatedLogits, NoisyTeacher, OneTeacher, mix_logits
from methods.slots.terms import Window


def rows_of(hidden, head, teacher):
    empty = torch.empty(0)
    return Rows(hidden, Head(head), (teacher,), empty, empty, empty, empty)


@pytest.fixture
def teacher():
    draw = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((4000, 6), (11, 6), (11,)))
    return hidden, Head(weight, bias)


def test_noise_has_its_deviation_and_is_fresh_at_every_step(teacher):
    hidden, head = teacher
    rows = rows_of(hidden, head.weight, teacher)
    torch.manual_seed(5)
    states, noisy = NoisyTeacher(5.0)(rows)
    assert noisy.bias is not None
    added = states @ noisy.weight.T + noisy.bias - (hidden @ head.weight.T + head.bias)
    assert float(added.std()) == pytest.approx(5, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.1)
    assert float(torch.corrcoef(added.T)[0, 1]) == pytest.approx(0, abs=0.05), "one draw for each logit"
    assert not torch.equal(states, NoisyTeacher(5.0)(rows)[0])


def test_the_divergence_is_that_of_the_disturbed_logits(teacher):
    hidden, head = teacher
    student = torch.randn(4000, 6, generator=torch.Generator().manual_seed(1))
    rows = rows_of(student, head.weight, teacher)
    torch.manual_seed(7)
    target, target_head = NoisyTeacher(2.0)(rows)
    got = linear_divergence(student, Head(head.weight), target, target_head).values
    torch.manual_seed(7)
    noise = 2.0 * torch.randn(4000, 11)
    p = (hidden.double() @ head.weight.double().T + head.bias.double() + noise.double()).log_softmax(-1)
    q = (student.double() @ head.weight.double().T).log_softmax(-1)
    torch.testing.assert_close(got.double(), (p.exp() * (p - q)).sum(-1), rtol=1e-4, atol=1e-5)


def test_stored_top_k_is_refused():
    hidden = torch.zeros(2, 3)
    with pytest.raises(MethodError, match="whole vocabulary"):
        NoisyTeacher(1.0)(rows_of(hidden, torch.zeros(4, 3), object()))


def some_rows(n=5, size=7):
    g = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    teachers = (
        (normal(n, 3), Head(normal(size + 2, 3), normal(size + 2), scale=0.5)),
        (normal(n, 4), Head(normal(size, 4))),
    )
    index = torch.arange(n)
    return Rows(normal(n, 6), Head(normal(size, 6)), teachers, index, torch.zeros(n).long(), index, index)


def logits(hidden, head, size=7):
    z = head.scale * (hidden @ head.weight.T + (0 if head.bias is None else head.bias))
    return z[:, :size]


def test_mixed_logits_are_the_weighted_sum_of_logits():
    rows = some_rows()
    for target, coefficients in (
        (AverageLogits([0.3, 0.7]), (0.3, 0.7, 0.0)),
        (InterpolatedLogits(start=0.25), (0.25, 0.0, 0.75)),
    ):
        expected = sum(
            c * logits(*part)
            for c, part in zip(coefficients, [*rows.teachers, (rows.hidden, rows.head)], strict=True)
        )
        torch.testing.assert_close(logits(*target(rows)), expected)


def test_a_mixture_refuses_what_is_not_linear():
    with pytest.raises(MethodError, match="soft cap"):
        mix_logits([(1.0, torch.zeros(1, 2), Head(torch.zeros(3, 2), soft_cap=30.0))])
    with pytest.raises(MethodError, match="sum to 1"):
        AverageLogits([0.5, 0.6])


def test_the_interpolation_moves_as_taid_says():
    target = InterpolatedLogits(start=0.4, step_size=0.05, momentum=0.9)
    target.begin_step(Window(0.0, last=lambda: None))
    assert target.teacher_share == 0.4
    target.begin_step(Window(0.01, last=lambda: 2.0))  # no earlier loss to compare with: the line
    assert target.teacher_share == pytest.approx(0.4 + 0.6 * 0.01)
    target.begin_step(Window(0.02, last=lambda: 1.0))
    trend = 0.1 * 0.5  # (2 - 1) / 2
    pushed = 0.406 + 0.05 / (1 + math.exp(-trend)) * (1 - 0.406)
    assert target.teacher_share == pytest.approx(pushed)
    target.begin_step(Window(0.03, last=lambda: 1.5))
    trend = 0.9 * trend + 0.1 * -0.5
    assert target.teacher_share == pytest.approx(pushed + 0.05 / (1 + math.exp(-trend)) * (1 - pushed))
    target.begin_step(Window(0.99, last=lambda: 1.5))
    assert target.teacher_share == pytest.approx(0.4 + 0.6 * 0.99)  # never behind the line
    linear = InterpolatedLogits(start=0.2, step_size=0.0)
    linear.begin_step(Window(0.5, last=lambda: 3.0))
    assert linear.teacher_share == pytest.approx(0.6)


def test_a_teacher_that_is_not_there_is_named():
    with pytest.raises(MethodError, match="no teacher number 2: 2 read"):
        OneTeacher(2)(some_rows())
