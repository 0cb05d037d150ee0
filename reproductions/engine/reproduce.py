"""From a plan to verdicts: make the runs, decide the claims, hold them against the recorded ones.

Nothing is written into the checkout unless it is told to record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.plan.plan import Plan, make_plan
from reproductions.engine.show import files, gather
from reproductions.engine.show.view import PaperView
from reproductions.engine.store.arm import ArmResults, arm_of
from reproductions.engine.store.pair import add_runs, arm_path, read_arm
from reproductions.engine.store.pair import merge as merged
from reproductions.engine.store.results import IncompleteError, Results
from reproductions.engine.store.results import gather as gathered
from reproductions.engine.work.sessions.progress import Reporter, default_reporter
from reproductions.engine.work.sessions.session import Failure, Made, make_runs

DONE, DIFFERS, BAD, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Outcome:
    """What a reproduction came to.

    Exit code 0: done, every verdict is the recorded one or there is none; 1: a verdict differs; 2: a run failed; 130:
    interrupted. `agrees`: claim -> whether its verdict is the recorded one, None where there is none to compare.
    """

    exit_code: int
    message: str
    view: PaperView | None = None
    recorded: PaperView | None = None
    agrees: Mapping[str, bool | None] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    complete: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "exit_code": self.exit_code,
            "message": self.message,
            "complete": self.complete,
            "agrees": dict(self.agrees),
            "view": None if self.view is None else self.view.as_dict(),
            "failures": [asdict(failure) for failure in self.failures],
        }


def reproduce(
    plan: Plan,
    *,
    workers: int | None = None,
    record: bool = False,
    fresh: bool = False,
    reporter: Reporter | None = None,
    as_json: bool = False,
    quiet: bool = False,
    results_root: Path | None = None,
) -> Outcome:
    """Makes what is missing of a plan and prints, claim by claim: paper, recorded result, this run, agreement.

    `record` adds the runs to the results of the checkout (a whole plan only); `fresh` forgets finished runs first.
    Raises KDError or CatalogError on bad input.
    """
    root = results_root or gather.RESULTS
    claims = gather.claims_of(plan.experiment)
    if record and not plan.complete:
        raise KDError("--record is for all arms and seeds of a scale: leave out --arms and --seeds")
    before, lacking = _recorded(plan, root)
    if record:
        _check_recordable(plan, root)
    made = make_runs(plan, workers, reporter or default_reporter(as_json=as_json), fresh=fresh)
    outcome = _outcome(plan, made, before, lacking)
    if record and outcome.view is not None:
        outcome = _record(plan, made, claims, root, outcome)
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=1, ensure_ascii=False))
    elif not quiet:
        from reproductions.engine.show import report

        report.show(plan, outcome)
    return outcome


def _outcome(plan: Plan, made: Made, before: PaperView | None, lacking: str) -> Outcome:
    total, kept = len(plan.runs), len(made.runs)
    if made.interrupted:
        message = (
            f"interrupted: {kept} of {total} runs are finished and kept; the same command goes on from there"
        )
        return Outcome(INTERRUPTED, message)
    if made.failures or kept < total:
        where = ", ".join(failure.file for failure in made.failures)
        message = (
            f"{len(made.failures)} of {total} runs failed; tracebacks: {where}. {kept} finished runs are kept; "
            "the same command makes the rest."
        )
        return Outcome(BAD, message, failures=made.failures)
    view = gather.view_of({plan.scale.name: plan}, {plan.scale.name: results_of_runs(plan, made)})
    agrees = _agreement(plan, view, before)
    differing = [claim for claim, same in agrees.items() if same is False]
    if not plan.complete:
        message = "a part of the arms or seeds: verdicts of a part are not held against the recorded ones"
    elif lacking:
        message = f"no recorded verdict to compare with: {lacking}; --record adds what is missing"
    elif before is None:
        message = f"no results of {plan.paper} at scale {plan.scale.name} are recorded: this is the first look at it"
    elif differing:
        message = f"{len(differing)} of {len(agrees)} verdicts differ from the recorded ones: {', '.join(differing)}"
    else:
        message = "every verdict is the recorded one"
    return Outcome(DIFFERS if differing else DONE, message, view, before, agrees, complete=plan.complete)


def results_of_runs(plan: Plan, made: Made) -> Results:
    """What was made, as the results of the plan's arms."""
    return gathered(
        dict(_arms(plan, made)),
        plan.arms,
        plan.all_seeds,
        looks=[look for look in plan.scale.looks if look <= len(plan.all_seeds)],
        measures=plan.measures,
        how=plan.how,
    )


def _arms(plan: Plan, made: Made, claims: Any = None) -> list[tuple[str, ArmResults]]:
    found = []
    for arm in plan.arms:
        runs = [run for (key, _), run in made.runs.items() if key == plan.keys[arm]]
        frozen = {} if claims is None else {"claims": claims.digests(plan.scale.name, arm)}
        name = (plan.paper, plan.scale.name)
        results = arm_of(plan.keys[arm], plan.specs[arm], plan.scale.testbed, runs, made_for=name, **frozen)
        if results is not None:
            found.append((arm, results))
    return found


def _recorded(plan: Plan, root: Path) -> tuple[PaperView | None, str]:
    """The recorded view of the plan's paper and scale, all its arms; None where there is none, and what a record lacks.

    A record may lack runs where its scale has got more seeds, or where writing it was interrupted.
    """
    whole = make_plan(plan.paper, plan.scale.name, papers_root=plan.experiment.path.parent, cache=plan.cache)
    try:
        results = gather.recorded(whole, root)
    except IncompleteError as error:
        return None, str(error)
    if results is None:
        return None, ""
    return gather.view_of({whole.scale.name: whole}, {whole.scale.name: results}), ""


def _agreement(plan: Plan, view: PaperView, before: PaperView | None) -> dict[str, bool | None]:
    now = {claim.id: claim.outcomes[0].verdict for claim in view.claims if claim.outcomes}
    then = (
        {claim.id: claim.outcomes[0].verdict for claim in before.claims if claim.outcomes} if before else {}
    )
    if not plan.complete:
        return dict.fromkeys(now)
    return {claim: then[claim] == verdict if claim in then else None for claim, verdict in now.items()}


def _check_recordable(plan: Plan, root: Path) -> None:
    """Before anything is trained: may the results be written where they will have to be?"""
    from reproductions.engine.files import check_disk

    folder = root / plan.scale.testbed
    check_disk(folder)
    for arm in plan.arms:
        path = arm_path(folder, plan.keys[arm])
        if path.exists():
            read_arm(path)  # a broken file is said now, not after an hour


def _record(plan: Plan, made: Made, claims: Any, root: Path, outcome: Outcome) -> Outcome:
    """Adds the runs to the arms' files. All are checked before the first is written."""
    arms = _arms(plan, made, claims)
    folder = root / plan.scale.testbed
    for _, results in arms:
        path = arm_path(folder, results.key)
        if path.exists():
            merged(path, read_arm(path), results)
    added = sum(len(add_runs(arm_path(folder, results.key), results)) for _, results in arms)
    if root == gather.RESULTS:
        files.write(gather.gather(plan.paper))
    message = f"recorded: {added} runs added to {folder}"
    if outcome.recorded is not None:
        message += f"; {outcome.message}"
    return Outcome(
        outcome.exit_code, message, outcome.view, outcome.recorded, outcome.agrees, complete=outcome.complete
    )
