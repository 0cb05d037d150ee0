"""The rule for what size matters, on claims and gate figures made by hand."""

import pytest

from reproductions.engine.verdicts.claims import Claim, Contrast, PaperNumbers, Source
from reproductions.engine.verdicts.effects import paper_effect, smallest_effect

FIGURES = {"rouge": {"baseline": 60.0, "teacher": 80.0}, "loss": {"baseline": 2.0, "teacher": 1.0}}


def claim(numbers=None, weights=None, metric="rouge", relation="greater", against=0.0, declared=None):
    contrast = Contrast(weights or {"a": 1.0, "b": -1.0}, relation, 0.0, against)
    paper = None if numbers is None else PaperNumbers(numbers, None)
    return Claim("c", "It is.", Source("0", 1, "T"), metric, contrast, ("tiny",), paper, declared)


@pytest.mark.parametrize(
    "numbers, size",
    [
        ({"a": 55.0, "b": 50.0}, 3.0),  # 10 % of the paper's baseline, of which half, on our 60
        ({"a": 45.0, "b": 50.0}, 3.0),  # whichever way the paper's numbers lie
        ({"a": 50.5, "b": 50.0}, 1.0),  # 0.3, but not below 5 % of 20
        ({"a": 50.0, "b": 50.0}, 1.0),
        (None, 2.0),  # 10 % of 20
        ({"a": 55.0}, 2.0),  # not all of its numbers
        ({"a": 55.0, "b": 0.0}, 2.0),  # relative to nothing
    ],
)
def test_half_of_the_papers_relative_effect_but_not_below_a_twentieth_of_the_headroom(numbers, size):
    assert smallest_effect(claim(numbers), "tiny", FIGURES).size == pytest.approx(size)


def test_what_is_declared_goes_first_at_every_scale():
    for scale in ("tiny", "small", "paper"):
        found = smallest_effect(claim({"a": 55.0, "b": 50.0}, declared=0.7), scale, {})
        assert (found.size, found.how) == (0.7, "declared")


def test_the_headroom_has_no_direction():
    assert smallest_effect(claim(metric="loss"), "tiny", FIGURES).size == pytest.approx(0.1)


def test_what_the_gate_did_not_measure_has_no_default():
    assert smallest_effect(claim(metric="steps"), "tiny", FIGURES) is None
    assert smallest_effect(claim(), "tiny", {"rouge": {"baseline": 60.0}}) is None
    assert smallest_effect(claim(), "tiny", {"rouge": {"baseline": 60.0, "teacher": 60.0}}) is None


def test_at_the_papers_scale_it_is_half_of_the_papers_own_difference():
    found = smallest_effect(claim({"a": 55.0, "b": 50.0}), "paper", {})
    assert (found.size, found.how) == (2.5, "half of the paper's effect")
    assert smallest_effect(claim(), "paper", FIGURES) is None
    assert smallest_effect(claim({"a": 5.0, "b": 5.0}), "paper", FIGURES) is None


def test_effects_of_other_contrasts():
    gap = claim({"a": 30.0, "b": 20.0, "c": 25.0, "d": 21.0}, {"a": 1.0, "b": -1.0, "c": -1.0, "d": 1.0})
    assert paper_effect(gap) == pytest.approx(6 / 24)
    assert paper_effect(claim({"a": 60.0}, {"a": 1.0}, against=50.0)) == pytest.approx(0.2)
    assert paper_effect(claim({"a": 60.0}, {"a": 2.0, "b": -1.0})) is None
