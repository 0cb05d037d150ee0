"""Stores of drawn ids: exact to the count, the same after a kill, unbiased, and what they train is what was drawn."""

import numpy as np
import pytest
import torch

from methods.errors import MethodError
from methods.losses.fused.linear import head_of
from methods.teachers.codec import MOST_ROUNDS, CountCodec, Ragged
from methods.teachers.drawn import counted, draws, fill_drawn
from methods.teachers.store import TeacherStore
from methods.teachers.top_k import linear_top_k_divergence
from tests.methods.conftest import make_model
from tests.methods.teachers.test_teacher_store import batches_of


def dense(rows, size):
    made = torch.zeros(len(rows), size, dtype=torch.float64)
    return made.scatter_add_(-1, rows.ids, rows.log_probs.double().exp())


def teacher_at(teacher, batch):
    """(N, V) of the teacher at the completion tokens of a batch."""
    with torch.no_grad():
        z = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return z[batch["labels"][:, 1:] != -100].double().softmax(-1)


@pytest.mark.parametrize("rounds", [1, 50, MOST_ROUNDS])
def test_counts_come_back_exactly(rounds):
    source = np.random.default_rng(rounds)
    rows = [np.bincount(source.integers(0, 9, rounds), minlength=9) for _ in range(40)]
    ids = np.concatenate([np.flatnonzero(row) for row in rows])
    shares = np.concatenate([row[row > 0] / rounds for row in rows])
    told = Ragged(
        np.array([(row > 0).sum() for row in rows]), ids, np.log(shares), np.full(len(rows), -np.inf)
    )
    codec = CountCodec(9, rounds=rounds)
    back = codec.decode([codec.encode(told)])
    made = np.zeros((len(rows), 9))
    made[np.repeat(np.arange(len(rows)), back.counts), back.ids] = np.exp(back.log_probs) * rounds
    np.testing.assert_allclose(made, rows, atol=1e-9)
    assert np.isneginf(back.tail).all()


def test_draws_are_counted_once_each():
    drawn = torch.tensor([[3, 3, 1, 3], [2, 2, 2, 2], [0, 1, 2, 3]])
    ids, counts = counted(drawn)
    told = [
        {i: c for i, c in zip(row, count, strict=True) if c}
        for row, count in zip(ids.tolist(), counts.tolist(), strict=True)
    ]
    assert told == [{1: 1, 3: 3}, {2: 4}, {0: 1, 1: 1, 2: 1, 3: 1}]


def test_many_stores_have_the_teacher_as_their_mean(tmp_path, tokenizer):
    teacher, (batch,) = make_model(seed=1), batches_of(tokenizer)
    p, rounds, stores = teacher_at(teacher, batch), 40, 60
    total = 0
    for seed in range(stores):
        fill_drawn(tmp_path / str(seed), teacher, [batch], tokenizer=tokenizer, rounds=rounds, seed=seed)
        total = total + dense(TeacherStore(tmp_path / str(seed)).rows(batch), p.shape[1])
    error = (p * (1 - p) / (rounds * stores)).sqrt()
    assert ((total / stores - p).abs() < 5 * error + 1e-6).all()


def test_a_store_is_the_same_whatever_was_asked_before(tmp_path, tokenizer):
    teacher, batches = make_model(seed=1), batches_of(tokenizer, 1)
    (whole,) = batches_of(tokenizer)
    fill_drawn(tmp_path / "a", teacher, [whole], tokenizer=tokenizer, rounds=9)
    fill_drawn(tmp_path / "b", teacher, batches, tokenizer=tokenizer, rounds=9)
    one, other = (dense(TeacherStore(tmp_path / name).rows(whole), 30) for name in "ab")
    assert torch.equal(one, other)
    with pytest.raises(MethodError):
        fill_drawn(tmp_path / "a", teacher, [whole], tokenizer=tokenizer, rounds=9, seed=1)


def test_the_gradient_is_that_of_what_was_drawn(tmp_path, tokenizer):
    teacher, (batch,) = make_model(seed=1), batches_of(tokenizer)
    fill_drawn(tmp_path, teacher, [batch], tokenizer=tokenizer, rounds=30)
    rows = TeacherStore(tmp_path).rows(batch)
    student = make_model(seed=2)
    head, n = head_of(student), len(rows)
    hidden = torch.randn(n, head.weight.shape[1], generator=torch.Generator().manual_seed(0)).requires_grad_()
    t = dense(rows, len(head.weight)).float()
    log_q = (hidden @ head.weight.T).log_softmax(-1)
    expected = (torch.xlogy(t, t) - t * log_q).sum()
    total = linear_top_k_divergence(hidden, head, rows).total
    torch.testing.assert_close(total, expected, atol=1e-4, rtol=1e-5)
    ours, theirs = (torch.autograd.grad(value, hidden)[0] for value in (total, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rounds", [0, MOST_ROUNDS + 1])
def test_rounds_that_a_byte_cannot_tell_are_refused(rounds):
    with pytest.raises(MethodError, match="rounds are between 1 and 254"):
        CountCodec(30, rounds=rounds)


def test_a_draw_that_is_biased_would_be_seen():
    p = torch.tensor([[0.5, 0.3, 0.2]])
    drawn = draws(p, 30_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(drawn[0], minlength=3) / 30_000
    torch.testing.assert_close(shares, p[0], atol=0.01, rtol=0)
