"""The losses of ULD and ALM against formulas written out in float64."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.tokenizers.losses import (
    chunk_divergence,
    linear_log_mass,
    linear_sorted_l1,
    log1mexp,
    merge_chunks,
    sorted_l1,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_sorted_l1(q, p):
    """One row of plain Python numbers."""
    size = max(len(q), len(p))
    q = sorted([*q, *[0.0] * (size - len(q))], reverse=True)
    p = sorted([*p, *[0.0] * (size - len(p))], reverse=True)
    return sum(abs(a - b) for a, b in zip(q, p, strict=True))


@pytest.mark.parametrize(("student", "teacher"), [(7, 11), (11, 7), (9, 9)])
def test_sorted_l1_is_the_brute_force(student, teacher):
    z, t = 3 * normal(4, student), 3 * normal(4, teacher, seed=1)
    got = sorted_l1(z, t, student_temperature=2.0)
    for row in range(4):
        q, p = (z[row] / 2).softmax(-1).tolist(), t[row].softmax(-1).tolist()
        assert got[row].item() == pytest.approx(brute_sorted_l1(q, p), rel=1e-12)
    permuted = t[:, torch.randperm(teacher, generator=torch.Generator().manual_seed(2))]
    torch.testing.assert_close(sorted_l1(z, permuted, student_temperature=2.0), got)


@pytest.mark.parametrize("chunk_size", [None, 1, 3])
@pytest.mark.parametrize(("student", "teacher"), [(13, 29), (29, 13)])
def test_fused_sorted_l1_has_the_value_and_gradient_of_full_logits(student, teacher, chunk_size):
    hidden, weight, bias = normal(7, 5), normal(student, 5, seed=1), normal(student, seed=2)
    leaves = [x.requires_grad_() for x in (hidden, weight, bias)]
    states, other = normal(7, 6, seed=3), Head(normal(teacher, 6, seed=4), scale=0.7)
    temperatures = {"student_temperature": 1.3, "teacher_temperature": 0.8}
    loss = linear_sorted_l1(hidden, Head(weight, bias), states, other, chunk_size=chunk_size, **temperatures)
    got = torch.autograd.grad(3 * loss.total, leaves)
    values = sorted_l1(hidden @ weight.T + bias, 0.7 * states @ other.weight.T, **temperatures)
    torch.testing.assert_close(loss.values, values.detach())
    for mine, theirs in zip(got, torch.autograd.grad(3 * values.sum(), leaves), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_fused_sorted_l1_with_soft_caps():
    hidden = normal(5, 4).requires_grad_()
    student = Head(normal(8, 4, seed=1), soft_cap=2.0)
    teacher, states = Head(normal(12, 3, seed=2), soft_cap=1.5), normal(5, 3, seed=3)
    loss = linear_sorted_l1(hidden, student, states, teacher, teacher_temperature=2.0)
    capped = [
        c * (x / c).tanh() for x, c in ((hidden @ student.weight.T, 2), (states @ teacher.weight.T, 1.5))
    ]
    expected = sorted_l1(*capped, teacher_temperature=2.0).sum()
    assert loss.total.item() == pytest.approx(expected.item(), rel=1e-9)
    torch.testing.assert_close(
        torch.autograd.grad(loss.total, hidden)[0],
        torch.autograd.grad(expected, hidden)[0],
        rtol=1e-8,
        atol=1e-12,
    )


def test_sorted_l1_gradient_is_that_of_finite_differences():
    weight, states, other = normal(6, 4, seed=1), normal(3, 2, seed=2), Head(normal(9, 2, seed=3))

    def loss(hidden):
        return linear_sorted_l1(hidden, Head(weight), states, other).total

    assert torch.autograd.gradcheck(loss, normal(3, 4).requires_grad_(), eps=1e-6, atol=1e-6)


def test_rows_must_pair():
    with pytest.raises(MethodError, match="3 rows of the student, 2 of the teacher"):
        linear_sorted_l1(normal(3, 4), Head(normal(6, 4)), normal(2, 4), Head(normal(6, 4)))


@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_log_mass_is_the_log_of_a_sum(chunk_rows):
    hidden, weight, bias = (
        x.requires_grad_() for x in (normal(5, 4), normal(9, 4, seed=1), normal(9, seed=2))
    )
    members = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 1]).bool()
    head = Head(weight, bias, scale=0.5, soft_cap=3.0)
    got = linear_log_mass(hidden, head, members, chunk_rows=chunk_rows)
    logits = 3 * ((0.5 * (hidden @ weight.T + bias)) / 3).tanh()
    expected = logits.softmax(-1)[:, members].sum(-1).log()
    torch.testing.assert_close(got, expected)
    scale = torch.arange(1, 6.0, dtype=torch.float64)
    leaves = [hidden, weight, bias]
    for mine, theirs in zip(
        torch.autograd.grad(got @ scale, leaves), torch.autograd.grad(expected @ scale, leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
    with pytest.raises(MethodError, match="vocabulary of 9"):
        linear_log_mass(hidden, head, members[:5])


class Largest(TorchDispatchMode):
    """The size of the largest tensor made inside the block, in elements."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for part in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return made


def test_logits_exist_a_few_rows_at_a_time():
    rows, vocabulary, chunk = 300, 500, 20
    weight = normal(vocabulary, 4, seed=1).requires_grad_()
    hidden = normal(rows, 4).requires_grad_()
    other, states = Head(normal(vocabulary + 100, 4, seed=2)), normal(rows, 4, seed=3)
    members = torch.arange(vocabulary) % 3 == 0
    with Largest() as largest:
        loss = linear_sorted_l1(hidden, Head(weight), states, other, chunk_size=chunk).total
        (loss + linear_log_mass(hidden, Head(weight), members, chunk_rows=chunk).sum()).backward()
    assert chunk * vocabulary <= largest.elements <= chunk * (vocabulary + 100) < rows * vocabulary


def bernoulli_kl(p, q):
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


@pytest.mark.parametrize("temperature", [1.0, 5.0, 100.0])
def test_chunk_divergence_is_the_bernoulli_formula(temperature):
    log_q, log_p = (
        torch.tensor([-0.3, -2.0, -40.0, -0.01]).double(),
        torch.tensor([-0.7, -1.0, -3.0, -5.0]).double(),
    )
    got = chunk_divergence(log_q, log_p, temperature=temperature, epsilon=0.0)
    variation = chunk_divergence(
        log_q, log_p, temperature=temperature, epsilon=0.0, divergence="total_variation"
    )
    for i in range(4):
        p, q = math.exp(log_p[i] / temperature), math.exp(log_q[i] / temperature)
        assert got[i].item() == pytest.approx(bernoulli_kl(p, q), rel=1e-9)
        assert variation[i].item() == pytest.approx(2 * abs(p - q), rel=1e-9)


def test_chunk_divergence_has_no_nan_at_the_ends():
    log_q = torch.tensor([0.0, -1e-9, -1e4, 0.0, -200.0], requires_grad=True)
    log_p = torch.tensor([-3.0, 0.0, 0.0, 0.0, -1e4])
    for temperature in (1.0, 100.0):
        loss = chunk_divergence(log_q, log_p, temperature=temperature)
        (grad,) = torch.autograd.grad(loss.sum(), log_q)
        assert loss.isfinite().all() and grad.isfinite().all()
        assert loss[3] == 0 and (loss >= -1e-6).all()
    with pytest.raises(MethodError, match="unknown divergence of chunks 'tvd'"):
        chunk_divergence(log_q, log_p, divergence="tvd")


def test_chunk_divergence_gradient_and_its_high_temperature_limit():
    log_p = torch.tensor([-0.5, -2.0, -7.0]).double()
    log_q = torch.tensor([-1.5, -0.2, -3.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: chunk_divergence(x, log_p, temperature=7.0), log_q)
    # Appendix A.2 of the paper: tau times the loss tends to (a - b) + a log(b / a).
    limit = log_p - log_q + log_p * (log_q / log_p).log()
    torch.testing.assert_close(
        chunk_divergence(log_q, log_p, temperature=1e6, epsilon=0.0) * 1e6, limit, rtol=1e-4, atol=1e-6
    )


def test_log1mexp():
    x = torch.tensor([-1e-12, -1e-3, -0.69, -0.7, -3.0, -50.0]).double()
    expected = [math.log(-math.expm1(v)) if v > -0.7 else math.log1p(-math.exp(v)) for v in x.tolist()]
    torch.testing.assert_close(log1mexp(x), torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_chunks_merge_until_they_may_end():
    sequence = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    ends = torch.tensor([True, False, False, True, False, False, True])
    numbers, stays = merge_chunks(sequence, ends)
    assert numbers.tolist() == [0, 1, 1, 1, 2, 2, 3]
    assert stays.tolist() == [True, True, False, True], "the second sequence never reaches an end"
    numbers, stays = merge_chunks(sequence[:0], ends[:0])
    assert len(numbers) == len(stays) == 0
