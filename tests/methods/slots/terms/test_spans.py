"""Span consistency against the loop over neighbours, and what ends a span."""

import pytest
import torch

from methods.errors import MethodError
from methods.slots.rows import Rows
from methods.slots.terms import SpanConsistency
from tests.methods.conftest import make_model
from tests.methods.slots.terms.test_clipped import logits, some_rows
from tests.methods.trainers.test_distiller import trainer_of


@pytest.mark.parametrize("chunk", [None, 2])
def test_span_consistency_is_the_loop_over_neighbours(chunk):
    sequence = [0, 0, 0, 0, 1, 2, 2, 2]
    rows = some_rows(sequence)
    ends = [1, 6]
    got = SpanConsistency(ends, chunk_size=chunk).total(rows)
    got.backward()
    found, rows.hidden.grad = rows.hidden.grad.clone(), None
    q, p = logits(rows.hidden, rows.head).softmax(-1), logits(*rows.teachers[0]).softmax(-1)
    expected, pairs = 0.0, 0
    for i in range(len(sequence) - 1):
        if sequence[i] == sequence[i + 1] and int(rows.labels[i]) not in ends:
            expected = expected + ((p[i] * p[i + 1] - q[i] * q[i + 1]) ** 2).sum().sqrt()
            pairs += 1
    assert pairs == 3
    expected.backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(found, rows.hidden.grad)


def test_a_student_that_agrees_costs_nothing_and_has_no_nan():
    rows = some_rows([0, 0, 0], wider=0)
    same = Rows(
        rows.hidden, rows.head, ((rows.hidden.detach(), rows.head),), rows.labels, rows.source, rows.sequence,
        rows.position,
    )  # fmt: skip
    loss = SpanConsistency([]).total(same)
    loss.backward()
    assert loss.item() == 0 and rows.hidden.grad.isfinite().all()


def test_without_neighbours_there_is_a_zero_with_a_graph():
    rows = some_rows([0, 1, 2])
    loss = SpanConsistency([]).total(rows)
    loss.backward()
    assert loss.item() == 0 and (rows.hidden.grad == 0).all()


def test_what_ends_a_span_is_said_in_words(tmp_path, tokenizer):
    class WithStress:
        """The tokenizer with two letters in the place of others."""

        def get_vocab(self):
            return {"A1": 5, "B": 6, "C0": 7, "": 8}

    term = SpanConsistency("ends-in-digit")
    trainer = trainer_of(tmp_path, tokenizer, make_model(seed=0), make_model(seed=1), terms=[term])
    assert term.spans == [], "no letter is a digit"
    trainer.processing_class = WithStress()
    again = SpanConsistency("ends-in-digit")
    again.prepare(trainer)
    assert again.spans == [5, 7]
    with pytest.raises(MethodError, match="unknown spans 'phrases'"):
        SpanConsistency("phrases")
