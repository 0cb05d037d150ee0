"""Noise on a teacher's logits: its spread, its freshness, and its effect on the divergence."""

import pytest
import torch
from methods.slots.noise import NoisyTeacher

from methods.errors import MethodError
from methods.losses.fused.linear import Head, linear_divergence
from methods.slots.targets import Rows


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
