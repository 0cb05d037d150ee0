"""Many verdicts at once: q values, and how many are expected to be wrong. Plain floats, nothing imported."""

from __future__ import annotations

from collections.abc import Sequence

from reproductions.engine.verdicts import words


def q_values(p_values: Sequence[float]) -> list[float]:
    """Benjamini-Hochberg: for each p, the share of false ones among all that are as small (1995), in the order given.

    Where tests share arms they are positively dependent, which the procedure allows (Benjamini and Yekutieli 2001).
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index], reverse=True)
    found, running = [0.0] * len(p_values), 1.0
    for place, index in enumerate(order):
        running = min(running, p_values[index] * len(p_values) / (len(p_values) - place))
        found[index] = running
    return found


def expected_wrong(q_of_decided: Sequence[float]) -> float:
    """How many of some verdicts are expected to be wrong, at most: their number times the largest of their q values."""
    return len(q_of_decided) * max(q_of_decided, default=0.0)


def over_looks(p: float) -> float:
    """A p value of the look that decided, corrected for the looks there may be (Bonferroni)."""
    return min(1.0, len(words.LOOKS) * p)
