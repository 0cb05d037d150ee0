"""GEM's loss against double loops in float64, the identity that its gradient has, and what the loops catch."""

import math

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.losses.fused.matching import MatchingObjective, linear_entropic_matching
from methods.registry import load
from methods.slots.terms import Divergence
from tests.methods.slots.three_sequences import normal, three_sequences

BETA = 0.6


def by_hand(z, labels, beta=BETA, growth="linear"):
    """Row by row and id by id; the weights are numbers, so that nothing goes through them."""
    total = []
    for row, label in zip(z, labels.tolist(), strict=True):
        log_q = row.log_softmax(-1)
        sharper = [math.exp(x / beta) for x in row.tolist()]
        parts = []
        for i in range(len(row)):
            g = (
                1.0
                if growth == "linear"
                else 1 / (1 + math.exp(-float((row[i] - row[label]).detach()) / 100))
            )
            parts.append(sharper[i] / sum(sharper) * g * (log_q[i] - log_q[label]))
        total.append(sum(parts))
    return torch.stack(total)


def drawn():
    """Hidden states, weight, bias with a gradient; labels and weights of rows."""
    hidden, weight, bias = (
        normal(*shape, seed=n).requires_grad_() for n, shape in enumerate([(8, 5), (7, 5), (7,)])
    )
    labels = torch.arange(8) % 7
    return hidden, weight, bias, labels, torch.linspace(0.2, 2, 8).double()


def check(growth, beta=BETA):
    hidden, weight, bias, labels, weights = drawn()
    mask = torch.arange(8) != 3
    found = linear_entropic_matching(
        hidden, Head(weight, bias, scale=1.5), labels, mask, weights=weights, growth=growth,
        controller_temperature=BETA, chunk_size=3,
    )  # fmt: skip
    rows = by_hand(1.5 * (hidden @ weight.T + bias), labels, beta, growth)
    expected = (rows * weights)[mask].sum()
    torch.testing.assert_close(found.values, rows.detach()[mask])
    torch.testing.assert_close(found.total, expected)
    ours, theirs = (torch.autograd.grad(x, [hidden, weight, bias]) for x in (found.total, expected))
    for mine, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, right)


@pytest.mark.parametrize("growth", ["linear", "log-sigmoid"])
def test_the_loss_id_by_id(growth):
    check(growth)


def test_the_loops_catch_another_temperature_and_a_gradient_through_the_weights(monkeypatch):
    with pytest.raises(AssertionError):
        check("linear", beta=0.7)
    right = MatchingObjective.block

    def attached(self, log_q, q, rows, within):
        """What the gradient would be if it went through r, too."""
        value, slope = right(self, log_q, q, rows, within)
        ids = self.ids[rows].unsqueeze(-1)
        r = (log_q / self.controller_temperature).softmax(-1)
        gap = log_q - log_q.gather(-1, ids)
        return value, slope + r * (gap - value.unsqueeze(-1)) / self.controller_temperature

    monkeypatch.setattr(MatchingObjective, "block", attached)
    with pytest.raises(AssertionError):
        check("linear")


def test_linear_growth_has_the_gradient_of_a_cross_entropy_at_that_temperature():
    rows = three_sequences()
    hidden = rows.hidden.clone().requires_grad_()
    rows = type(rows)(**{**rows.__dict__, "hidden": hidden})
    ours = Divergence(load("divergence", "entropic-matching"), settings={"controller_temperature": BETA})
    theirs = Divergence("cross-entropy", weight=BETA, temperature=BETA)
    one = torch.autograd.grad(ours.total(rows), hidden)[0]
    other = BETA * torch.autograd.grad(theirs.total(rows), hidden)[0]
    torch.testing.assert_close(one, other)
    at_one = Divergence(load("divergence", "entropic-matching"), settings={"controller_temperature": 1.0})
    plain = torch.autograd.grad(Divergence("cross-entropy").total(rows), hidden)[0]
    torch.testing.assert_close(torch.autograd.grad(at_one.total(rows), hidden)[0], plain)


def test_it_asks_for_no_teacher_and_names_wrong_settings():
    assert Divergence("entropic-matching").reads == "nothing"
    hidden, weight, _, labels, _ = drawn()
    for wrong, match in (({"growth": "square"}, "growth"), ({"controller_temperature": 0.0}, "emperature")):
        with pytest.raises(MethodError, match=match):
            linear_entropic_matching(hidden, Head(weight), labels, **wrong)
    masked = Head(weight, torch.tensor([0.0] * 6 + [-math.inf]).double())
    with pytest.raises(MethodError, match="masks ids"):
        linear_entropic_matching(hidden, masked, labels.clamp(max=5))
