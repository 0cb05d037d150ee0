"""The labels' cross entropy over tokens and over sequences, against loops on full log-probabilities in float64."""

import pytest
import torch

from methods.errors import MethodError
from methods.slots.rows import count_sequences
from methods.slots.samplers import SOURCES
from methods.slots.terms import NextToken
from methods.slots.terms import divergence as module
from tests.methods.slots.three_sequences import LENGTHS, log_probs, three_sequences


def expected(rows, over, sources=()):
    """What the whole batch's loss is: the total over the term's count."""
    wanted = [SOURCES.index(name) for name in sources] or [0, 1, 2]
    logp = log_probs(rows, size=len(rows.head.weight))
    lost = [-float(logp[n, label]) for n, label in enumerate(rows.labels.tolist())]
    kept = [source in wanted for source in rows.source.tolist()]
    if over == "tokens":
        return sum(one for one, keep in zip(lost, kept, strict=True) if keep) / len(lost)
    begun, means = 0, []
    for length in LENGTHS:
        here = range(begun, begun + length)
        means.append(sum(lost[n] for n in here) / length if kept[begun] else 0.0)
        begun += length
    return sum(means) / len(means)


def loss(rows, term):
    count = term.count(rows.batch)
    return float(term.total(rows)) / (len(rows.labels) if count is None else int(count))


@pytest.mark.parametrize("over", ["tokens", "sequences"])
@pytest.mark.parametrize("sources", [(), ("data",), ("teacher", "student")])
def test_each_sequence_or_each_token_weighs_the_same(over, sources):
    rows = three_sequences()
    found = loss(rows, NextToken(over=over, sources=sources))
    assert found == pytest.approx(expected(rows, over, sources), rel=1e-9)


def test_a_long_sequence_weighs_no_more_than_a_short_one(monkeypatch):
    """The oracle would notice a mean over tokens in disguise."""
    rows = three_sequences()
    term = NextToken(over="sequences")
    monkeypatch.setattr(
        module, "sequence_lengths", lambda rows: torch.full((3,), len(rows.labels) / 3, dtype=torch.float64)
    )
    assert loss(rows, term) != pytest.approx(expected(rows, "sequences"), rel=1e-3)
    assert loss(rows, term) == pytest.approx(expected(rows, "tokens"), rel=1e-9)


def test_sequences_without_a_completion_are_not_counted():
    labels = torch.tensor([[5, -100, -100], [-100, 1, -100], [-100, 1, 2]])
    assert int(count_sequences({"labels": labels})) == 2, (
        "a label at the very beginning is predicted by nothing"
    )


def test_another_word_is_refused():
    with pytest.raises(MethodError, match='"over" is tokens or sequences, not "rows"'):
        NextToken(over="rows")
