"""The clipped KL against loops in plain Python, float64 formulas on full logits, and its limits."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.losses.divergences import forward_kl
from methods.losses.fused.linear import Head
from methods.slots.rows import Rows
from methods.slots.terms import ClippedKL, FixedBand, LearnedBand, NextToken, SpanConsistency
from methods.slots.terms.clipped import clip_to_band
from tests.methods.conftest import make_model
from tests.methods.trainers.test_distiller import a_batch, logits_and_labels, trainer_of


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def clipped_by_hand(p, lower, upper, sharpness):
    """The clipped distribution of one row as a list, from its definition."""
    top, kept = max(p), []
    for one in p:
        level = sum(other for other in p if other < one) + one / 2
        inside = sigmoid(sharpness * (level - lower)) * sigmoid(sharpness * (upper - level))
        kept.append(one * (1.0 if one == top else inside))
    return [one / sum(kept) for one in kept]


# Clipping.


@pytest.mark.parametrize("sharpness", [3.0, 20.0])
def test_clipping_is_its_definition(sharpness):
    log_p = (2 * normal(6, 9)).log_softmax(-1)
    lower, upper = torch.rand(2, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = clip_to_band(log_p, lower, upper, sharpness=sharpness).exp()
    for row, p in enumerate(log_p.exp().tolist()):
        expected = clipped_by_hand(p, float(lower[row]), float(upper[row]), sharpness)
        torch.testing.assert_close(got[row], torch.tensor(expected, dtype=torch.float64))


def test_a_hard_band_keeps_whole_tokens_and_the_likeliest():
    p = torch.tensor([0.05, 0.4, 0.1, 0.2, 0.25], dtype=torch.float64)
    # levels: 0.025, 0.8, 0.1, 0.25, 0.475
    got = clip_to_band(p.log(), torch.tensor(0.08).double(), torch.tensor(0.3).double(), sharpness=1e5).exp()
    expected = torch.tensor([0, 0.4, 0.1, 0.2, 0], dtype=torch.float64) / 0.7
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)


def test_a_wide_band_is_the_teacher_and_an_empty_one_its_likeliest_token():
    log_p, z = (3 * normal(5, 8)).log_softmax(-1), normal(5, 8, seed=1)
    zero, one = torch.zeros(5).double(), torch.ones(5).double()
    wide = clip_to_band(log_p, zero, one, sharpness=1e9)
    torch.testing.assert_close(wide, log_p)
    empty = clip_to_band(log_p, one, zero, sharpness=1e9)
    expected = -z.log_softmax(-1).gather(-1, log_p.argmax(-1, keepdim=True)).squeeze(-1)
    torch.testing.assert_close(forward_kl(z, empty), expected)


def test_masked_tokens_stay_out_and_make_no_nan():
    z, t = normal(3, 7, seed=1).requires_grad_(), normal(3, 7, seed=2)
    t[:, 2] = -math.inf
    with torch.no_grad():
        z[:, 2] = -math.inf
    lower = torch.full((3,), 0.2, dtype=torch.float64, requires_grad=True)
    clipped = clip_to_band(t.log_softmax(-1), lower, lower + 0.5)
    assert (clipped[:, 2] == -math.inf).all()
    loss = forward_kl(z, clipped).sum()
    loss.backward()
    assert loss.isfinite() and lower.grad.isfinite().all() and z.grad.isfinite().all()


def test_the_gradients_are_those_of_finite_differences():
    t = (2 * normal(4, 6, seed=3)).log_softmax(-1)
    z, lower, upper = normal(4, 6, seed=4), torch.full((4,), 0.2).double(), torch.full((4,), 0.7).double()
    for x in (z, lower, upper):
        x.requires_grad_()
    assert torch.autograd.gradcheck(lambda z, a, b: forward_kl(z, clip_to_band(t, a, b)), (z, lower, upper))


def test_a_learned_band_starts_where_it_is_told_and_reads_the_teacher():
    band = LearnedBand(6, lower=0.1, upper=0.8)
    p = torch.tensor([[0.5, 0.1, 0.1, 0.1, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0, 0.3, 0.7]])
    assert [x.tolist() for x in band(p)] == [pytest.approx([0.1, 0.1]), pytest.approx([0.8, 0.8])]
    torch.nn.init.ones_(band.outer.weight)
    lower, upper = band(p)
    assert lower[0] != lower[1] and upper[0] != upper[1]
    with pytest.raises(MethodError, match="6 ids"):
        band(torch.ones(2, 5))
    with pytest.raises(MethodError, match="inside"):
        LearnedBand(6, upper=1.0)


def some_rows(sequence, *, size=7, wider=2, seed=0):
    """Rows whose teacher has more ids than the student."""
    n = len(sequence)
    hidden = normal(n, 5, seed=seed).requires_grad_()
    head = Head(normal(size, 5, seed=seed + 1).requires_grad_(), normal(size, seed=seed + 2))
    teacher = (
        normal(n, 4, seed=seed + 3),
        Head(normal(size + wider, 4, seed=seed + 4), normal(size + wider, seed=seed + 5)),
    )
    labels = torch.arange(n) % size
    sequence = torch.tensor(sequence)
    return Rows(hidden, head, (teacher,), labels, torch.zeros(n).long(), sequence, sequence)


def logits(hidden, head, size=7):
    return (hidden @ head.weight.T + head.bias)[:, :size]


@pytest.mark.parametrize("chunk", [None, 2])
def test_clipped_kl_is_the_formula_through_both_heads(chunk):
    rows = some_rows([0, 0, 1, 1, 1])
    band = LearnedBand(7, width=3, lower=0.3, upper=0.6, seed=1).double()
    torch.nn.init.normal_(band.outer.weight, generator=torch.Generator().manual_seed(2))
    trained = {"hidden": rows.hidden, "head": rows.head.weight, **dict(band.named_parameters())}
    got = ClippedKL(band, sharpness=8.0, chunk_size=chunk).total(rows)
    got.backward()
    found = {name: p.grad.clone() for name, p in trained.items()}
    for p in trained.values():
        p.grad = None
    p = logits(*rows.teachers[0]).softmax(-1)
    h = (p @ band.inner.weight.T + band.inner.bias).clamp(min=0)
    low, high = (1 / (1 + (-(h @ band.outer.weight.T + band.outer.bias)).exp())).unbind(-1)
    level = torch.stack([(p * (p < p[:, v : v + 1])).sum(-1) + p[:, v] / 2 for v in range(7)], -1)
    mask = ((level - low[:, None]) * 8).sigmoid() * ((high[:, None] - level) * 8).sigmoid()
    mask = torch.where(p == p.amax(-1, keepdim=True), 1, mask)
    clipped = mask * p / (mask * p).sum(-1, keepdim=True)
    q = logits(rows.hidden, rows.head).softmax(-1)
    expected = (clipped * (clipped / q).log()).sum()
    expected.backward()
    torch.testing.assert_close(got, expected)
    for name, parameter in trained.items():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_clipped_kl_with_a_wide_fixed_band_is_the_forward_kl():
    rows = some_rows([0, 0, 0])
    got = ClippedKL([0.0, 1.0], sharpness=1e9).total(rows)
    expected = forward_kl(logits(rows.hidden, rows.head), logits(*rows.teachers[0])).sum()
    torch.testing.assert_close(got, expected)
    with pytest.raises(MethodError, match="upper"):
        FixedBand(0.0, 1.5)
    with pytest.raises(MethodError, match="a band is"):
        ClippedKL("learnt")


def test_a_learned_band_is_made_for_the_trainer_s_models_from_its_seed(tmp_path, tokenizer):
    term = ClippedKL(start=[0.2, 0.7])
    student, teacher = make_model(seed=0), make_model(seed=1, vocabulary=33)
    trainer_of(tmp_path, tokenizer, student, teacher, terms=[term])
    assert isinstance(term.band, LearnedBand) and term.band.inner.in_features == 29
    assert torch.equal(term.band.inner.weight, LearnedBand(29, seed=3).inner.weight)
    torch.testing.assert_close(term.band.outer.bias.detach().sigmoid(), torch.tensor([0.2, 0.7]))


# All together in the trainer.


def test_it_adds_to_other_terms_and_learns_with_the_student(tmp_path, tokenizer):
    student, teacher = make_model(seed=0).double(), make_model(seed=1).double()
    band = LearnedBand(29, lower=0.3, upper=0.7).double()
    trainer = trainer_of(
        tmp_path, tokenizer, student, teacher,
        terms=[NextToken(), ClippedKL(band), SpanConsistency([3, 7], weight=2.0)],
    )  # fmt: skip
    batch = a_batch(tokenizer)
    loss = trainer.compute_loss(student, batch, num_items_in_batch=torch.tensor(10))
    z, labels, keep = logits_and_labels(student, batch)
    t = logits_and_labels(teacher, batch)[0].detach()
    n = torch.full((len(z),), 1.0).double()
    row = torch.arange(len(keep)).unsqueeze(1).expand_as(keep)[keep]
    q, p = z.softmax(-1), t.softmax(-1)
    spans = sum(
        (p[i] * p[i + 1] - q[i] * q[i + 1]).norm()
        for i in range(len(z) - 1)
        if row[i] == row[i + 1] and int(labels[i]) not in (3, 7)
    )
    clipped = clip_to_band(t.log_softmax(-1), 0.3 * n, 0.7 * n)
    expected = torch.nn.functional.cross_entropy(z, labels, reduction="sum") + forward_kl(z, clipped).sum()
    assert loss.item() == pytest.approx((expected + 2 * spans).item() / 10, rel=1e-6)

    names, was = set(student.state_dict()), band.outer.bias.detach().clone()
    trainer.train()
    assert set(student.state_dict()) == names, "the student leaves without them"
    assert not torch.equal(band.outer.bias, was), "the optimizer had the band"
