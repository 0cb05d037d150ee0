"""What size of a difference matters, in the metric's unit: declared with a claim, else by one rule for all.

The rule: half of the paper's own relative effect, on our baseline; not below 5 % of the headroom, which is what lies
between the baseline and the teacher on the gate of the testbed; 10 % of the headroom where the paper has no number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from reproductions.engine.verdicts.claims import Claim
from reproductions.engine.verdicts.gates import UNGATED

SHARE = 0.5  # of the paper's relative effect
LEAST, UNKNOWN = 0.05, 0.10  # of the headroom


@dataclass(frozen=True)
class Effect:
    """A smallest effect that matters, above zero, and in words how it came about."""

    size: float
    how: str


def smallest_effect(claim: Claim, scale: str, figures: Mapping[str, Mapping[str, float]]) -> Effect | None:
    """Of a claim at a scale, from what it declares and the figures of the testbed's gate; None where neither says it.

    At scale `paper` our baseline is the paper's, so that half of its own difference is what matters. A claim of
    "within" has its bound and needs none.
    """
    if claim.smallest_effect is not None:
        return Effect(claim.smallest_effect, "declared")
    if scale in UNGATED:
        difference = _paper_difference(claim)
        return Effect(SHARE * difference, "half of the paper's effect") if difference else None
    known = figures.get(claim.metric, {})
    if "baseline" not in known or "teacher" not in known:
        return None
    baseline = known["baseline"]
    headroom = abs(known["teacher"] - baseline)
    relative = paper_effect(claim)
    if relative is None:
        size, how = UNKNOWN * headroom, f"{100 * UNKNOWN:g} % of the headroom"
    else:
        size, how = SHARE * relative * abs(baseline), "half of the paper's relative effect"
        if size < LEAST * headroom:
            size, how = LEAST * headroom, f"{100 * LEAST:g} % of the headroom"
    return Effect(size, how) if size > 0 else None


def paper_effect(claim: Claim) -> float | None:
    """The paper's effect relative to what it is compared with, |a - b| / |b|; None without all its numbers.

    With more arms than two: relative to the mean size of their numbers. Against a number: to that number.
    """
    difference = _paper_difference(claim)
    if difference is None or claim.paper is None:
        return None
    contrast, numbers = claim.contrast, claim.paper.numbers
    if contrast.pair is not None:
        base = abs(numbers[contrast.pair[1]])
    elif contrast.against:
        base = abs(contrast.against)
    else:
        base = sum(abs(numbers[name]) for name in contrast.weights) / len(contrast.weights)
    return difference / base if base else None


def _paper_difference(claim: Claim) -> float | None:
    """The size of the claim's contrast in the paper's own numbers."""
    numbers = claim.paper.numbers if claim.paper is not None else {}
    contrast = claim.contrast
    if any(name not in numbers for name in contrast.weights):
        return None
    return abs(sum(weight * numbers[name] for name, weight in contrast.weights.items()) - contrast.against)
