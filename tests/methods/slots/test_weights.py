"""Skews of a row and the detached mixture of DistiLLM-2 against float64 formulas on full logits."""

import pytest
import torch

from methods.errors import MethodError
from methods.losses.divergences import DIVERGENCES
from methods.losses.fused.formulas import detached_skew_reverse_kl
from methods.losses.fused.linear import Head, linear_divergence
from methods.slots.rows import Rows
from methods.slots.terms import Divergence, Window
from methods.slots.weights import AdaptiveSkew, student_share, teacher_share
from tests.methods.conftest import make_model
from tests.methods.trainers.test_distiller import a_batch, logits_and_labels, trainer_of


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", ["skew_forward_kl", "skew_reverse_kl"])
def test_each_row_may_have_its_own_skew(name):
    hidden, weight = normal(9, 6, seed=1).requires_grad_(), normal(13, 6, seed=2).requires_grad_()
    theirs, head = normal(9, 4, seed=3), Head(normal(13, 4, seed=4))
    skew = torch.linspace(0.01, 0.9, 9, dtype=torch.float64)
    mask = torch.tensor([True, False, True, True, False, True, True, True, True])
    weights = torch.arange(1.0, 10.0, dtype=torch.float64)
    got = linear_divergence(
        hidden, Head(weight), theirs, head, mask, divergence=name, skew=skew, weights=weights, chunk_size=2
    )
    got.total.backward()
    found = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    z, t = hidden @ weight.T, theirs @ head.weight.T
    rows = torch.stack([DIVERGENCES[name](z[i], t[i], skew=float(skew[i])) for i in range(9)])
    (rows * weights * mask).sum().backward()
    torch.testing.assert_close(got.values, rows[mask].detach())
    torch.testing.assert_close(found[0], hidden.grad)
    torch.testing.assert_close(found[1], weight.grad)


def test_a_setting_by_row_has_to_fit_the_rows():
    hidden, head = normal(3, 6), Head(normal(5, 6))
    with pytest.raises(MethodError, match="skew"):
        linear_divergence(hidden, head, hidden, head, divergence="skew_forward_kl", skew=torch.zeros(2))


@pytest.mark.parametrize("skew", [0.1, torch.linspace(0.01, 0.5, 7, dtype=torch.float64)])
def test_the_detached_mixture_has_the_value_of_the_skewed_kl_and_the_gradient_of_a_constant(skew):
    z, t = normal(7, 11, seed=1).requires_grad_(), normal(7, 11, seed=2)
    eye = Head(torch.eye(11, dtype=torch.float64))
    got = linear_divergence(z, eye, t, eye, divergence=detached_skew_reverse_kl, skew=skew)
    got.total.backward()
    found, z.grad = z.grad.clone(), None
    q, p = z.softmax(-1), t.softmax(-1)
    s = skew.unsqueeze(-1) if isinstance(skew, torch.Tensor) else skew
    expected = (q * (q.log() - ((1 - s) * p + s * q.detach()).log())).sum(-1)
    expected.sum().backward()
    torch.testing.assert_close(got.values, expected.detach())
    torch.testing.assert_close(found, z.grad)
    z.grad = None
    attached = linear_divergence(z, eye, t, eye, divergence="skew_reverse_kl", skew=skew)
    attached.total.backward()
    torch.testing.assert_close(attached.values, got.values)
    assert (found - z.grad).abs().max() > 1e-3


def rows_of(z, t, labels, sequence):
    """Rows whose logits are `z` and `t` themselves."""
    eye = Head(torch.eye(z.shape[-1], dtype=z.dtype))
    return Rows(z, eye, ((t, eye),), labels, torch.zeros_like(sequence), sequence, sequence)


def test_the_skew_of_a_sequence_follows_its_gap():
    z, t = normal(8, 5, seed=1).requires_grad_(), 2 * normal(8, 5, seed=2)
    labels = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    sequence = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])
    mask = sequence != 2
    # Labels that the teacher prefers, so that gaps are positive; in sequence 1 the models agree nearly.
    labels = t.argmax(-1)
    t[2:5] = z[2:5].detach() + 0.2 * torch.nn.functional.one_hot(labels[2:5], 5)
    rows = rows_of(z, t, labels, sequence)
    gaps = []
    for s in range(4):
        one = sequence == s
        p, q = (x.detach()[one].log_softmax(-1).gather(1, labels[one, None]).mean().exp() for x in (t, z))
        gaps.append(float(p - q))
    kept = [gaps[0], gaps[1], gaps[3]]
    skews = AdaptiveSkew("teacher", base=0.3, floor=0.02, anchor_steps=1)
    skews.begin_step(Window(0.0, sum_over_ranks=lambda total: total))
    assert skews(rows, mask)["skew"].unique().tolist() == [0.3]  # no anchor yet
    skews.begin_step(Window(0.0, sum_over_ranks=lambda total: total))
    assert skews.anchor == pytest.approx(sum(kept) / 3)
    expected = [min(0.3, max(0.02, 1 - 0.7 * skews.anchor / g)) if g > 0 else 0.3 for g in gaps]
    found = skews(rows, mask)["skew"]
    for s in (0, 1, 3):
        assert found[sequence == s].tolist() == pytest.approx([expected[s]] * int((sequence == s).sum()))
    assert len({round(expected[s], 6) for s in (0, 1, 3)}) > 1 and min(expected) == 0.02
    # On the student's side the models change places; with these the gaps are negative: nothing to sharpen.
    other = AdaptiveSkew("student", base=0.3, floor=0.02, anchor_steps=1)
    other.anchor = skews.anchor
    torch.testing.assert_close(
        other(rows_of(t, z.detach(), labels, sequence), mask)["skew"][mask], found[mask]
    )
    negative = other(rows, mask)["skew"]
    assert all(negative[sequence == s].tolist() == pytest.approx([0.3] * 2) for s in (0, 3))


def test_the_anchor_is_the_mean_over_ranks_and_evaluations_do_not_count():
    z, t = normal(4, 5, seed=1), normal(4, 5, seed=2)
    rows = rows_of(z, t, t.argmax(-1), torch.tensor([0, 0, 1, 1]))
    skews = AdaptiveSkew("teacher", anchor_steps=2)
    skews.begin_step(Window(0.0, sum_over_ranks=lambda total: total))
    skews(rows, None)  # no gradient: an evaluation
    trained = rows_of(z.clone().requires_grad_(), t, t.argmax(-1), torch.tensor([0, 0, 1, 1]))
    skews(trained, None)
    skews.begin_step(Window(0.0, sum_over_ranks=pytest.fail))  # the second step: not yet
    skews(trained, None)
    gap = float(skews._sums[0]) / 4
    assert float(skews._sums[1]) == 4
    skews.begin_step(
        Window(0.0, sum_over_ranks=lambda total: total + torch.tensor([6.0, 4.0]))
    )  # another rank's four sequences
    assert skews.anchor == pytest.approx((4 * gap + 6.0) / 8)


def test_wrong_settings_are_refused():
    with pytest.raises(MethodError, match="unknown side"):
        AdaptiveSkew("teachr")
    with pytest.raises(MethodError, match="floor <= base"):
        AdaptiveSkew("teacher", base=0.1, floor=0.2)


def test_the_shares_of_both_sides_move_in_the_first_half():
    assert [student_share(x) for x in (0.0, 0.25, 0.5, 0.9)] == [1.0, 1.25, 1.5, 1.5]
    assert all(teacher_share(x) + student_share(x) == 2 for x in (0.0, 0.2, 0.7))


def test_the_trainer_computes_the_contrastive_loss(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1, width=24).double()
    batch = a_batch(tokenizer, ("teacher", "student", "teacher", "student"))
    skews = AdaptiveSkew("teacher", base=0.4, floor=0.01, anchor_steps=1)
    skews.anchor = 0.02
    terms = [
        Divergence("skew_forward_kl", weight=teacher_share, sources=("teacher",), row_settings=skews),
        Divergence(
            detached_skew_reverse_kl, weight=student_share, settings={"skew": 0.2}, sources=("student",)
        ),
    ]
    trainer = trainer_of(tmp_path, tokenizer, student, teacher, terms=terms)
    loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(10))
    loss.backward()
    got = {name: p.grad.clone() for name, p in student.named_parameters()}
    student.zero_grad()

    z, labels, keep = logits_and_labels(student, batch)
    t = logits_and_labels(teacher, batch)[0].detach()
    row = torch.arange(4).unsqueeze(1).expand_as(keep)[keep]
    total = 0.0
    for i in range(4):
        one = row == i
        if i % 2:
            q, p = z[one].softmax(-1), t[one].softmax(-1)
            total = total + (q * (q.log() - (0.8 * p + 0.2 * q.detach()).log())).sum()
            continue
        p_y, q_y = (x[one].log_softmax(-1).gather(1, labels[one, None]).mean().exp() for x in (t, z))
        gap = float((p_y - q_y).detach())
        skew = min(0.4, max(0.01, 1 - 0.6 * 0.02 / gap)) if gap > 0 else 0.4
        total = total + DIVERGENCES["skew_forward_kl"](z[one], t[one], skew=skew).sum()
    expected = total / 10
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, p in student.named_parameters():
        torch.testing.assert_close(got[name], p.grad, rtol=1e-7, atol=1e-10)
