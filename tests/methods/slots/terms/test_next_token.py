"""The labels' cross entropy over tokens and over sequences, against loops on full log-probabilities in float64."""

import pytest
import torch

from methods.errors import MethodError
from methods.slots.rows import count_sequences
from methods.slots.samplers import SOURCES
from methods.slots.terms import NextToken
from methods.slots.terms import divergence as module
from methods.slots.terms.divergence import Divergence
from methods.slots.token_weights import First
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


def test_a_divergence_may_weigh_sequences_alike_too():
    """1/3 sum over sequences of the mean of token_weight * KL(p || q), in full distributions."""
    rows = three_sequences()
    size = min(len(rows.head.weight), len(rows.teachers[0][1].weight))
    log_q = rows.head.logits(rows.hidden, size).log_softmax(-1)
    hidden, head = rows.teachers[0]
    log_p = head.logits(hidden, size).log_softmax(-1)
    values = (log_p.exp() * (log_p - log_q)).sum(-1)
    for weights in (None, First(2)):
        given = values if weights is None else values * weights(rows)
        means = [part.mean() for part in given.split(LENGTHS)]
        term = Divergence("forward_kl", over="sequences", token_weights=weights)
        assert loss(rows, term) == pytest.approx(float(sum(means)) / 3, rel=1e-9)
    assert loss(rows, Divergence("forward_kl")) == pytest.approx(float(values.mean()), rel=1e-9)
    with pytest.raises(MethodError, match='a divergence: "over" is tokens or sequences, not "rows"'):
        Divergence(over="rows")


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
