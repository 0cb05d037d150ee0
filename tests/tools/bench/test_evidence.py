"""Evidence per CPU minute: its variances against numpy on made-up tables, its ways by what they do."""

from __future__ import annotations

import numpy as np
import pytest

from methods.modeling import decoder
from reproductions.engine.work import surroundings
from tests.methods.conftest import make_model
from tools.bench import evidence

ARMS = tuple(evidence.ARMS)


def made_up(rng, seeds, words, of_seeds, of_words, both):
    return (
        rng.normal(0, of_seeds**0.5, (seeds, 1))
        + rng.normal(0, of_words**0.5, (1, words))
        + rng.normal(0, both**0.5, (seeds, words))
    )


def test_variances_of_a_two_way_table():
    """The parts are found on average, and give the variance that the mean of such a table has."""
    rng = np.random.default_rng(0)
    truth = (2.0, 9.0, 25.0)
    tables = [made_up(rng, 5, 60, *truth) for _ in range(3000)]
    found = np.mean([evidence.parts(table) for table in tables], 0)
    assert found == pytest.approx(truth, rel=0.12)
    mean = np.var([table.mean() for table in tables])
    assert np.mean([evidence.variance_of_mean(t, truth[0]) for t in tables]) == pytest.approx(mean, rel=0.08)
    # The interaction counted three times, as the first edition's interval did, is another number.
    assert mean < 0.9 * (truth[0] / 5 + truth[1] / 60 + 3 * truth[2] / 300)


def test_the_ratio_is_of_variances_and_minutes():
    rng = np.random.default_rng(1)
    measured, spent = {}, {}
    for way, words, seconds in (("first edition", 100, 6.0), ("now", 400, 3.0)):
        names = [pair[way == "now"] for pair in evidence.METRICS.values()]
        measured[way] = {
            (arm, seed): {name: rng.normal(50, 10, words) for name in names}
            for arm in ARMS
            for seed in (0, 1, 2)
        }
        spent[way] = dict.fromkeys(measured[way], seconds)
    found = evidence.summary(measured, spent, 3)
    assert found["cpu_seconds_a_run"]["now"] == dict.fromkeys(ARMS, 3.0)
    assert len(found["contrasts"]) == len(evidence.CONTRASTS) * len(evidence.METRICS)
    for row in found["contrasts"]:
        first, now = row["first edition"], row["now"]
        expected = (first["standard_error"] / now["standard_error"]) ** 2 * 2
        assert row["ratio"] == pytest.approx(expected, rel=0.01)


def test_the_first_editions_way_leaves_nothing_behind():
    model, limit = make_model(), surroundings.LARGEST_TABLE
    with evidence._first_edition():
        assert not decoder.is_written_out(model) and surroundings.LARGEST_TABLE == 0
    assert decoder.is_written_out(model) and limit == surroundings.LARGEST_TABLE


def test_the_committed_record_has_its_table():
    from tools.pages.benchmarks import evidence_benchmarks

    (table,) = evidence_benchmarks()
    assert len(table["rows"]) == len(evidence.CONTRASTS) * len(evidence.METRICS)
