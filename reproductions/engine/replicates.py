"""Replicates beside what is recorded: reproductions/replicates/<paper>/<name>.zip, each claim decided from each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.plan.plan import Plan
from reproductions.engine.show import gather
from reproductions.engine.store.arm import same_figures
from reproductions.engine.store.replicate import Replicate, read_replicate
from reproductions.engine.store.results import Results
from reproductions.engine.store.results import gather as gathered


@dataclass(frozen=True)
class Beside:
    """A claim as recorded and as a replicate has it; `z`: how far apart, in the standard error of the distance."""

    claim: str
    replicate: str
    recorded: float | None
    replicated: float | None
    verdicts: tuple[str, str]
    z: float | None


def files_of(paper: str, root: Path | None = None) -> list[Path]:
    """The replicates of a paper."""
    return sorted(((root or gather.ROOT) / "reproductions" / "replicates" / paper).glob("*.zip"))


def admitted(plan: Plan, path: Path, recorded: Results | None) -> Replicate:
    """A replicate of a plan's paper and scale. Raises KDError where it does not follow from its own columns.

    Or where it is of other arms than today's, or holds nothing but the recorded runs themselves.
    """
    found = read_replicate(path)
    if (found.paper, found.scale, found.testbed) != (plan.paper, plan.scale.name, plan.scale.testbed):
        raise KDError(f"{path}: is of {found.paper} at scale {found.scale} on testbed {found.testbed}")
    for arm, results in found.arms.items():
        if plan.keys.get(arm) != results.key:
            raise KDError(f'{path}: arm "{arm}" is not today\'s: its key is {results.key}')
    if recorded is not None:
        pairs = [
            (run, recorded.arms[arm].runs[seed])
            for arm, results in found.arms.items()
            for seed, run in results.runs.items()
            if arm in recorded.arms and seed in recorded.arms[arm].runs
        ]
        if pairs and all(same_figures(*pair) and _same_place(*pair) for pair in pairs):
            raise KDError(f"{path}: holds the recorded runs themselves, not others")
    return found


def _same_place(one: Any, other: Any) -> bool:
    return bool(one.finished == other.finished and one.made_with == other.made_with)


def results_of(plan: Plan, replicate: Replicate) -> Results:
    """A replicate as results of the plan's arms: of the plan's seeds, or, where it has none of them, of its own."""
    asked = {"looks": plan.scale.looks, "measures": plan.measures, "how": plan.how}
    own = sorted({seed for arm in replicate.arms.values() for seed in arm.runs})
    seeds = plan.scale.seeds if set(own) & set(plan.scale.seeds) else tuple(own)
    return gathered(replicate.arms, plan.arms, seeds, **asked)  # type: ignore[arg-type]


def beside(plan: Plan, recorded: Results, replicate: Replicate) -> list[Beside]:
    """Every claim of the scale, as recorded and as replicated."""
    ours, theirs = _decided(plan, recorded), _decided(plan, results_of(plan, replicate))
    found = []
    for claim, mine in ours.items():
        other = theirs[claim]
        z = None
        errors = (_error(mine), _error(other))
        if None not in (mine.difference, other.difference, *errors) and any(errors):
            z = (other.difference - mine.difference) / math.hypot(*errors)  # type: ignore[arg-type]
        verdicts = (mine.verdict, other.verdict)
        found.append(Beside(claim, replicate.name, mine.difference, other.difference, verdicts, z))
    return found


def _decided(plan: Plan, results: Results) -> Mapping[str, Any]:
    view = gather.decided(plan, results)
    return {found.claim: found for found in view}


def _error(found: Any) -> float | None:
    """The standard error of a difference; from a 95 % interval where a decision holds none."""
    known = getattr(found, "standard_error", None)
    if known is not None or found.interval is None:
        return known
    return float(found.interval[1] - found.interval[0]) / (2 * 1.96)
