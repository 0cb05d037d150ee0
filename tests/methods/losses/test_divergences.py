"""The divergences against a float64 oracle written apart from them, and the properties they must have."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES, jensen_shannon, skew_forward_kl, skew_reverse_kl

NAMES = sorted(DIVERGENCES)
INF = math.inf


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def kl(a, b):
    return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)


def adaptive(p, q):
    order = sorted(range(len(p)), key=lambda i: -p[i])
    head, mass = [], 0.0
    for i in order:
        if mass >= 0.5:
            break
        head.append(i)
        mass += p[i]
    gap = sum(abs(p[i] - q[i]) for i in range(len(p)))
    share = sum(abs(p[i] - q[i]) for i in head) / gap if gap else 0.5
    return share * kl(p, q) + (1 - share) * kl(q, p)


ORACLE = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2),
    "skew_forward_kl": lambda p, q: kl(p, 0.1 * p + 0.9 * q),
    "skew_reverse_kl": lambda p, q: kl(q, 0.9 * p + 0.1 * q),
    "total_variation": lambda p, q: np.abs(p - q).sum() / 2,
    "adaptive_kl": adaptive,
}


def logits(*shape, seed=0, scale=2.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale


def pair(*shape):
    return logits(*shape, seed=1), logits(*shape, seed=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_values_match_the_oracle(name, temperature):
    student, teacher = pair(3, 4, 11)
    values = DIVERGENCES[name](student, teacher, temperature=temperature)
    assert values.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            p, q = softmax(teacher[i, j].numpy() / temperature), softmax(student[i, j].numpy() / temperature)
            assert values[i, j].item() == pytest.approx(ORACLE[name](p, q), rel=1e-12, abs=1e-14)


def test_known_values():
    """p = (1/2, 1/2), q = (3/4, 1/4), by hand."""
    teacher, student = torch.tensor([0.0, 0.0]).double(), torch.tensor([math.log(3), 0.0]).double()
    value = {name: DIVERGENCES[name](student, teacher).item() for name in NAMES}
    assert value["forward_kl"] == pytest.approx(0.5 * math.log(4 / 3))
    assert value["reverse_kl"] == pytest.approx(0.75 * math.log(3) - math.log(2))
    assert value["total_variation"] == pytest.approx(0.25)
    jsd = 0.5 * (
        0.5 * math.log(4 / 5) + 0.5 * math.log(4 / 3) + 0.75 * math.log(6 / 5) + 0.25 * math.log(2 / 3)
    )
    assert value["jensen_shannon"] == pytest.approx(jsd)


@pytest.mark.parametrize("name", NAMES)
class TestProperties:
    def test_identity_is_zero_and_has_no_gradient(self, name):
        student = logits(4, 9).requires_grad_()
        values = DIVERGENCES[name](student, student.detach().clone())
        values.sum().backward()
        assert values.abs().max() < 1e-14 and student.grad.abs().max() < 1e-14

    def test_a_shift_of_the_logits_changes_nothing(self, name):
        student, teacher = pair(5, 9)
        moved = DIVERGENCES[name](student - 30, teacher + 20)
        torch.testing.assert_close(moved, DIVERGENCES[name](student, teacher))

    def test_renaming_the_tokens_changes_nothing(self, name):
        student, teacher = pair(5, 9)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
        renamed = DIVERGENCES[name](student[:, order], teacher[:, order])
        torch.testing.assert_close(renamed, DIVERGENCES[name](student, teacher))

    def test_rows_are_independent_so_masking_is_gathering(self, name):
        student, teacher = pair(6, 9)
        mask = torch.tensor([True, False, True, True, False, True])
        a, b = student.clone().requires_grad_(), student.clone().requires_grad_()
        (DIVERGENCES[name](a, teacher) * mask).sum().backward()
        DIVERGENCES[name](b[mask], teacher[mask]).sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
        assert not a.grad[~mask].any()

    def test_temperature_divides_the_logits(self, name):
        student, teacher = pair(5, 9)
        warm = DIVERGENCES[name](student, teacher, temperature=2.5)
        torch.testing.assert_close(warm, DIVERGENCES[name](student / 2.5, teacher / 2.5))
        squared = DIVERGENCES[name](student, teacher, temperature=2.5, temperature_squared=True)
        torch.testing.assert_close(squared, warm * 6.25)

    def test_unequal_vocabularies_are_cut_to_the_shared_ids(self, name):
        student, teacher = logits(4, 9, seed=1), logits(4, 13, seed=2)
        cut = DIVERGENCES[name](student, teacher[:, :9])
        torch.testing.assert_close(DIVERGENCES[name](student, teacher), cut)
        torch.testing.assert_close(
            DIVERGENCES[name](teacher, student), DIVERGENCES[name](teacher[:, :9], student)
        )
        fewer = DIVERGENCES[name](student, teacher, shared_vocabulary=5)
        torch.testing.assert_close(fewer, DIVERGENCES[name](student[:, :5], teacher[:, :5]))

    def test_half_precision_is_computed_in_fp32(self, name):
        student, teacher = (x.bfloat16() for x in pair(4, 300))
        values = DIVERGENCES[name](student, teacher)
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, DIVERGENCES[name](student.double(), teacher.double()).float())

    def test_ids_masked_in_both_are_as_if_absent(self, name):
        student, teacher = pair(4, 9)
        masked_student, masked_teacher = student.clone(), teacher.clone()
        masked_student[:, 2:4] = masked_teacher[:, 2:4] = -INF
        masked_student.requires_grad_()
        values = DIVERGENCES[name](masked_student, masked_teacher)
        values.sum().backward()
        kept = [0, 1, 4, 5, 6, 7, 8]
        torch.testing.assert_close(values, DIVERGENCES[name](student[:, kept], teacher[:, kept]))
        assert masked_student.grad.isfinite().all() and not masked_student.grad[:, 2:4].any()

    @pytest.mark.parametrize("only", ["student", "teacher", "different"])
    def test_ids_masked_in_one_never_give_nan(self, name, only):
        student, teacher = pair(4, 9)
        if only != "teacher":
            student[:, 2] = -INF
        if only != "student":
            teacher[:, 3] = -INF
        student.requires_grad_()
        teacher.requires_grad_()
        values = DIVERGENCES[name](student, teacher)
        values.sum().backward()
        infinite = {"forward_kl": only != "teacher", "reverse_kl": only != "student", "adaptive_kl": True}
        assert bool(values.isinf().all()) == infinite.get(name, False)
        assert not values.isnan().any()
        assert student.grad.isfinite().all() and teacher.grad.isfinite().all()

    def test_underflow_in_fp32_stays_finite(self, name):
        student = torch.tensor([[0.0, -150.0, -20.0]], requires_grad=True)
        teacher = torch.tensor([[-150.0, 0.0, -104.0]])
        value = DIVERGENCES[name](student, teacher)
        value.sum().backward()
        assert value.isfinite().all() and student.grad.isfinite().all()

    def test_bad_settings_raise_one_clear_error(self, name):
        student, teacher = pair(4, 9)
        with pytest.raises(MethodError, match="temperature"):
            DIVERGENCES[name](student, teacher, temperature=0.0)
        with pytest.raises(MethodError, match="shared_vocabulary"):
            DIVERGENCES[name](student, teacher, shared_vocabulary=10)
        with pytest.raises(MethodError, match="differ"):
            DIVERGENCES[name](student[:2], teacher)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "adaptive_kl"])
def test_gradient_matches_finite_differences(name):
    """Adaptive KL is apart: its weights are constants of the gradient, not of the value (below)."""
    student, teacher = pair(3, 7)
    assert torch.autograd.gradcheck(lambda s: DIVERGENCES[name](s, teacher), student.requires_grad_())


def test_skew_zero_is_kl_and_skew_one_is_nothing():
    student, teacher = pair(5, 9)
    torch.testing.assert_close(
        skew_forward_kl(student, teacher, skew=0.0), DIVERGENCES["forward_kl"](student, teacher)
    )
    torch.testing.assert_close(
        skew_reverse_kl(student, teacher, skew=0.0), DIVERGENCES["reverse_kl"](student, teacher)
    )
    assert skew_forward_kl(student, teacher, skew=1.0).abs().max() < 1e-14
    assert skew_reverse_kl(student, teacher, skew=1.0).abs().max() < 1e-14
    close = skew_forward_kl(student, teacher, skew=1e-9)
    torch.testing.assert_close(close, DIVERGENCES["forward_kl"](student, teacher), rtol=1e-6, atol=1e-8)


def test_generalized_jsd_vanishes_at_the_ends_and_tends_to_kl_after_division():
    student, teacher = pair(5, 9)
    for weight in (0.0, 1.0):
        assert jensen_shannon(student, teacher, teacher_weight=weight).abs().max() < 1e-14
    small = 1e-7
    forward = jensen_shannon(student, teacher, teacher_weight=small) / small
    torch.testing.assert_close(forward, DIVERGENCES["forward_kl"](student, teacher), rtol=1e-5, atol=1e-6)
    reverse = jensen_shannon(student, teacher, teacher_weight=1 - small) / small
    torch.testing.assert_close(reverse, DIVERGENCES["reverse_kl"](student, teacher), rtol=1e-5, atol=1e-6)


def test_generalized_jsd_weighs_the_teacher_as_gkd_does():
    """w KL(p || m) + (1 - w) KL(q || m), m = w p + (1 - w) q, at w = 0.9: not the mirror image."""
    student, teacher = pair(1, 9)
    p, q = softmax(teacher[0].numpy()), softmax(student[0].numpy())
    m = 0.9 * p + 0.1 * q
    expected = 0.9 * kl(p, m) + 0.1 * kl(q, m)
    assert jensen_shannon(student, teacher, teacher_weight=0.9).item() == pytest.approx(expected, rel=1e-12)


def test_adaptive_weights_are_constants_of_the_gradient():
    student, teacher = pair(1, 9)
    p, q = softmax(teacher[0].numpy()), softmax(student[0].numpy())
    forward, reverse = kl(p, q), kl(q, p)
    share = (adaptive(p, q) - reverse) / (forward - reverse)
    a, b = student.clone().requires_grad_(), student.clone().requires_grad_()
    DIVERGENCES["adaptive_kl"](a, teacher).sum().backward()
    mixed = share * DIVERGENCES["forward_kl"](b, teacher) + (1 - share) * DIVERGENCES["reverse_kl"](
        b, teacher
    )
    mixed.sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_adaptive_head_is_found_when_it_is_wider_than_the_first_guess():
    """A nearly flat teacher over 2,000 tokens: half of the mass needs about a thousand of them."""
    student, teacher = logits(1, 2000, seed=1, scale=0.1), logits(1, 2000, seed=2, scale=0.1)
    expected = adaptive(softmax(teacher[0].numpy()), softmax(student[0].numpy()))
    assert DIVERGENCES["adaptive_kl"](student, teacher).item() == pytest.approx(expected, rel=1e-10)


def test_settings_out_of_range_raise():
    student, teacher = pair(2, 5)
    for name, setting in [
        ("jensen_shannon", {"teacher_weight": 1.5}),
        ("skew_forward_kl", {"skew": -0.1}),
        ("adaptive_kl", {"head_mass": 2.0}),
    ]:
        with pytest.raises(MethodError, match="between 0 and 1"):
            DIVERGENCES[name](student, teacher, **setting)


ROWS = hnp.arrays(np.float64, (2, 6), elements=st.floats(-20, 20, allow_nan=False))


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_inequalities(rows):
    """Non-negative; JSD and TVD symmetric and bounded; Pinsker; skew KL below -ln(skew)."""
    student, teacher = torch.from_numpy(rows.copy())
    value = {name: DIVERGENCES[name](student, teacher).item() for name in NAMES}
    tiny = 1e-12
    assert min(value.values()) >= -tiny
    for name in ("jensen_shannon", "total_variation"):
        assert DIVERGENCES[name](teacher, student).item() == pytest.approx(value[name], abs=tiny)
    assert value["jensen_shannon"] <= math.log(2) + tiny and value["total_variation"] <= 1 + tiny
    assert value["total_variation"] <= math.sqrt(max(value["forward_kl"], 0) / 2) + 1e-7
    assert value["total_variation"] <= math.sqrt(max(value["reverse_kl"], 0) / 2) + 1e-7
    assert value["skew_forward_kl"] <= -math.log(0.1) and value["skew_reverse_kl"] <= -math.log(0.1)
    low, high = sorted((value["forward_kl"], value["reverse_kl"]))
    assert low - tiny <= value["adaptive_kl"] <= high + tiny
