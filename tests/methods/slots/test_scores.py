"""Scores of each token against plain loops in float64."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.slots.scores import Entropy, EntropyGap, Gap, LogRatio, SoftOr, Surprisal, entropies
from methods.teachers.top_k import TopK
from tests.methods.slots.three_sequences import COUNT, SIZE, log_probs, parts, three_sequences


def entropy(log_p):
    return torch.tensor([-sum(math.exp(x) * x for x in row) for row in log_p.tolist()], dtype=torch.float64)


def kl(log_a, log_b):
    pairs = zip(log_a.tolist(), log_b.tolist(), strict=True)
    values = [sum(math.exp(a) * (a - b) for a, b in zip(*pair, strict=True)) for pair in pairs]
    return torch.tensor(values, dtype=torch.float64)


def same(got, expected):
    assert not got.requires_grad
    torch.testing.assert_close(got, expected.to(got), rtol=1e-9, atol=1e-12)


def test_entropies_and_what_lies_between_the_models():
    rows = three_sequences(hidden=three_sequences().hidden.requires_grad_())
    with torch.no_grad():
        q, p, second = log_probs(rows), log_probs(rows, 0), log_probs(rows, 1)
    same(Entropy()(rows), entropy(q))
    same(Entropy("teacher", normalised=True)(rows), entropy(p) / math.log(SIZE))
    same(Entropy("teacher", index=1)(rows), entropy(log_probs(rows, 1, SIZE + 1)))
    same(EntropyGap()(rows), entropy(q) - entropy(p))
    same(Gap()(rows), kl(q, p))
    same(Gap("forward-kl")(rows), kl(p, q))
    assert not torch.allclose(Gap(index=1)(rows), kl(q, second).to(q)), "that one shares an id more"


def test_the_log_ratio_is_of_the_label_over_each_model_s_own_head():
    rows = three_sequences()
    place = torch.arange(COUNT)
    own = log_probs(rows, size=SIZE + 2)[place, rows.labels]
    theirs = log_probs(rows, 0)[place, rows.labels]
    same(LogRatio()(rows), theirs - own)
    same(LogRatio(absolute=True)(rows), (theirs - own).abs())


def test_soft_or_is_high_where_either_is():
    rows = three_sequences()
    h, d = Entropy()(rows), Gap()(rows)
    scaled = [torch.cat([part / part.max() for part in parts(x)]) for x in (h, d)]
    expected = scaled[0] + scaled[1] - scaled[0] * scaled[1]
    same(SoftOr()(rows), expected)
    assert bool((expected >= torch.maximum(*scaled) - 1e-12).all() and (expected <= 1 + 1e-12).all())
    product = SoftOr("jensen-shannon", product=True, entropy_power=2.0, gap_power=0.5)(rows)
    same(product, h**2 * Gap("jensen-shannon")(rows) ** 0.5)


def test_certainty_is_no_nan():
    certain = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert entropies(certain).tolist() == [0.0]


def test_what_cannot_be_scored_is_refused():
    rows = three_sequences()
    with pytest.raises(MethodError, match="of is 'techer'"):
        Entropy("techer")
    with pytest.raises(MethodError, match="no teacher number 2"):
        Entropy("teacher", index=2)(rows)
    with pytest.raises(MethodError, match="unknown divergence"):
        Gap("klx")
    stored = TopK(torch.zeros(COUNT, 1).long(), torch.zeros(COUNT, 1), torch.zeros(COUNT), SIZE)
    with pytest.raises(MethodError, match="top-k teacher store"):
        Gap()(three_sequences(teachers=(stored,)))


def test_how_much_a_token_surprises_a_model():
    rows = three_sequences(hidden=three_sequences().hidden.requires_grad_())
    with torch.no_grad():
        for of, log_p in (("teacher", log_probs(rows, 0)), ("student", log_probs(rows, size=SIZE + 2))):
            expected = [-float(log_p[n, label]) for n, label in enumerate(rows.labels.tolist())]
            same(Surprisal(of)(rows), torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(MethodError, match="none of student, teacher"):
        Surprisal("pupil")
