"""All verdicts of the atlas: by scale, with their q values and how many are expected to be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scipy.stats

from reproductions.engine.show.summary import evidence
from tests.tools.conftest import claim, outcome, view_of
from tools.pages.atlas import told


def judged(verdict, p, scale="tiny", p_equal=0.9):
    return replace(outcome(verdict, scale), p=p, p_equal=p_equal)


def views():
    return [
        view_of(
            "one",
            claim("a", judged("reproduced", 0.001), judged("open", 0.2, "small")),
            claim("b", judged("reversed", 0.004)),
            claim("c", judged("open", 0.1)),
        ),
        view_of(
            "two",
            claim("a", judged("weaker", 0.0001, p_equal=0.0001)),
            claim("d", judged("no difference", 0.3, p_equal=0.002)),
            claim("e", replace(judged("needs a gate", 1e-9))),
            claim("f"),
        ),
    ]


def test_scales_are_never_pooled_and_what_only_needs_something_does_not_count():
    found = evidence(views())
    assert list(found) == ["tiny", "small"]
    tiny, small = found.values()
    assert (tiny.claims, tiny.decided, tiny.papers) == (5, 4, 2)
    assert list(tiny.verdicts.items()) == [
        ("reproduced", 1),
        ("weaker", 1),
        ("no difference", 1),
        ("reversed", 1),
        ("open", 1),
    ]
    assert (small.claims, small.decided, small.wrong, small.q) == (1, 0, 0, {})


def test_q_values_are_over_all_claims_and_looks():
    tiny = evidence(views())["tiny"]
    direction = scipy.stats.false_discovery_control([4 * p for p in (0.001, 0.004, 0.1, 0.0001)] + [1.0])
    equal = scipy.stats.false_discovery_control([1, 1, 1, 4 * 0.0001, 4 * 0.002])
    assert tiny.q == {
        ("one", "a"): pytest.approx(direction[0]),
        ("one", "b"): pytest.approx(direction[1]),
        ("two", "a"): pytest.approx(direction[3]),
        ("two", "d"): pytest.approx(equal[4]),
    }
    assert tiny.wrong == pytest.approx(3 * direction[1] + equal[4])


def test_the_line_says_scale_counts_and_expected_errors():
    tiny, small = evidence(views()).values()
    assert told(tiny).startswith(
        "**tiny**: 5 claims of 2 papers: ✅ 1 reproduced, 🔸 1 weaker, ➖ 1 no difference"
    )
    assert "Of the 4 decided at most 0.1 are expected to be wrong" in told(tiny)
    assert told(small) == "**small**: 1 claim of 1 paper: ❔ 1 open."
    assert evidence([]) == {}
