"""From a plan to verdicts: make the runs, decide the claims, hold them against the recorded ones.

A scale may declare looks: then seeds are added only to the arms that open claims need, until all claims are decided or
the last look is made. Nothing is written into the checkout unless it is told to record.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from reproductions.engine import looks as looking
from reproductions.engine.errors import KDError
from reproductions.engine.looks import Look
from reproductions.engine.plan.plan import Plan, make_plan
from reproductions.engine.plan.spec import at_an_edge
from reproductions.engine.show import files, gather
from reproductions.engine.show.cost import Costs
from reproductions.engine.show.view import PaperView
from reproductions.engine.store.arm import ArmResults, RunResults, arm_of
from reproductions.engine.store.cache import differences
from reproductions.engine.store.joined import elsewhere
from reproductions.engine.store.pair import add_all, arm_path, read_arm
from reproductions.engine.store.results import IncompleteError, Results
from reproductions.engine.store.results import gather as gathered
from reproductions.engine.work.environment import cpu_name, decisive
from reproductions.engine.work.sessions.executors.base import Executor
from reproductions.engine.work.sessions.finished import device_of, finished_runs
from reproductions.engine.work.sessions.progress import Reporter, default_reporter
from reproductions.engine.work.sessions.session import Failure, Made, Workshop

DONE, DIFFERS, BAD, INTERRUPTED = 0, 1, 2, 130
Runs = Mapping[tuple[str, int], RunResults]


@dataclass(frozen=True)
class Outcome:
    """What a reproduction came to.

    Exit code 0: done, every verdict is the recorded one or there is none; 1: a verdict differs; 2: a run failed; 130:
    interrupted. `agrees`: claim -> whether its verdict is the recorded one, None where there is none to compare.
    `looks`: what each look brought; `plan`: the plan of the last one.
    """

    exit_code: int
    message: str
    view: PaperView | None = None
    recorded: PaperView | None = None
    agrees: Mapping[str, bool | None] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()
    complete: bool = False
    looks: tuple[Look, ...] = ()
    plan: Plan | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {
            "exit_code": self.exit_code,
            "message": self.message,
            "complete": self.complete,
            "agrees": dict(self.agrees),
            "looks": [look.as_dict() for look in self.looks],
            "view": None if self.view is None else self.view.as_dict(),
            "failures": [asdict(failure) for failure in self.failures],
        }


def reproduce(
    plan: Plan,
    *,
    workers: int | None = None,
    record: bool = False,
    fresh: bool = False,
    looks: int | None = None,
    donate: Path | None = None,
    reporter: Reporter | None = None,
    as_json: bool = False,
    quiet: bool = False,
    results_root: Path | None = None,
    executor: Executor | None = None,
) -> Outcome:
    """Makes what is missing of a plan and prints, claim by claim: paper, recorded result, this run, agreement.

    `record` adds the runs to the results of the checkout (a whole plan only); `fresh` forgets finished runs first;
    `looks`: how many looks at most, all that the scale declares where not given; `executor`: where workers are started,
    on this machine by default. Raises KDError or CatalogError on bad
    input.
    """
    if plan.unswept:
        raise KDError(plan.unswept)
    root = results_root or gather.RESULTS
    say = _silent if quiet else _to_stderr
    task = _Task(plan, root, looks, executor)
    if record:
        task.check_recordable()
    there = root if record and not fresh else None  # what is recorded stands
    shown = reporter or default_reporter(as_json=as_json)
    with Workshop([plan], workers, shown, recorded=there, executor=executor) as shop:
        if fresh:
            shop.forget()
        costs = Costs(root, plan.cache)
        while task.plan is not None:
            say(task.announcement(costs, shop.finished(task.plan)))
            task.take(shop.make(task.plan))
    outcome = task.outcome()
    if record and outcome.view is not None:
        outcome = task.record(outcome)
    if donate is not None and outcome.view is not None:
        from reproductions.engine.store.replicate import write_replicate

        write_replicate(donate, task.last, task.arms())
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=1, ensure_ascii=False))
    elif not quiet:
        from reproductions.engine.show import report

        report.show(plan, outcome)
    return outcome


def reproduce_all(
    plans: Sequence[Plan],
    *,
    workers: int | None = None,
    record: bool = False,
    fresh: bool = False,
    looks: int | None = None,
    reporter: Reporter | None = None,
    as_json: bool = False,
    quiet: bool = False,
    results_root: Path | None = None,
    executor: Executor | None = None,
) -> dict[str, Outcome]:
    """Several papers at one scale with one pool of workers: what they share comes first and is made once.

    A paper that fails stops no other. Raises KDError where nothing can be made at all.
    """
    root = results_root or gather.RESULTS
    say = _silent if quiet else _to_stderr
    for plan in plans:
        if plan.unswept:
            say(f"left out: {plan.unswept}")
    plans = [plan for plan in plans if not plan.unswept]
    if not plans:
        raise KDError("no paper has its sweep: nothing can be made")
    tasks = {plan.paper: _Task(plan, root, looks, executor) for plan in plans}
    if record:
        for task in tasks.values():
            task.check_recordable()
    interrupted = False
    kept = root if record and not fresh else None  # what is recorded stands
    shown = reporter or default_reporter(as_json=as_json)
    with Workshop(plans, workers, shown, recorded=kept, executor=executor) as shop:
        if fresh:
            shop.forget()
        costs, number = Costs(root, plans[0].cache), 0
        while not interrupted and (ahead := [task for task in tasks.values() if task.plan is not None]):
            number += 1
            there = {task.last.paper: set(shop.finished(task.last)) for task in ahead}
            say(_together(number, ahead, there, costs))
            failures, interrupted = shop.make_all([task.last for task in ahead], there)
            for task in ahead:
                paper = task.last.paper
                own = tuple(one for one in failures if one.arm.startswith(f"{paper}/"))
                error = shop.error(task.last)
                if error is not None:
                    own = (*own, Failure("", 0, str(error), ""))
                task.take(Made(shop.finished(task.last), own, interrupted, 0.0))
                task.forget()
    outcomes = {}
    for paper, task in tasks.items():
        outcomes[paper] = task.outcome()
        if record and outcomes[paper].view is not None:
            task.recall(kept)
            outcomes[paper] = task.record(outcomes[paper])
            task.forget()
    return outcomes


def worst(codes: Sequence[int]) -> int:
    """The exit code of several outcomes: interrupted before failed before different."""
    return next((code for code in (INTERRUPTED, BAD, DIFFERS) if code in codes), DONE)


class _Task:
    """One paper on its way through its looks. `plan`: the next one to be made, None when there is nothing left."""

    def __init__(self, plan: Plan, root: Path, looks: int | None, executor: Executor | None = None) -> None:
        self.device = device_of(plan, executor)
        self.plan: Plan | None = plan
        self.last, self.root = plan, root
        self.claims = gather.claims_of(plan.experiment)
        chosen = plan.scale.looks[: looks or None]
        # A number of seeds that was asked for is the only look; else the looks go on from the first.
        first = len(plan.seeds) == plan.scale.looks[0] and plan.arms == plan.scale.arms
        self.until = chosen[-1] if first else len(plan.seeds)
        self.before, self.lacking = _recorded(plan, root)
        self.looks: list[Look] = []
        self.made: Made | None = None
        self.view: PaperView | None = None
        self._earlier: Plan | None = None

    def announcement(self, costs: Costs, there: Runs) -> str:
        """What is about to be done, and what it costs."""
        assert self.plan is not None
        plan, scale = self.plan, self.plan.scale
        many = f", look {len(self.looks) + 1} of {len(scale.looks)}" if len(scale.looks) > 1 else ""
        text = f"{plan.paper} at scale {scale.name}{many} ({len(plan.all_seeds)} seeds): "
        if self.looks:
            text += f"open are {', '.join(self.looks[-1].open)}; "
        return text + str(costs.of(plan, set(there)))

    def take(self, made: Made) -> None:
        """The runs of a look: decides, and says with `plan` whether there is another one."""
        assert self.plan is not None
        self.last, self.made, self.plan = self.plan, made, None
        if made.interrupted or made.failures or len(made.runs) < len(self.last.runs):
            self.view = None
            return
        scale = self.last.scale.name
        self.view = gather.view_of({scale: self.last}, {scale: results_of_runs(self.last, made)})
        verdicts = looking.verdicts_of(self.view)
        self.looks.append(looking.look_of(self.last, self._earlier, verdicts, self.looks))
        self._earlier = self.last
        self.plan = looking.next_plan(self.last, verdicts, last=self.until)

    def forget(self) -> None:
        """Of many papers the figures need not stay in memory."""
        assert self.made is not None
        self.made = replace(self.made, runs=dict.fromkeys(self.made.runs, _NOTHING))

    def recall(self, recorded: Path | None) -> None:
        """The figures again, from results and cache."""
        assert self.made is not None
        self.made = replace(self.made, runs=finished_runs(self.last, self.device, recorded))

    def arms(self, claims: Any = None) -> list[tuple[str, ArmResults]]:
        """What was made, by arm."""
        assert self.made is not None
        return arms_made(self.last, self.made, claims)

    def outcome(self) -> Outcome:
        """What it came to."""
        assert self.made is not None
        found = _outcome(self.last, self.made, self.view, self.before, self.lacking)
        return replace(found, looks=tuple(self.looks), plan=self.last)

    def check_recordable(self) -> None:
        """Before anything is trained: may the results be written where they will have to be?"""
        from reproductions.engine.files import check_disk

        if not self.last.complete:
            raise KDError("--record is for all arms and seeds of a scale: leave out --arms and --seeds")
        if self.last.fresh:
            raise KDError("--record is for the declared seeds: fresh ones are a replicate, see --donate")
        edge = at_an_edge(self.last.experiment, self.last.scale.name, self.last.testbed)
        if edge is not None:
            raise KDError(
                f"{self.last.paper}: {edge} (`tuning: {{widen: ...}}` of the scale), and `kd tune` again"
            )
        folder = self.root / self.last.scale.testbed
        check_disk(folder)
        for arm in self.last.arms:
            path = arm_path(folder, self.last.keys[arm])
            if path.exists():
                # What is broken is said now, not after an hour.
                self._check_measures(arm, path, read_arm(path))

    def _check_measures(self, arm: str, path: Path, recorded: ArmResults) -> None:
        """Raises KDError for recorded runs that lack a measure, and whose second training here would be another one.

        Their students are not kept. On another kind of processor the same training is taken for the measure, not one
        with other packages or components besides.
        """
        spec = self.last.specs[arm]
        here = decisive(self.device, recorded.data_revision, spec["method"]) | {"cpu": cpu_name()}
        lacking: dict[str, set[int]] = {}
        for seed in self.last.seeds_of(arm):
            run = recorded.runs.get(seed)
            if (
                run is None
                or run.made_with.get("cpu") in (None, cpu_name())
                or elsewhere(run.made_with, here)
            ):
                continue
            for name in set(self.last.wanted(recorded.key, seed)) - set(run.metrics):
                lacking.setdefault(name, set()).add(seed)
        if lacking:
            made = next(run.made_with for run in recorded.runs.values() if "cpu" in run.made_with)
            raise KDError(
                f"{path}: arm {arm} was recorded on {made['cpu']} without {', '.join(sorted(lacking))}; this is "
                f"{cpu_name()}, and {'; '.join(differences(made, here))}: record on that kind of processor"
            )

    def record(self, outcome: Outcome) -> Outcome:
        """Adds the runs to the arms' files. All are checked before the first is written."""
        folder = self.root / self.last.scale.testbed
        added = add_all(folder, (results for _, results in self.arms(self.claims)))
        if self.root == gather.RESULTS:
            plan = self.last
            attempt = int(plan.experiment.data.get("attempt", {}).get("number", 1))
            path = looking.history_path(gather.ROOT, plan.paper)
            looking.write_history(path, plan.paper, plan.scale.name, attempt, self.looks)
            files.write(gather.gather(plan.paper))
        message = f"recorded: {added} runs added to {folder}"
        if outcome.recorded is not None:
            message += f"; {outcome.message}"
        return replace(outcome, message=message)


_NOTHING: Any = None


def _together(
    number: int, tasks: Sequence[_Task], there: Mapping[str, set[tuple[str, int]]], costs: Costs
) -> str:
    """What is about to be done for several papers; runs that they share are counted once."""
    runs: set[tuple[str, str, int]] = set()
    kept: set[tuple[str, str, int]] = set()
    seconds, known = 0.0, True
    for task in tasks:
        plan = task.last if task.plan is None else task.plan
        names = {(plan.scale.testbed, key, seed) for key, seed in plan.runs}
        have = {(plan.scale.testbed, key, seed) for key, seed in there[plan.paper]}
        cost = costs.of(plan, {(key, s) for _, key, s in have | (names & runs)})
        known &= cost.cpu_seconds is not None
        seconds += cost.cpu_seconds or 0.0
        runs |= names
        kept |= have
    from reproductions.engine.show.cost import minutes

    time = f"about {minutes(seconds)}" if known else "nothing is known of the time of some"
    there_are = f"{len(runs)} runs: {len(kept)} are there, {len(runs - kept)} to make"
    return f"look {number}: {len(tasks)} papers, {there_are}; {time}"


def _outcome(
    plan: Plan, made: Made, view: PaperView | None, before: PaperView | None, lacking: str
) -> Outcome:
    total, kept = len(plan.runs), len(made.runs)
    if made.interrupted:
        message = (
            f"interrupted: {kept} of {total} runs are finished and kept; the same command goes on from there"
        )
        return Outcome(INTERRUPTED, message)
    if view is None:
        where = ", ".join(failure.file or failure.message for failure in made.failures)
        message = (
            f"{len(made.failures)} of {total} runs failed; tracebacks: {where}. {kept} finished runs are kept; "
            "the same command makes the rest."
        )
        return Outcome(BAD, message, failures=made.failures)
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
    elif None in agrees.values() and any(agrees.values()):
        message = "every verdict that was reached is the recorded one"
    else:
        message = "every verdict is the recorded one"
    return Outcome(DIFFERS if differing else DONE, message, view, before, agrees, complete=plan.complete)


def results_of_runs(plan: Plan, made: Made) -> Results:
    """What was made, as the results of the plan's arms."""
    return gathered(
        dict(arms_made(plan, made)),
        plan.arms,
        plan.all_seeds,
        looks=[look for look in plan.scale.looks if look <= len(plan.all_seeds)],
        measures=plan.measures,
        how=plan.how,
    )


def arms_made(plan: Plan, made: Made, claims: Any = None) -> list[tuple[str, ArmResults]]:
    """What was made, by arm; with `claims` each says which of them it was made for."""
    found = []
    for arm in plan.arms:
        key, seeds = plan.keys[arm], set(plan.seeds_of(arm))
        runs = [run for (other, seed), run in made.runs.items() if other == key and seed in seeds]
        frozen = {} if claims is None else {"claims": claims.digests(plan.scale.name, arm)}
        name = (plan.paper, plan.scale.name)
        results = arm_of(key, plan.specs[arm], plan.scale.testbed, runs, made_for=name, **frozen)
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
    """Claim by claim; a claim that is open here, at an earlier look than the recorded one, is not compared."""
    now = {claim.id: claim.outcomes[0] for claim in view.claims if claim.outcomes}
    then = {claim.id: claim.outcomes[0] for claim in before.claims if claim.outcomes} if before else {}
    if not plan.complete:
        return dict.fromkeys(now)
    found: dict[str, bool | None] = {}
    for claim, ours in now.items():
        recorded = then.get(claim)
        early = recorded is not None and ours.verdict in looking.UNDECIDED and ours.seeds < recorded.seeds
        found[claim] = None if recorded is None or early else ours.verdict == recorded.verdict
    return found


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _silent(text: str) -> None:
    """Nothing."""
