"""Preferences by hand in float64: of two answers to a prompt, and of two tokens at a place."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.slots.rows import Rows
from methods.slots.term import Window
from methods.slots.terms import FirstChoices, Preference
from tests.methods.slots.three_sequences import COUNT, SIZE, normal, three_sequences

LENGTHS = (3, 5, 2, 1)  # two pairs


def two_pairs() -> Rows:
    count, ids = sum(LENGTHS), torch.zeros(4, 8, dtype=torch.long)
    labels, mask = torch.full((4, 8), -100), torch.zeros(4, 8, dtype=torch.long)
    said = torch.arange(count) % SIZE
    for place, own in enumerate(said.split(LENGTHS)):
        prompt = [5, 2] if place < 2 else [6, 3, 2]
        row = torch.tensor([*prompt, *own.tolist()])
        begin = 8 - len(row) if place == 1 else 0  # padded on the left
        ids[place, begin : begin + len(row)], mask[place, begin : begin + len(row)] = row, 1
        labels[place, begin + len(prompt) : begin + len(row)] = own
    return Rows(
        hidden=normal(count, 3, seed=1).requires_grad_(),
        head=Head(normal(SIZE + 2, 3, seed=2)),
        teachers=((normal(count, 4, seed=3), Head(normal(SIZE + 2, 4, seed=4), normal(SIZE + 2, seed=5))),),
        labels=said,
        source=torch.tensor([1, 2, 1, 2]).repeat_interleave(torch.tensor(LENGTHS)),
        sequence=torch.arange(4).repeat_interleave(torch.tensor(LENGTHS)),
        position=torch.cat([torch.arange(n) for n in LENGTHS]),
        batch={"input_ids": ids, "attention_mask": mask, "labels": labels},
    )


def log_prob(hidden, head, labels):
    z = hidden @ head.weight.T + (0 if head.bias is None else head.bias)
    return z.log_softmax(-1)[torch.arange(len(labels)), labels]


def by_hand(rows, beta, reference, per_token, form):
    said = log_prob(rows.hidden, rows.head, rows.labels)
    if reference is not None:
        said = said - log_prob(*rows.teachers[reference], rows.labels)
    r = [part.sum() / (len(part) if per_token else 1) for part in said.split(LENGTHS)]
    margins = (r[0] - r[1], r[2] - r[3])
    if form == "sigmoid":
        return sum((1 + (-beta * m).exp()).log() for m in margins)
    if form == "hinge":
        return sum((1 - beta * m).clamp(min=0) for m in margins)
    return sum((m - 1 / (2 * beta)) ** 2 for m in margins)


def check(term, **settings):
    rows = two_pairs()
    expected, total = by_hand(rows, **settings), term.total(rows)
    torch.testing.assert_close(total, expected)
    ours, theirs = (torch.autograd.grad(value, rows.hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("form", ["sigmoid", "square", "hinge"])
@pytest.mark.parametrize("per_token", [True, False])
@pytest.mark.parametrize("reference", [0, None])
def test_answer_by_answer(form, per_token, reference):
    settings = {"beta": 0.7, "reference": reference, "per_token": per_token, "form": form}
    check(Preference(**settings), **settings)


@pytest.mark.parametrize("mutation", ["swapped", "reference added"])
def test_mutations_are_caught(mutation, monkeypatch):
    settings = {"beta": 0.7, "reference": 0, "per_token": True, "form": "sigmoid"}
    term = Preference(**settings)
    cost = term.cost
    if mutation == "swapped":
        monkeypatch.setattr(term, "cost", lambda margins: cost(-margins))
    else:
        settings["reference"] = None
    with pytest.raises(AssertionError):
        check(term, **settings)


def test_two_pairs_are_counted_and_none_where_an_answer_is_empty():
    batch = dict(two_pairs().batch)
    assert Preference().count(batch) == 2
    batch["labels"] = batch["labels"].clone()
    batch["labels"][3] = -100
    batch["attention_mask"] = batch["attention_mask"].clone()
    batch["attention_mask"][3, 3:] = 0  # the prompt alone
    assert Preference().count(batch) == 1


def test_an_answer_without_its_partner_teaches_nothing():
    rows = two_pairs()
    some = rows.sequence < 3
    batch = {name: values[:3] for name, values in rows.batch.items()}
    three = replace(
        rows,
        hidden=rows.hidden[some],
        labels=rows.labels[some],
        sequence=rows.sequence[some],
        teachers=((rows.teachers[0][0][some], rows.teachers[0][1]),),
        batch=batch,
    )
    settings = {"beta": 0.7, "reference": 0, "per_token": True, "form": "sigmoid"}
    (gradient,) = torch.autograd.grad(Preference(**settings).total(three), rows.hidden)
    assert gradient[:8].any() and not gradient[8:].any()


@pytest.mark.parametrize("kept", [[[0, 2, 1, 3]], [[0, 1, 2], [3, 0]], [[0], [1], [2], [3]]])
def test_sequences_that_are_no_pairs_are_refused(kept):
    batches = [{name: values[own] for name, values in two_pairs().batch.items()} for own in kept]
    with pytest.raises(MethodError, match="with-student"):
        Preference().begin_step(Window(0.0, batches))


def test_one_answer_a_step_is_refused_where_every_step_has_one():
    batch = {name: values[:1] for name, values in two_pairs().batch.items()}
    for size, refused in ((1, True), (4, False)):
        trainer = SimpleNamespace(args=SimpleNamespace(per_device_train_batch_size=size))
        with pytest.raises(MethodError, match="even number") if refused else nullcontext():
            Preference().begin_step(Window(0.0, [batch], trainer=trainer))


@pytest.mark.parametrize("kept", [[[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0, 1, 2]], [[0]]])
def test_a_last_answer_may_stand_alone(kept):
    batches = [{name: values[own] for name, values in two_pairs().batch.items()} for own in kept]
    Preference().begin_step(Window(0.0, batches))


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("form", ["sigmoid", "square"])
def test_token_by_token(form, chunk_size):
    rows = three_sequences()
    states, head = rows.teachers[0]
    wanted = (states @ head.weight.T + head.bias).argmax(-1)
    towards = rows.head.weight[wanted] * (torch.arange(COUNT) % 2).unsqueeze(
        1
    )  # every second row agrees, or nearly
    rows = replace(rows, hidden=(rows.hidden / 9 + towards).requires_grad_())
    log_q = (rows.hidden @ rows.head.weight.T)[:, :SIZE].log_softmax(-1)
    log_p = (head.scale * (states @ head.weight.T + head.bias)).log_softmax(-1)
    expected, agree = torch.zeros((), dtype=torch.float64), 0
    for q, p in zip(log_q, log_p, strict=True):
        t, s = int(p.argmax()), int(q.argmax())
        margin = q[t] - q[s] - p[t] + p[s]
        assert margin <= 0
        agree += t == s
        expected = expected + (
            (1 + (-0.3 * margin).exp()).log() if form == "sigmoid" else (margin - 1 / 0.6) ** 2
        )
    assert 0 < agree < len(log_q)
    total = FirstChoices(0.3, form=form, chunk_size=chunk_size).total(rows)
    torch.testing.assert_close(total, expected)
    ours, theirs = (torch.autograd.grad(value, rows.hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("settings", [{"beta": 0}, {"beta": float("nan")}, {"form": "squares"}])
@pytest.mark.parametrize("term", [Preference, FirstChoices])
def test_settings_without_sense_are_refused(term, settings):
    with pytest.raises(MethodError):
        term(**settings)
