"""All verdicts of the atlas at one scale: how many of each, and how many are expected to be wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reproductions.engine.show.view import Outcome, PaperView, ordered, scale_order
from reproductions.engine.verdicts.multiplicity import expected_wrong, over_looks, q_values
from reproductions.engine.verdicts.words import NO_DIFFERENCE, REPRODUCED, REVERSED, WEAKER


@dataclass(frozen=True)
class Evidence:
    """Verdicts at a scale over all papers; scales are never pooled.

    `q`: (paper, claim) -> the q value of each decided claim: of its direction, or of `no difference` that it is one.
    `wrong`: how many of the decided are expected to be wrong, at most.
    """

    scale: str
    papers: int
    verdicts: dict[str, int]
    q: dict[tuple[str, str], float]
    wrong: float

    @property
    def claims(self) -> int:
        """Judged claims, open ones among them."""
        return sum(self.verdicts.values())

    @property
    def decided(self) -> int:
        """Claims whose verdict is not `open`."""
        return len(self.q)


def evidence(views: Iterable[PaperView]) -> dict[str, Evidence]:
    """By scale, smallest first; claims that only need something have no verdict and are not counted."""
    found: dict[str, dict[tuple[str, str], Outcome]] = {}
    for view in views:
        for claim in view.claims:
            for outcome in claim.outcomes:
                if outcome.has_verdict:
                    found.setdefault(outcome.scale, {})[view.paper, claim.id] = outcome
    return {scale: _at(scale, found[scale]) for scale in sorted(found, key=scale_order)}


def _at(scale: str, outcomes: dict[tuple[str, str], Outcome]) -> Evidence:
    counts: dict[str, int] = {}
    for outcome in outcomes.values():
        counts[outcome.kind] = counts.get(outcome.kind, 0) + 1
    q: dict[tuple[str, str], float] = {}
    wrong = 0.0
    # A claim has two questions, its direction and whether it is smaller than what matters: two families of tests.
    for name, kinds in (("p", (REPRODUCED, WEAKER, REVERSED)), ("p_equal", (NO_DIFFERENCE,))):
        tested = {
            place: p for place, outcome in outcomes.items() if (p := getattr(outcome, name)) is not None
        }
        values = dict(zip(tested, q_values([over_looks(p) for p in tested.values()]), strict=True))
        decided = {place: value for place, value in values.items() if outcomes[place].kind in kinds}
        q |= decided
        wrong += expected_wrong(list(decided.values()))
    return Evidence(scale, len({paper for paper, _ in outcomes}), ordered(counts), q, wrong)
