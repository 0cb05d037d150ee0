"""The words of a verdict and the looks at which one may be reached. Nothing is computed and nothing imported here."""

from __future__ import annotations

LOOKS = (5, 10, 20, 40)  # numbers of seeds at which a claim may be decided
ERROR = 0.05  # chance of a wrong direction in a claim whose arms are equal, over all its looks together
LEVEL = 1 - ERROR / len(
    LOOKS
)  # of the two-sided interval at each look (Bonferroni): what is printed, what decides
DESCRIBED = 0.95  # of the interval of an arm's own figure, which decides nothing

REPRODUCED, WEAKER, NO_DIFFERENCE, REVERSED = "reproduced", "weaker", "no difference", "reversed"
OPEN, NEEDS, NOT_RUN = "open", "needs", "not run"
VERDICTS = (REPRODUCED, WEAKER, NO_DIFFERENCE, REVERSED, OPEN, NEEDS, NOT_RUN)
DECIDED = (REPRODUCED, WEAKER, NO_DIFFERENCE, REVERSED)
NEEDS_A_GATE, NEEDS_AN_EFFECT = "needs a gate", "needs a smallest effect"

# A word and what it says, for the pages that explain it.
MEANING = {
    REPRODUCED: "the whole interval is on the claimed side, and some of it beyond the smallest effect that matters",
    WEAKER: "the claimed direction, but the whole interval is smaller than what matters",
    NO_DIFFERENCE: "the whole interval is smaller than what matters, in either direction",
    REVERSED: "the whole interval is on the other side, and some of it beyond the smallest effect",
    OPEN: "not decided at the looks made so far",
    NEEDS: "no verdict: the testbed has not shown that it can tell",
    NOT_RUN: "no results",
}


def kind_of(verdict: str) -> str:
    """The verdict's own word: "needs" of "needs long answers"."""
    return NEEDS if verdict.startswith(f"{NEEDS} ") else verdict


def lacking(properties: tuple[str, ...]) -> str:
    """The verdict of a claim whose testbed does not cover some properties: "needs long answers and capacity gap"."""
    return f"{NEEDS} {' and '.join(name.replace('-', ' ') for name in properties)}"


def looks(cap: int) -> tuple[int, ...]:
    """The looks of a scale that declares `cap` seeds: those of LOOKS up to it, the last at the cap itself.

    Never more than LOOKS has, so that the level of a look holds; a scale of three seeds has one look, at three.
    """
    last = min(cap, LOOKS[-1])
    return (*(look for look in LOOKS if look < last), last) if last > 0 else ()
