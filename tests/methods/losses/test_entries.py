"""ToDi and concrete score matching against double loops and autograd in float64; what each oracle catches."""

import pytest
import torch

from methods.errors import MethodError
from methods.losses.divergences import forward_kl, reverse_kl
from methods.losses.fused.entries import WEIGHTS, concrete_score, entrywise_kl
from methods.losses.fused.linear import linear_divergence
from tests.methods.losses.fused_sides import leaves, logits, student_side, teacher_side
from tests.methods.losses.test_order import block, draw


def gradient(slope, z):
    """That of the logits, as the kernels make it."""
    return slope - z.detach().softmax(-1) * slope.sum(-1, keepdim=True)


def todi_by_hand(z, t):
    """Entry by entry; the weight is made of numbers, so that nothing goes through it."""
    log_q, log_p = z.log_softmax(-1), t.log_softmax(-1)
    total = []
    for row in range(len(z)):
        parts = []
        for i in range(z.shape[1]):
            a = 1 / (1 + float((log_q[row, i] - log_p[row, i]).exp()))
            parts.append(
                a * log_p[row, i].exp() * (log_p[row, i] - log_q[row, i])
                + (1 - a) * log_q[row, i].exp() * (log_q[row, i] - log_p[row, i])
            )
        total.append(sum(parts))
    return torch.stack(total)


def csd_by_hand(z, t, first, second):
    """Half the double sum over pairs, the weights numbers."""
    d = z - t  # logits as they are
    size = z.shape[1]
    kinds = {
        "student": z.detach().softmax(-1),
        "teacher": t.softmax(-1),
        "uniform": torch.full_like(t, 1 / size),
    }
    u, w = kinds[first], kinds[second]
    return torch.stack(
        [
            sum(0.5 * u[n, x] * w[n, y] * (d[n, x] - d[n, y]) ** 2 for x in range(size) for y in range(size))
            for n in range(len(z))
        ]
    )


def check_todi(divergence=entrywise_kl):
    z, t = 2 * draw(4, 6, seed=1).requires_grad_(), 2 * draw(4, 6, seed=2)
    z = z.detach().requires_grad_()
    expected = todi_by_hand(z, t)
    value, slope = divergence(block(z.detach(), t))
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient(slope, z), torch.autograd.grad(expected.sum(), z)[0])


def check_csd(first, second, divergence=concrete_score):
    z, t = draw(3, 5, seed=3).requires_grad_(), draw(3, 5, seed=4)
    expected = csd_by_hand(z, t, first, second)
    value, slope = divergence(block(z.detach(), t), first, second)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient(slope, z), torch.autograd.grad(expected.sum(), z)[0])


def test_todi_entry_by_entry():
    check_todi()


def test_todi_has_the_value_of_both_kls_and_another_gradient():
    z, t = draw(4, 6, seed=5).requires_grad_(), draw(4, 6, seed=6)
    both = forward_kl(z, t) + reverse_kl(z, t)
    value, slope = entrywise_kl(block(z.detach(), t))
    torch.testing.assert_close(value, both.detach())
    jeffreys = torch.autograd.grad(both.sum(), z)[0]
    assert (gradient(slope, z) - jeffreys).abs().max() > 0.01


def test_the_value_alone_would_not_tell_todi_from_jeffreys():
    """The oracle of the gradient catches a weight that moves along."""

    def jeffreys(made):
        gap = made.log_q - made.log_p
        return ((made.q - made.p) * gap).sum(-1), made.q * (gap + 1) - made.p

    with pytest.raises(AssertionError):
        check_todi(jeffreys)


@pytest.mark.parametrize("first", WEIGHTS)
@pytest.mark.parametrize("second", WEIGHTS)
def test_concrete_scores_pair_by_pair(first, second):
    check_csd(first, second)


def test_equal_weights_give_the_variance():
    z, t = draw(3, 5, seed=7), draw(3, 5, seed=8)
    d, w = z - t, t.softmax(-1)
    mean = (w * d).sum(-1, keepdim=True)
    value, _ = concrete_score(block(z, t), "teacher", "teacher")
    torch.testing.assert_close(value, (w * (d - mean) ** 2).sum(-1))


def test_a_number_added_to_all_logits_changes_nothing():
    z, t = draw(3, 5, seed=9), draw(3, 5, seed=10)
    one, other = (concrete_score(block(shifted, t)) for shifted in (z, z + 7))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    "wrong",
    [
        # a direct match of logits, which a constant changes; the first mean for both; the weight not detached
        lambda made, a, b: ((made.q * (made.log_q - made.log_p) ** 2).sum(-1), torch.zeros_like(made.q)),
        lambda made, a, b: concrete_score(made, a, a),
        lambda made, a, b: tuple(part * 2 for part in concrete_score(made, a, b)),
    ],
)
def test_the_pairs_catch_what_is_wrong(wrong):
    with pytest.raises(AssertionError):
        check_csd("teacher", "student", wrong)


def test_unknown_weights_are_refused():
    with pytest.raises(MethodError, match="none of student, teacher, uniform"):
        concrete_score(block(draw(1, 3, seed=1), draw(1, 3, seed=2)), "pupil")


@pytest.mark.parametrize(
    ("divergence", "oracle"),
    [(entrywise_kl, todi_by_hand), (concrete_score, lambda z, t: csd_by_hand(z, t, "student", "student"))],
)
def test_fused_with_the_heads(divergence, oracle):
    """Through both heads, in float64, to hidden states and weights."""
    hidden, head = student_side()
    teacher = teacher_side()
    made = linear_divergence(hidden, head, *teacher, divergence=divergence)
    grads = torch.autograd.grad(made.total, leaves(hidden, head))
    dense = oracle(logits(hidden, head), logits(*teacher))
    torch.testing.assert_close(made.values, dense.detach())
    for ours, theirs in zip(grads, torch.autograd.grad(dense.sum(), leaves(hidden, head)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("divergence", [entrywise_kl, concrete_score])
def test_masked_ids_make_no_nan(divergence):
    z, t = draw(2, 4, seed=11), draw(2, 4, seed=12)
    made = block(z, t)
    made.student_masked = torch.tensor([1])
    for part in (made.log_q, made.q):
        part[:, 1] = 0
    value, slope = divergence(made)
    assert not value.isnan().any() and slope.isfinite().all()
    assert bool(value.isinf().all()) == (divergence is entrywise_kl), (
        "the teacher has mass where the student may not"
    )
