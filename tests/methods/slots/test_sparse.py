"""Sparse targets: counted by hand, unbiased over many draws, and what a forward KL to them is."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from methods.errors import MethodError
from methods.slots.targets.sparse import DrawnIds, TopIdsAndLabel
from methods.slots.terms import Divergence, Window
from tests.methods.slots.three_sequences import COUNT, LAST, SIZE, last_alone, log_probs, three_sequences


def dense(target, size=SIZE):
    """(N, V) of a sparse distribution, in float64."""
    made = torch.zeros(len(target), size, dtype=torch.float64)
    return made.scatter_add_(-1, target.ids, target.log_probs.double().exp())


def test_what_is_drawn_adds_up_and_is_counted_once():
    rows, drawn = three_sequences(), DrawnIds(8, seed=2)
    target = drawn(rows)
    p = dense(target)
    torch.testing.assert_close(p.sum(-1), torch.ones(COUNT).double(), atol=1e-6, rtol=0)
    assert torch.equal((p * 8).round() / 8, p.round(decimals=9)) or torch.allclose(
        p * 8, (p * 8).round(), atol=1e-5
    )
    for ids, logs in zip(target.ids.tolist(), target.log_probs.tolist(), strict=True):
        known = [i for i, log in zip(ids, logs, strict=True) if log > -torch.inf]
        assert max(Counter(known).values()) == 1, "no id stands twice"
    assert (target.tail == -torch.inf).all(), "nothing is left outside"


def test_the_draws_are_those_of_the_teacher():
    """Mean over many stores: p, within four standard errors."""
    rows, rounds, stores = three_sequences(), 20, 1600
    mean = sum(dense(DrawnIds(rounds, seed=seed)(rows)) for seed in range(stores)) / stores
    p = log_probs(rows, 0).exp()
    error = (p * (1 - p) / (rounds * stores)).sqrt()
    assert ((mean - p).abs() < 4.5 * error + 1e-6).all()


def test_a_token_s_draws_are_the_same_at_each_visit_and_beside_whatever():
    rows = three_sequences()
    one, anew = DrawnIds(6, seed=1), DrawnIds(6, seed=1, anew=True)
    before, new_before = dense(one(rows)), dense(anew(rows))
    for drawn in (one, anew):
        drawn.begin_step(Window(0.5))
    assert torch.equal(dense(one(rows)), before) and not torch.equal(dense(anew(rows)), new_before)
    assert torch.equal(dense(one(last_alone(rows))), before[LAST])


def check_rest_on_label(made=TopIdsAndLabel):
    rows, k = three_sequences(), 3
    p = log_probs(rows, 0).exp()
    expected = torch.zeros_like(p)
    for n in range(COUNT):
        kept = sorted(range(SIZE), key=lambda i: -float(p[n, i]))[:k]
        for i in kept:
            expected[n, i] += p[n, i]
        expected[n, rows.labels[n]] += 1 - sum(p[n, i] for i in kept)
    torch.testing.assert_close(dense(made(k)(rows)), expected, atol=1e-6, rtol=0)


def test_what_is_left_lies_on_the_label():
    check_rest_on_label()


def test_the_count_by_hand_catches_a_rest_that_is_lost():
    class Lost(TopIdsAndLabel):
        def __call__(self, rows):
            target = super().__call__(rows)
            return replace(target, log_probs=target.log_probs[:, :-1], ids=target.ids[:, :-1])

    with pytest.raises(AssertionError):
        check_rest_on_label(Lost)


@pytest.mark.parametrize("target", [DrawnIds(6, seed=3), TopIdsAndLabel(2)])
def test_a_forward_kl_to_it_is_that_of_its_own_entries(target):
    rows = three_sequences()
    rows = replace(rows, hidden=rows.hidden.requires_grad_(), teachers=rows.teachers[:1])
    p = dense(target(rows))
    log_q = log_probs(rows, size=SIZE + 2)[:, :SIZE]
    expected = (torch.xlogy(p, p) - p * log_q).sum()
    total = Divergence("forward-kl", target=target).total(rows)
    torch.testing.assert_close(total, expected, atol=1e-5, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(value, rows.hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_none_drawn_and_none_kept_are_refused():
    for make in (lambda: DrawnIds(0), lambda: TopIdsAndLabel(0)):
        with pytest.raises(MethodError, match="at least one id"):
            make()
