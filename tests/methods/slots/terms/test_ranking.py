"""Choices one after the other, by loops in float64 and by all orders of a few ids."""

from dataclasses import replace
from itertools import permutations
from math import exp

import pytest
import torch
from torch.nn import functional

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.slots.terms import RankedChoices
from tests.methods.slots.three_sequences import SIZE, three_sequences


def rows_with_gradient(**changes):
    rows = three_sequences(**changes)
    return replace(rows, hidden=rows.hidden.requires_grad_())


def both_logits(rows):
    hidden, head = rows.teachers[0]
    return (rows.hidden @ rows.head.weight.T)[:, :SIZE], head.scale * (hidden @ head.weight.T + head.bias)


def by_hand(f, g, labels, weights="teacher", temperature=1.0):
    """Row by row, choice by choice, with lists of what is left."""
    total = torch.zeros((), dtype=torch.float64)
    for own, theirs, label in zip(f, g.tolist(), labels.tolist(), strict=True):
        order = [label, *sorted((i for i in range(SIZE) if i != label), key=lambda i: -theirs[i])]
        scale = sum(exp(value / temperature) for value in theirs)
        for k, chosen in enumerate(order):
            share = exp(theirs[chosen] / temperature) / scale if weights == "teacher" else 1 / SIZE
            left = sum(own[i].exp() for i in order[k:])
            total = total - share * (own[chosen] - left.log())
    return total


CASES = [("teacher", 1.0, None), ("teacher", 4.0, 2), ("teacher", 0.5, None), ("uniform", 1.0, 3)]


@pytest.mark.parametrize(("weights", "temperature", "chunk"), CASES)
def test_it_is_the_loop_over_choices(weights, temperature, chunk):
    rows = rows_with_gradient()
    f, g = both_logits(rows)
    expected = by_hand(f, g, rows.labels, weights, temperature)
    total = RankedChoices(weights, temperature=temperature, chunk_size=chunk).total(rows)
    torch.testing.assert_close(total, expected)
    ours, theirs = (torch.autograd.grad(value, rows.hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    "name", ["the-label-has-no-first-place", "what-is-chosen-stays", "the-least-liked-first"]
)
def test_the_loop_catches_what_is_wrong(name, monkeypatch):
    if name == "the-label-has-no-first-place":
        monkeypatch.setattr(torch, "inf", -1e9)
    elif name == "the-least-liked-first":
        sort = torch.Tensor.argsort
        monkeypatch.setattr(torch.Tensor, "argsort", lambda x, dim, descending, stable: sort(x, dim))
    else:
        monkeypatch.setattr(
            torch.Tensor, "logcumsumexp", lambda x, dim: x.logsumexp(dim, keepdim=True).expand_as(x)
        )
    with pytest.raises(AssertionError):
        test_it_is_the_loop_over_choices("teacher", 1.0, None)


def test_with_equal_shares_it_is_the_chance_of_the_whole_order():
    """Times the number of ids: minus the log of a Plackett-Luce probability, which sums to 1 over all orders."""
    logits = torch.tensor([0.3, -1.0, 0.9, 0.1], dtype=torch.float64)

    def chance(order):
        """Of an order of four ids, by a teacher that has it and a label that is its first."""
        likes = torch.zeros(1, 4, dtype=torch.float64)
        likes[0, list(order)] = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)
        eye = Head(torch.eye(4, dtype=torch.float64))
        rows = replace(
            three_sequences(),
            hidden=logits.unsqueeze(0),
            head=eye,
            teachers=((likes, eye),),
            labels=torch.tensor([order[0]]),
        )
        return float((-4 * RankedChoices("uniform").total(rows)).exp())

    chances = {order: chance(order) for order in permutations(range(4))}
    assert sum(chances.values()) == pytest.approx(1.0)
    first = sum(value for order, value in chances.items() if order[0] == 2)
    assert first == pytest.approx(float(logits.softmax(-1)[2]))


def test_a_teacher_that_is_sure_of_the_label_asks_for_cross_entropy():
    rows = rows_with_gradient()
    sure = torch.full((len(rows.labels), SIZE), -60.0, dtype=torch.float64)
    sure[torch.arange(len(sure)), rows.labels] = 0.0
    rows = replace(rows, teachers=((sure, Head(torch.eye(SIZE, dtype=torch.float64))),))
    f = (rows.hidden @ rows.head.weight.T)[:, :SIZE]
    torch.testing.assert_close(
        RankedChoices().total(rows), functional.cross_entropy(f, rows.labels, reduction="sum")
    )


def test_a_constant_added_to_all_logits_changes_nothing():
    rows = rows_with_gradient()
    moved = replace(rows, head=Head(rows.head.weight, torch.full((len(rows.head.weight),), 3.7).double()))
    torch.testing.assert_close(RankedChoices().total(moved), RankedChoices().total(rows))


def test_what_has_no_sense_is_refused():
    with pytest.raises(MethodError, match="choices weigh as 'position', none of teacher, uniform"):
        RankedChoices("position")
    with pytest.raises(MethodError, match="the temperature is 0, not positive"):
        RankedChoices(temperature=0)
    rows = three_sequences()
    hidden, head = rows.teachers[0]
    masked = Head(head.weight, head.bias.index_fill(0, torch.tensor([2]), -torch.inf), scale=head.scale)
    with pytest.raises(
        MethodError, match="ranked-choices cannot order the logits of a head whose bias masks"
    ):
        RankedChoices().total(replace(rows, teachers=((hidden, masked),)))
