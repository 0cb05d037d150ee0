"""What is recorded of a paper at a scale, which claims are open, and what deciding them will cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reproductions.engine import looks
from reproductions.engine.errors import KDError
from reproductions.engine.plan.plan import Plan
from reproductions.engine.show import gather
from reproductions.engine.show.cost import Costs
from reproductions.engine.store.pair import arm_path, read_arm
from reproductions.engine.store.results import measured


@dataclass(frozen=True)
class Prospect:
    """`recorded`, `to_make`: runs; `open`: claim -> seeds of its next look, None at the cap. Hours are CPU hours.

    `hours_next`: for the next look of all open claims (the first look where nothing is recorded); `hours_at_most`: when
    every open claim goes to the last look. None where no run tells how long one takes.
    """

    paper: str
    scale: str
    arms: int
    recorded: int
    to_make: int
    seeds: int
    next: int | None
    open: Mapping[str, int | None]
    on_the_way: Mapping[str, int]
    hours_recorded: float
    hours_next: float | None
    hours_at_most: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def prospect_of(plan: Plan, costs: Costs, root: Path | None = None) -> Prospect:
    """Of a plan at its first look."""
    folder = (root or gather.RESULTS) / plan.scale.testbed
    there, plan = _recorded(plan, folder)
    verdicts: dict[str, str] = {}
    try:
        results = gather.recorded(plan, root)
        if results is not None:
            view = gather.view_of({plan.scale.name: plan}, {plan.scale.name: results})
            verdicts = looks.verdicts_of(view)
    except KDError:  # incomplete: its first look is to be finished
        results = None
    cap = plan.scale.looks[-1]
    if results is None:
        waiting: dict[str, int | None] = {
            claim.id: plan.scale.looks[0] for claim in gather.claims_of(plan.experiment).at(plan.scale.name)
        }
        upcoming: Plan | None = plan
        most = plan.with_more(plan.arms, cap)
    else:
        upcoming, waiting, most = looks.next_plan(plan, verdicts), {}, plan
        for claim, arms in looks.open_claims(plan, verdicts).items():
            have = min(len(plan.seeds_of(arm)) for arm in arms)
            waiting[claim] = next((look for look in plan.scale.looks if look > have), None)
            most = most.with_more(arms, cap)
    ahead = costs.of(upcoming, there) if upcoming is not None else None
    whole = costs.of(most, there)
    return Prospect(
        paper=plan.paper,
        scale=plan.scale.name,
        arms=len({plan.keys[arm] for arm in plan.arms}),
        recorded=len(there),
        to_make=ahead.missing if ahead is not None else 0,
        seeds=len(plan.all_seeds) if there else 0,
        next=max((look for look in waiting.values() if look), default=None),
        open=waiting,
        on_the_way=ahead.to_make if ahead is not None else {},
        hours_recorded=_hours(costs.spent(plan, there)) or 0.0,
        hours_next=0.0 if ahead is None else _hours(ahead.cpu_seconds),
        hours_at_most=0.0 if not waiting else _hours(whole.cpu_seconds),
    )


def _recorded(plan: Plan, folder: Path) -> tuple[set[tuple[str, int]], Plan]:
    """The recorded runs with every metric that is wanted, and the plan with each arm at its last whole look."""
    there: set[tuple[str, int]] = set()
    for arm in plan.arms:
        path = arm_path(folder, plan.keys[arm])
        if not path.is_file():
            continue
        runs = read_arm(path).runs
        good = {seed for seed, run in runs.items() if measured(run, plan.measures.get(arm, ()), plan.how)}
        seeds = [seed for seed in plan.scale.seeds if seed in good]
        there |= {(plan.keys[arm], seed) for seed in seeds}
        full = [look for look in plan.scale.looks if set(plan.scale.seeds[:look]) <= good]
        if full and full[-1] > len(plan.seeds):
            plan = plan.with_more([arm], full[-1])
    return there, plan


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 3600, 4)
