"""Earlier attempts at a paper as its readers see them: what was said then, and what today's interval says of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reproductions.engine.show.digits import pair, rounded
from reproductions.engine.show.view import AttemptRow, FormerRow
from reproductions.engine.verdicts.attempts import Attempt, Recomputed, recompute
from reproductions.engine.verdicts.claims import ClaimSet
from reproductions.engine.verdicts.effects import smallest_effect
from reproductions.engine.verdicts.gates import Gate
from reproductions.engine.verdicts.statistics import decide_at

if TYPE_CHECKING:
    from reproductions.engine.store.results import Results


def attempt_row(
    attempt: Attempt,
    claims: ClaimSet,
    results: Mapping[str, Results | None],
    folder: Path,
    gate: Gate | None,
) -> AttemptRow:
    """An attempt with its differences recomputed from the raw figures under `folder`.

    `claims` are today's; `results` today's by scale, whose arms need not be read twice; `gate` that of the attempt's
    testbed. Raises KDError where raw figures that it names are gone.
    """
    arms = [arm for some in results.values() if some is not None for arm in some.arms.values()]
    known = {arm.key: arm for arm in arms if arm.testbed == attempt.testbed}
    rows = []
    for found in recompute(attempt, folder, known):
        judged, estimate = found.judged, found.estimate
        rows.append(
            FormerRow(
                claim=judged.claim,
                verdict=judged.verdict,
                difference=rounded(judged.difference),
                interval=pair(judged.interval),
                now=None if estimate is None else pair(estimate.interval()),
                now_verdict=_word(found, claims, attempt.scale, gate),
                agrees=found.agrees,
            )
        )
    return AttemptRow(
        number=attempt.number,
        date=attempt.date,
        engine=attempt.engine,
        scale=attempt.scale,
        testbed=attempt.testbed,
        changed=attempt.changed,
        commit=attempt.commit,
        raw=attempt.raw or "",
        verdicts=tuple(attempt.verdicts.items()),
        claims=tuple(rows),
    )


def _word(found: Recomputed, claims: ClaimSet, scale: str, gate: Gate | None) -> str:
    """Today's word for an attempt's figures; '' where the claim is another now, or no smallest effect is known."""
    claim = next((claim for claim in claims.claims if claim.id == found.judged.claim), None)
    claim = None if claim is None else claim.on(scale)
    if found.estimate is None or claim is None or claim.metric != found.judged.metric:
        return ""
    effect = smallest_effect(claim, scale, gate.figures if gate is not None else {})
    if effect is None or claim.contrast.relation == "within":
        return ""
    return decide_at(found.estimate, bound=claim.contrast.bound, smallest=effect.size)
