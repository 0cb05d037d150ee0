"""Smoothed labels and an ensemble of predictions by hand, in float64; what is turned round is caught."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import TrainingArguments

from methods.classes.ensembled import EnsembledLabels
from methods.classes.trainer import ClassDistiller
from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.slots.rows import Rows
from tests.methods.classes.test_trainer import LABELS, TEXTS, change, model_of, rows_of
from tests.methods.conftest import letter_tokenizer

CLASSES = 3
GIVEN = {"smoothing": 0.2, "momentum": 0.6, "threshold": 0.5, "pull": 2.0, "ramp": 4, "least": 2}


def numbered():
    return rows_of(letter_tokenizer())


def term(**settings):
    made = EnsembledLabels(**{**GIVEN, **settings})
    made.prepare(SimpleNamespace(train_dataset=numbered()))
    return made


def looks(count=2):
    draws = torch.Generator().manual_seed(4)
    return [(2 * torch.randn(len(TEXTS), CLASSES, generator=draws)).double().softmax(1) for _ in range(count)]


def batch_of(numbers, seed=0):
    draws = torch.Generator().manual_seed(seed)
    hidden = torch.randn(len(numbers), 5, generator=draws, dtype=torch.float64, requires_grad=True)
    head = Head(
        torch.randn(CLASSES, 5, generator=draws).double(), torch.randn(CLASSES, generator=draws).double()
    )
    place = torch.arange(len(numbers))
    labels = torch.tensor([LABELS[n] for n in numbers])
    batch = {"row": torch.tensor(numbers)}
    return Rows(
        hidden, head, (), labels, torch.zeros_like(place), place, torch.zeros_like(place), batch=batch
    )


def by_hand(seen, numbers, rows, *, smoothing, momentum, threshold, pull, ramp, least):
    """The loss, one text after the other, and who is trusted."""
    mean = [[0.0] * CLASSES for _ in TEXTS]
    for shares in seen:
        for number, own in enumerate(mean):
            mean[number] = [
                momentum * m + (1 - momentum) * float(p) for m, p in zip(own, shares[number], strict=True)
            ]
    scale = 1 - momentum ** len(seen)
    mean = [[m / scale for m in own] for own in mean] if seen else None
    trusted = [True] * len(TEXTS)
    if mean:
        trusted = [
            max(own) > threshold and own.index(max(own)) == y for own, y in zip(mean, LABELS, strict=True)
        ]
        for name in range(CLASSES):
            there = [n for n, y in enumerate(LABELS) if y == name]
            if sum(trusted[n] for n in there) < least:
                middle = sorted(mean[n][name] for n in there)[(len(there) - 1) // 2]
                for n in there:
                    trusted[n] = trusted[n] or mean[n][name] > middle
    total = 0.0
    for place, number in enumerate(numbers):
        logits = [float(x) for x in rows.head.weight @ rows.hidden[place].detach() + rows.head.bias]
        norm = math.log(sum(math.exp(x) for x in logits))
        logs = [x - norm for x in logits]
        wanted = [(1 - smoothing) * (k == LABELS[number]) + smoothing / CLASSES for k in range(CLASSES)]
        loss = -sum(w * q for w, q in zip(wanted, logs, strict=True))
        if mean:
            risen = 1.0 if len(seen) >= ramp else math.exp(-5 * (1 - len(seen) / ramp) ** 2)
            loss += pull * risen * sum(m * (math.log(m) - q) for m, q in zip(mean[number], logs, strict=True))
        total += loss * trusted[number]
    return total, trusted


def check(made, seen, given=GIVEN):
    numbers = [5, 0, 3, 1, 7, 2]
    rows = batch_of(numbers)
    for shares in seen:
        made.look(shares)
    want, trusted = by_hand(seen, numbers, rows, **given)
    assert made.trusted().tolist() == trusted
    assert float(made.total(rows)) == pytest.approx(want, rel=1e-9)
    return trusted


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_loss_and_who_is_trusted_are_those_by_hand(count):
    trusted = check(term(), looks(count))
    assert all(trusted) == (count == 0)


def test_too_few_of_a_class_are_made_up_for_by_the_surer_half():
    given = {**GIVEN, "threshold": 0.999, "least": 3}
    trusted = check(term(threshold=0.999, least=3), looks(), given)
    assert 0 < sum(trusted) < len(TEXTS)


@pytest.mark.parametrize(
    "wrong",
    [
        {"momentum": 0.4},
        {"smoothing": 0.0},
        {"pull": 0.0},
        {"threshold": 0.9},
        {"ramp": 2},
    ],
)
def test_another_number_is_caught(wrong):
    with pytest.raises(AssertionError):
        check(term(**wrong), looks())


def test_a_mean_that_is_not_scaled_up_is_caught(monkeypatch):
    monkeypatch.setattr(EnsembledLabels, "mean", property(lambda self: self._sum))
    with pytest.raises(AssertionError):
        check(term(), looks(1))


def test_a_trainer_looks_at_all_texts_as_often_as_it_is_said(tmp_path):
    seen = []

    class Watched(EnsembledLabels):
        def look(self, shares):
            seen.append(shares)
            super().look(shares)

    student = model_of(seed=1)
    trainer = trained_on(tmp_path, student, Watched(every=2, least=0), steps=5)
    assert [tuple(one.shape) for one in seen] == [(8, 3)] * 2 and trainer.terms[0].looks == 2
    torch.testing.assert_close(seen[0].sum(1), torch.ones(8))
    again = EnsembledLabels(every=2)
    again.restore(trainer.terms[0].state())
    torch.testing.assert_close(again.mean, trainer.terms[0].mean)
    after = trainer.accelerator.unwrap_model(trainer.model)
    assert any(float(delta.abs().max()) > 0 for delta in change(student, after).values())


def trained_on(tmp_path, student, made, steps, batch=4, accumulate=1):
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=steps, per_device_train_batch_size=batch, learning_rate=0.1,
        gradient_accumulation_steps=accumulate, optim="sgd", max_grad_norm=0.0, lr_scheduler_type="constant",
        report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True, logging_strategy="no", seed=3,
    )  # fmt: skip
    trainer = ClassDistiller(
        copy.deepcopy(student),
        terms=[made],
        args=args,
        train_dataset=numbered(),
        processing_class=letter_tokenizer(),
    )
    trainer.train()
    return trainer


def test_micro_batches_do_not_matter(tmp_path):
    student, made = model_of(seed=1), []
    for batch, accumulate in ((8, 1), (4, 2), (2, 4)):
        term = EnsembledLabels(every=1, least=0, threshold=0.4, ramp=2)
        trainer = trained_on(tmp_path, student, term, 2, batch, accumulate)
        made.append(change(student, trainer.accelerator.unwrap_model(trainer.model)))
    for other in made[1:]:
        for name, delta in made[0].items():
            torch.testing.assert_close(other[name], delta, atol=1e-6, rtol=1e-4)


def test_what_has_no_labels_of_texts_is_refused(tmp_path):
    with pytest.raises(MethodError, match="texts with a label each"):
        EnsembledLabels().prepare(SimpleNamespace(train_dataset=rows_of(letter_tokenizer(), tokens=True)))
    with pytest.raises(MethodError, match='"momentum" below 1'):
        EnsembledLabels(momentum=1.0)
