"""Logits matched one by one, by hand in float64."""

from dataclasses import replace

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.entries import WEIGHTS, concrete_score
from methods.losses.fused.formulas import Block
from methods.losses.fused.kernels import Layout
from methods.slots.terms import LogitMatch
from tests.methods.slots.three_sequences import SIZE, three_sequences


def rows_with_gradient():
    rows = three_sequences()
    return replace(rows, hidden=rows.hidden.requires_grad_())


def both_logits(rows):
    hidden, head = rows.teachers[0]
    f = (rows.hidden @ rows.head.weight.T)[:, :SIZE]
    return f, head.scale * (hidden @ head.weight.T + head.bias)


def check(entries, term=LogitMatch):
    rows = rows_with_gradient()
    f, g = both_logits(rows)
    weights = {
        "uniform": torch.full_like(g, 1 / SIZE),
        "teacher": g.softmax(-1),
        "student": f.detach().softmax(-1),
    }
    expected = sum(
        weights[entries][n, i] * (f[n, i] - g[n, i]) ** 2 for n in range(len(f)) for i in range(SIZE)
    )
    total = term(entries).total(rows)
    torch.testing.assert_close(total, expected)
    ours, theirs = (torch.autograd.grad(value, rows.hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("entries", WEIGHTS)
def test_entry_by_entry(entries):
    check(entries)


@pytest.mark.parametrize("entries", WEIGHTS)
def test_a_few_rows_at_a_time(entries, monkeypatch):
    plan = Layout.plan
    monkeypatch.setattr(Layout, "plan", lambda *args: replace(plan(*args), chunk=2))
    check(entries)


def test_a_weight_that_moves_along_is_caught():
    class Moving(LogitMatch):
        def total(self, rows):
            f, g = both_logits(rows)
            return (f.softmax(-1) * (f - g.detach()) ** 2).sum()

    with pytest.raises(AssertionError):
        check("student", Moving)


def test_it_is_the_concrete_score_s_variance_and_the_mean_s_square():
    rows = three_sequences()
    f, g = both_logits(rows)
    log_q, log_p = f.log_softmax(-1), g.log_softmax(-1)
    made = Block(log_q.clone(), log_q.exp(), log_p.clone(), log_p.exp(), torch.empty_like(log_q))
    variance, _ = concrete_score(made, "teacher", "teacher")
    mean = (g.softmax(-1) * (f - g)).sum(-1)
    torch.testing.assert_close(LogitMatch("teacher").total(rows), (variance + mean**2).sum())


def test_ids_that_are_masked_are_refused():
    rows = three_sequences()
    hidden, head = rows.teachers[0]
    masked = replace(head, bias=head.bias.index_fill(0, torch.tensor([2]), -torch.inf))
    with pytest.raises(MethodError, match="whose bias masks ids"):
        LogitMatch().total(replace(rows, teachers=((hidden, masked),)))


def test_unknown_weights_are_refused():
    with pytest.raises(MethodError, match="none of student, teacher, uniform"):
        LogitMatch("pupil")
