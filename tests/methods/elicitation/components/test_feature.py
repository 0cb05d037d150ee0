"""likelihood: a sum over tokens, by a model whose probabilities are known."""

import math

import pytest

from methods.elicitation.components.feature import likelihood
from methods.elicitation.records.record import Record
from methods.elicitation.writers.session import Session
from methods.errors import MethodError
from tests.methods.elicitation.components.scripted import EmptyWriter, Script, reasons


class Unigrams(EmptyWriter):
    """Finds an "a" half as probable as certain, and anything else an eighth."""

    def score(self, requests, texts):
        return [[math.log(0.5 if letter == "a" else 0.125) for letter in text] for text in texts]


@pytest.mark.parametrize(
    ("over", "wanted"),
    [("mean", math.log(0.25)), ("sum", math.log(0.0625)), ("least", math.log(0.125))],
)
def test_scores_by_hand(over, wanted):
    rows = [Record("q", "ab"), Record("r", "x").drop("leak"), Record("s", "")]
    made = likelihood(rows, Session(Unigrams()), over=over)
    assert made[0].score == pytest.approx(wanted) and made[1] is rows[1]
    assert reasons(made) == [None, "leak", "empty"]


def test_a_mean_that_is_a_sum_would_be_seen():
    one, other = (likelihood([Record("q", "ab" * n)], Session(Unigrams()))[0].score for n in (1, 5))
    assert one == pytest.approx(other)


def test_a_model_that_cannot_score_is_refused():
    with pytest.raises(MethodError, match="cannot say how probable"):
        likelihood([Record("q", "a")], Script(lambda *a: "x").session)
    with pytest.raises(MethodError, match='"over" is mean, sum, least'):
        likelihood([], None, over="max")
    with pytest.raises(MethodError, match="there is none"):
        likelihood([], None)
