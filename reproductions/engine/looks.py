"""Looks: after each one seeds are added to the arms that open claims need, until all are decided or at the cap."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reproductions.engine.files import read_json, write_atomic
from reproductions.engine.plan.measures import claims_of
from reproductions.engine.plan.plan import Plan
from reproductions.engine.show.view import PaperView
from reproductions.engine.verdicts import words

UNDECIDED = (words.OPEN,)  # seeds may still decide it


@dataclass(frozen=True)
class Look:
    """What a look brought: how many seeds it took, the runs that were made for it, what is decided and what is not."""

    seeds: int
    runs: int
    decided: Mapping[str, str]  # claim -> verdict, those that this look decided
    open: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def verdicts_of(view: PaperView) -> dict[str, str]:
    """Claim -> verdict, of a view of one scale."""
    return {claim.id: claim.outcomes[0].verdict for claim in view.claims if claim.outcomes}


def open_claims(plan: Plan, verdicts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The undecided claims that more seeds may decide -> their arms, all of which the plan has."""
    found = {}
    for claim in claims_of(plan.experiment).at(plan.scale.name):
        arms = tuple(dict.fromkeys(plan.experiment.arm(arm).name for arm in claim.contrast.weights))
        if verdicts.get(claim.id) in UNDECIDED and set(arms) <= set(plan.arms):
            found[claim.id] = arms
    return found


def next_plan(plan: Plan, verdicts: Mapping[str, str], *, last: int | None = None) -> Plan | None:
    """The plan with the seeds that open claims need for their next look; None where there is none.

    `last`: the number of seeds of the last look that is wanted.
    """
    cap = plan.scale.looks[-1] if last is None else last
    grown = plan
    for arms in open_claims(plan, verdicts).values():
        have = min(len(plan.seeds_of(arm)) for arm in arms)
        ahead = [look for look in plan.scale.looks if have < look <= cap]
        if ahead:
            grown = grown.with_more(arms, ahead[0])
    return None if grown is plan else grown


def look_of(plan: Plan, before: Plan | None, verdicts: Mapping[str, str], known: Sequence[Look]) -> Look:
    """What a look at a plan brought; `before`: the plan of the look before it."""
    already = {claim for look in known for claim in look.decided}
    runs = len(plan.runs) - (len(before.runs) if before is not None else 0)
    waiting = open_claims(plan, verdicts)
    decided = {
        claim: word for claim, word in verdicts.items() if claim not in waiting and claim not in already
    }
    return Look(len(plan.all_seeds), runs, decided, tuple(waiting))


def history_path(root: Path, paper: str) -> Path:
    """Where it is written down what each look of a paper brought."""
    return root / "reproductions" / "looks" / f"{paper}.json"


def write_history(path: Path, paper: str, scale: str, attempt: int, looks: Sequence[Look]) -> None:
    """Adds looks to a paper's history; what is written down of a look stays. One of a single look is no history."""
    if len(looks) < 2:
        return
    data: dict[str, Any] = read_json(path) if path.is_file() else {"paper": paper, "scales": {}}
    kept = data["scales"].setdefault(scale, [])
    there = {(entry["attempt"], entry["seeds"]) for entry in kept}
    new = [{"attempt": attempt, **look.as_dict()} for look in looks if (attempt, look.seeds) not in there]
    if new:
        kept += new
        write_atomic(path, json.dumps(data, indent=1) + "\n")
