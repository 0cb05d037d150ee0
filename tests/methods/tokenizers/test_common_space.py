"""GOLD's merged distributions and SimCT's units against sums written out in plain Python."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused.linear import Head
from methods.tokenizers.common_space import (
    ChunkRows,
    check_divergence,
    common_divergence,
    merged_divergence,
    over_chunks,
    unit_divergence,
)
from tests.methods.tokenizers.test_cross_tokenizer import Largest, brute_sorted_l1, normal

NAMES = ("forward_kl", "reverse_kl", "jensen_shannon")
# Student ids 0, 2, 5 and teacher ids 1, 0, 6 are the same tokens.
OURS, THEIRS = torch.tensor([0, 2, 5]), torch.tensor([1, 0, 6])
SHARED = {"student_shared": OURS, "teacher_shared": THEIRS}


def brute_divergence(q, p, name, weight=0.5):
    """Term by term, whatever the vectors sum to."""

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    if name == "forward_kl":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p)
    m = [weight * x + (1 - weight) * y for x, y in zip(p, q, strict=True)]
    return weight * kl(p, m) + (1 - weight) * kl(q, m)


def softmax(logits):
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("matched_weight", [None, 0.0, 0.3, 1.0])
def test_merged_divergence_is_the_brute_force(name, matched_weight):
    z, t = 2 * normal(4, 7), 2 * normal(4, 9, seed=1)
    ours, theirs = (
        torch.tensor([0.0, -1.5, -0.1, 0.0]).double(),
        torch.tensor([-0.7, 0.0, -3.0, 0.0]).double(),
    )
    got = merged_divergence(
        z, t, ours, theirs, **SHARED, matched_weight=matched_weight, divergence=name, teacher_weight=0.3
    )
    share = 3 / 9 if matched_weight is None else matched_weight
    for row in range(4):
        q = [x * math.exp(ours[row]) for x in softmax(z[row].tolist())]
        p = [x * math.exp(theirs[row]) for x in softmax(t[row].tolist())]
        matched = brute_divergence([q[i] for i in OURS], [p[i] for i in THEIRS], name, 0.3)
        others = brute_sorted_l1(
            [x for i, x in enumerate(q) if i not in OURS], [x for i, x in enumerate(p) if i not in THEIRS]
        )
        assert got[row].item() == pytest.approx(share * matched + (1 - share) * others, rel=1e-10)


def test_merged_divergence_by_hand():
    # Student: "a" then "b", two thirds and three quarters; teacher: "ab" in one, with 0.4. All else is not shared.
    z = torch.tensor([[2.0, 1.0]]).double().log()
    t = torch.tensor([[0.4, 0.6]]).double().log()
    rest = torch.tensor([0.75, 1.0]).double().log()
    none = {"student_shared": OURS[:0], "teacher_shared": OURS[:0]}
    # (2/3, 1/3) * 3/4 = (1/2, 1/4) against (0.6, 0.4)
    got = merged_divergence(z, t, rest[:1], rest[1:], **none)
    assert got.item() == pytest.approx(0.1 + 0.15)
    first = {"student_shared": OURS[:1], "teacher_shared": OURS[:1]}
    got = merged_divergence(z, t, rest[:1], rest[1:], **first, divergence="forward_kl", matched_weight=0.5)
    assert got.item() == pytest.approx(0.5 * 0.4 * math.log(0.4 / 0.5) + 0.5 * (0.6 - 0.25))


def test_with_one_vocabulary_both_are_the_divergence():
    z, t, everything = normal(5, 8), normal(5, 8, seed=1), torch.arange(8)
    shared = {"student_shared": everything, "teacher_shared": everything}
    zero, never = torch.zeros(5).double(), torch.full((5,), -torch.inf).double()
    for name in NAMES:
        expected = DIVERGENCES[name](z, t)
        torch.testing.assert_close(merged_divergence(z, t, zero, zero, **shared, divergence=name), expected)
        torch.testing.assert_close(unit_divergence(z, t, never, never, **shared, divergence=name), expected)


def test_unit_divergence_by_hand():
    # One shared token with 1/2 and 1/8, a unit with means -log 4 and -log 8: (2/3, 1/3) against (1/2, 1/2).
    z, t = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[7 / 8, 1 / 8]]).double().log()
    ours, theirs = -torch.tensor([4.0]).double().log(), -torch.tensor([8.0]).double().log()
    got = unit_divergence(
        z, t, ours, theirs, student_shared=torch.tensor([0]), teacher_shared=torch.tensor([1])
    )
    assert got.item() == pytest.approx(2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3))


@pytest.mark.parametrize("name", NAMES)
def test_unit_divergence_is_the_brute_force(name):
    z, t = 2 * normal(4, 7), 2 * normal(4, 9, seed=1)
    ours = torch.tensor([-0.5, -torch.inf, -9.0, -0.1]).double()
    theirs = torch.tensor([-2.5, -torch.inf, -0.2, -0.1]).double()
    got = unit_divergence(z, t, ours, theirs, **SHARED, divergence=name)
    for row in range(4):
        sides = []
        for logits, shared, unit in ((z, OURS, ours), (t, THEIRS, theirs)):
            probabilities = softmax(logits[row].tolist())
            scores = [probabilities[i] for i in shared] + [math.exp(unit[row])]
            sides.append([s / sum(scores) for s in scores])
        assert got[row].item() == pytest.approx(brute_divergence(*sides, name), rel=1e-10)
    assert (got >= 0).all()


@pytest.mark.parametrize("function", [merged_divergence, unit_divergence])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(function, name):
    def loss(z, score):
        return function(
            z, normal(3, 9, seed=1), score, torch.tensor([-0.3, -0.7, -2]).double(), **SHARED, divergence=name
        )

    inputs = normal(3, 7).requires_grad_(), torch.tensor([-0.5, -1.0, -0.1]).double().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)


@pytest.mark.parametrize("function", [merged_divergence, unit_divergence])
def test_masked_ids_make_no_nan(function):
    z, t = normal(2, 7), normal(2, 9, seed=1)
    z[0, 2], t[0, 0], z[1, 1], t[1, 3] = (-torch.inf,) * 4  # a shared token of both, then others
    z.requires_grad_()
    scores = torch.tensor([-0.4, -torch.inf]).double()
    if function is merged_divergence:
        scores = torch.zeros(2).double()
    for name in NAMES:
        loss = function(z, t, scores, scores, **SHARED, divergence=name)
        assert loss.isfinite().all() and torch.autograd.grad(loss.sum(), z)[0].isfinite().all()


def test_rows_a_few_at_a_time_have_the_values_and_gradients_of_all():
    hidden, weight = normal(7, 5).requires_grad_(), normal(13, 5, seed=1).requires_grad_()
    score, states = normal(7, seed=2).requires_grad_(), normal(7, 4, seed=3)
    head, other = Head(weight, soft_cap=3.0), Head(normal(9, 4, seed=4), scale=0.6)
    leaves = [hidden, weight, score]

    def loss(z, t, ours, theirs):
        return unit_divergence(z, t, ours, theirs, **SHARED)

    theirs = normal(7, seed=5)
    expected = loss(head.logits(hidden), other.logits(states), score, theirs)
    wanted = torch.autograd.grad(expected @ score.detach(), leaves)
    for rows in (None, 1, 3):
        got = over_chunks(
            loss, ChunkRows(hidden, head, score), ChunkRows(states, other, theirs), chunk_rows=rows
        )
        torch.testing.assert_close(got, expected)
        for a, b in zip(torch.autograd.grad(got @ score.detach(), leaves), wanted, strict=True):
            torch.testing.assert_close(a, b)
    nothing = [
        ChunkRows(h[:0], head_, s[:0]) for h, head_, s in ((hidden, head, score), (states, other, theirs))
    ]
    assert over_chunks(loss, *nothing).shape == (0,)


def test_logits_exist_a_few_rows_at_a_time():
    rows, vocabulary, chunk = 300, 500, 20
    hidden, head = normal(rows, 4).requires_grad_(), Head(normal(vocabulary, 4, seed=1).requires_grad_())
    states, other, zero = (
        normal(rows, 4, seed=3),
        Head(normal(vocabulary, 4, seed=2)),
        torch.zeros(rows).double(),
    )
    sides = ChunkRows(hidden, head, zero), ChunkRows(states, other, zero)
    with Largest() as largest:
        over_chunks(lambda *row: merged_divergence(*row, **SHARED), *sides, chunk_rows=chunk).sum().backward()
    assert chunk * vocabulary <= largest.elements < 2 * chunk * vocabulary


def test_wrong_settings_are_refused():
    with pytest.raises(MethodError, match="unknown divergence of common tokens 'kl'"):
        check_divergence("kl", 0.5)
    with pytest.raises(MethodError, match="teacher_weight=2"):
        check_divergence("jensen_shannon", 2.0)
    torch.testing.assert_close(
        common_divergence(torch.zeros(1), torch.zeros(1)), torch.zeros(()), msg="equal, whatever they sum to"
    )
