"""Makes the runs of plans that are not made yet, by worker processes; every finished run is kept at once.

A workshop keeps its workers over looks and over papers. What several papers want of one key and seed is made once, with
all metrics that some of them want, and before anything that only one of them wants.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import check_disk, sole_user, write_atomic
from reproductions.engine.plan.experiment import code_path
from reproductions.engine.plan.plan import Plan, Task
from reproductions.engine.signals import terminable
from reproductions.engine.store.arm import RunResults
from reproductions.engine.store.cache import forget_run
from reproductions.engine.work.sessions.executors.base import Executor
from reproductions.engine.work.sessions.finished import device_of, finished_runs
from reproductions.engine.work.sessions.losses import Losses
from reproductions.engine.work.sessions.machine import cores
from reproductions.engine.work.sessions.pool import Pool, worker_variables
from reproductions.engine.work.sessions.progress import Reporter, Shown, seconds_by_arm
from reproductions.engine.work.sessions.progress.needs import to_make
from reproductions.engine.work.sessions.worker import Job, Work, failure_path

GPU_WORKERS = 6
SEEN = 90.0  # seconds; file systems keep what they know of a folder for up to a minute
ROLES = {"method": 0, "ablation": 1, "baseline": 2}


@dataclass(frozen=True)
class Failure:
    """A run that raised, and where its traceback is."""

    arm: str
    seed: int
    message: str
    file: str


@dataclass(frozen=True)
class Made:
    """What a session came to: the runs there are now, by key and seed; what failed; whether it was interrupted."""

    runs: Mapping[tuple[str, int], RunResults]
    failures: tuple[Failure, ...]
    interrupted: bool
    seconds: float


@dataclass(frozen=True)
class Order:
    """A run to make: an arm of a plan with a seed, the metrics that are wanted of it, and how many plans want it."""

    plan: Plan
    label: str  # what the arm is called in events: with its paper, where there are several
    seed: int
    arm: str
    wanted: tuple[str, ...]
    papers: int = 1

    @property
    def task(self) -> Task:
        """As events name it."""
        return self.label, self.seed

    def work(self, seeds: Iterable[int]) -> Work:
        """What a worker is handed."""
        plan, code = self.plan, self.plan.experiment.code
        return Work(
            arm=self.label,
            seeds=list(seeds),
            key=plan.keys[self.arm],
            spec=dict(plan.specs[self.arm]),
            testbed=dict(plan.testbed),
            curve=dict(plan.curve),
            wanted=list(self.wanted),
            how=dict(plan.how),
            failures=str(plan.folder / "failed"),
            code=str(code_path(plan.experiment.path)) if code else None,
            code_digest=code,
        )


def make_runs(
    plan: Plan,
    workers: int | None,
    reporter: Reporter,
    *,
    fresh: bool = False,
    executor: Executor | None = None,
) -> Made:
    """Makes what is missing. `fresh` forgets finished runs first. Raises KDError where nothing can be made."""
    with Workshop([plan], workers, reporter, executor=executor) as shop:
        if fresh:
            shop.forget()
        return shop.make(plan)


class Workshop:
    """Workers for some plans, which run on one kind of device. Use as a context manager: leaving it ends them.

    `make` may be called again with the same plans grown by seeds: the workers wait meanwhile. Nobody else works on
    these papers and scales as long as it is open. Raises KDError where somebody does. Runs that results under
    `recorded` hold are not made. `executor`: where workers are started, on this machine by default.
    """

    def __init__(
        self,
        plans: Sequence[Plan],
        workers: int | None,
        reporter: Reporter,
        *,
        recorded: Path | None = None,
        executor: Executor | None = None,
    ) -> None:
        self.plans, self.reporter, self._recorded = list(plans), reporter, recorded
        self._executor = executor
        self._asked, self._pool, self._stack = workers, None, contextlib.ExitStack()
        self._device = device_of(self.plans[0], executor)
        self._errors: dict[str, KDError] = {}

    _pool: Pool | None

    def __enter__(self) -> Workshop:
        for plan in self.plans:
            check_disk(plan.cache)
        try:
            for plan in self.plans:
                what = f"{plan.paper} at scale {plan.scale.name}"
                self._stack.enter_context(sole_user(plan.folder / "lock", what))
            self._stack.enter_context(terminable())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.stop()
        self._stack.close()

    def forget(self) -> None:
        """Forgets the finished runs of the plans, whatever their number of seeds."""
        for plan in self.plans:
            for key in set(plan.keys.values()):
                for seed in plan.scale.seeds:
                    forget_run(plan.cache, key, seed)

    def finished(self, plan: Plan) -> dict[tuple[str, int], RunResults]:
        """The runs of a plan that are there."""
        return finished_runs(plan, self._device, self._recorded)

    def error(self, plan: Plan) -> KDError | None:
        """Why no run of a paper can be made."""
        return self._errors.get(plan.paper)

    def make(self, plan: Plan) -> Made:
        """Makes what is missing of one plan. Raises KDError where nothing can be made."""
        started, finished = time.monotonic(), self.finished(plan)
        failures, interrupted = self.make_all([plan], {plan.paper: finished})
        if plan.paper in self._errors:
            raise self._errors[plan.paper]
        if failures or interrupted or len(finished) < len(plan.runs):
            finished = self.finished(plan)
        return Made(finished, failures, interrupted, time.monotonic() - started)

    def make_all(
        self, plans: Sequence[Plan], finished: Mapping[str, Any]
    ) -> tuple[tuple[Failure, ...], bool]:
        """Makes what is missing of plans: what failed, and whether it was interrupted. `finished`: there, by paper."""
        several = len(self.plans) > 1
        orders = orders_of(plans, finished, several)
        if not orders:
            return (), False
        shown = _shown(plans, finished, orders, self._workers(orders), several)
        session = _Session(self._pool_for(orders), self.reporter, shown, orders, self._errors)
        try:
            failures = session.work(self._workers(orders), several)
            if self._executor is not None and self._executor.remote and not failures:
                self._wait_until_seen(plans)
            return failures, False
        except KeyboardInterrupt:
            self._end()
            return tuple(session.failures), True
        except BaseException:
            self._end()
            raise
        finally:
            _ignore_interrupts(self.reporter.end)

    def _wait_until_seen(self, plans: Sequence[Plan]) -> None:
        """On a network file system a run that another node has kept is seen some seconds later."""
        until = time.monotonic() + SEEN
        for plan in plans:
            while plan.paper not in self._errors and len(self.finished(plan)) < len(plan.runs):
                if time.monotonic() > until:
                    return
                time.sleep(1.0)

    def _workers(self, orders: Sequence[Order]) -> int:
        settings = self.plans[0].scale.settings
        count = self._asked
        if count is None:
            count = int(settings.get("gpu_workers", GPU_WORKERS)) if self._device == "cuda" else cores()
            if self._executor is not None:
                count = self._executor.workers(self._device, count)
        return max(1, min(count, len(orders)))

    def _pool_for(self, orders: Sequence[Order]) -> Pool:
        if self._pool is None:
            plan = self.plans[0]
            count = self._workers(orders)
            remote = self._executor is not None and self._executor.remote
            threads = max(1, cores() // count) if self._device == "cuda" and not remote else 1
            download = all(one.scale.settings.get("download", False) for one in self.plans)
            job = Job(cache=str(plan.cache), device=self._device, threads=threads, number=0)
            logs = plan.folder / "logs" if len(self.plans) == 1 else plan.cache / "reproduce" / "logs"
            variables = worker_variables(threads, offline=not download)
            self._pool = Pool(job, logs, variables, self._executor)
        return self._pool

    def _end(self) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool = None


def orders_of(
    plans: Sequence[Plan], finished: Mapping[str, Collection[tuple[str, int]]], several: bool
) -> list[Order]:
    """What is missing of plans, each run once: of plans that share a key and seed, with the metrics of all of them."""
    found: dict[tuple[str, str, int], list[Order]] = {}
    for plan in plans:
        for (key, seed), (arm, _) in plan.runs.items():
            if (key, seed) in finished[plan.paper]:
                continue
            label = f"{plan.paper}/{arm}" if several else arm
            same = found.setdefault((plan.scale.testbed, key, seed), [])
            order = Order(plan, label, seed, arm, plan.wanted(key, seed))
            for place, other in enumerate(same):
                if other.plan.how == plan.how:
                    both = tuple(dict.fromkeys([*other.wanted, *order.wanted]))
                    same[place] = replace(other, wanted=both, papers=other.papers + 1)
                    break
            else:
                same.append(order)
    return [order for same in found.values() for order in same]


class _Session:
    """Hands orders to workers until all are done."""

    def __init__(
        self,
        pool: Pool,
        reporter: Reporter,
        shown: Shown,
        orders: Sequence[Order],
        errors: dict[str, KDError],
    ) -> None:
        self.pool, self.reporter, self.shown = pool, reporter, shown
        self.orders = {order.task: order for order in orders}
        self.pending = list(orders)
        self.failures: list[Failure] = []
        self.losses = Losses()
        self.errors = errors
        self.seconds = seconds_by_arm((task, run["seconds"]) for task, run in shown.done.items())

    def work(self, workers: int, several: bool) -> tuple[Failure, ...]:
        """Returns the runs that failed. Raises KDError when no worker can start, or its one paper cannot be set up."""
        self.several = several
        self.reporter.begin(self.shown)
        for number, worker in self.pool.workers.items():  # of an earlier look
            if worker.ready:
                self.next_task(number)
        for _ in range(workers - len(self.pool.workers)):
            self.pool.start_worker()
        while self.pending or any(True for _ in self.pool.running()):
            event = self.pool.event(timeout=0.5)
            if event is not None:
                self.handle(event)
        return tuple(self.failures)

    def handle(self, event: dict[str, Any]) -> None:
        kind, number = event["event"], event["worker"]
        if kind in ("ready", "done"):
            self.pool.workers[number].ready = True
            self.losses.ready()
            self.next_task(number)
            return
        if kind == "broken":
            self.broken(event)
            return
        if kind == "exited":
            self.exited(number)
            return
        self.reporter.event(event)
        if kind in ("finished", "failed"):
            self.pool.workers[number].ended.add(event["seed"])
        if kind == "finished":
            self.seconds.setdefault(event["arm"], event["seconds"])
            self.traceback((event["arm"], event["seed"])).unlink(missing_ok=True)
        if kind == "failed":
            self.failures.append(Failure(event["arm"], event["seed"], event["message"], event["file"]))

    def next_task(self, number: int) -> None:
        """Gives the worker the next task: what most papers share, a seed nobody is at, seeds in order, the longest arm.

        Workers at different seeds do not wait for each other's per-seed SFT start.
        """
        self.pool.workers[number].task = None
        if not self.pending:
            return
        busy = {seed for work in self.pool.running() for seed in work.seeds}

        def rank(order: Order) -> tuple[Any, ...]:
            role = ROLES[order.plan.experiment.arms[order.arm].role]
            place = order.plan.scale.seeds.index(order.seed)
            return -order.papers, order.seed in busy, place, -self.seconds.get(order.label, 0.0), role

        first = min(self.pending, key=rank)
        seeds = self.seeds_with(first)
        for seed in seeds:
            self.pending.remove(self.orders[first.label, seed])
        self.pool.give(number, first.work(seeds))

    def seeds_with(self, order: Order) -> list[int]:
        """The seeds of a task: those of the order's arm that are trained together, or its own alone."""
        from reproductions.engine.work.cohort import LARGEST, can_cohort

        spec = order.plan.specs[order.arm]
        if self.pool.device != "cpu" or can_cohort(spec["method"], spec) is not None:
            return [order.seed]
        others = [one.seed for one in self.pending if one.label == order.label and one.wanted == order.wanted]
        return [order.seed, *sorted(set(others) - {order.seed})][:LARGEST]

    def exited(self, number: int) -> None:
        """A worker is gone: its run is begun again where that is allowed, else failed; another takes its place."""
        worker = self.pool.workers[number]
        task, ended = worker.task, worker.ended
        why = self.pool.remove(number)
        if task is None and not (worker.ready and self.pool.reschedules):
            self.losses.unready(self.pool.reschedules, why)
        for seed in task.seeds if task is not None else ():
            if seed not in ended:
                self.unfinished(self.orders[task.arm, seed], why)  # type: ignore[union-attr]
        for other, one in self.pool.workers.items():
            if self.pending and one.ready and one.task is None:
                self.next_task(other)
        if self.pending:
            self.pool.start_worker()

    def unfinished(self, order: Order, why: str) -> None:
        """A run whose worker died."""
        first = why.splitlines()[0]
        if self.losses.again(order.task, self.pool.reschedules):
            self.pending.append(order)
            self.reporter.event({"event": "lost", "arm": order.label, "seed": order.seed, "message": first})
            return
        path = self.traceback(order.task)
        write_atomic(path, why + "\n")
        failure = Failure(order.label, order.seed, first, str(path))
        self.failures.append(failure)
        self.reporter.event({"event": "failed", **asdict(failure)})

    def traceback(self, task: Task) -> Path:
        """Where the worker writes the traceback of a run that fails."""
        order = self.orders[task]
        return failure_path(order.plan.folder / "failed", order.label, order.seed)

    def broken(self, event: Mapping[str, Any]) -> None:
        """A paper's own code, its testbed or torch cannot be loaded: none of its runs can be made, others can."""
        work = self.pool.workers[event["worker"]].task
        plan = None if work is None else self.orders[work.arm, work.seeds[0]].plan
        if event["known"]:
            error = KDError(event["message"])
        else:
            folder = plan.folder if plan else self.shown_folder()
            path = folder / "failed" / "setup.txt"
            write_atomic(path, event["text"])
            error = KDError(f"no worker can be set up: {event['message']} (traceback: {path})")
        if plan is None or not self.several:
            raise error
        self.errors[plan.paper] = error
        self.reporter.event({"event": "note", "message": f"{plan.paper}: {error}"})
        self.pending = [order for order in self.pending if order.plan.paper != plan.paper]
        self.next_task(event["worker"])

    def shown_folder(self) -> Path:
        """Where what concerns no single paper is written."""
        return next(iter(self.orders.values())).plan.folder


def _shown(
    plans: Sequence[Plan],
    finished: Mapping[str, Any],
    orders: Sequence[Order],
    workers: int,
    several: bool,
) -> Shown:
    """What the progress display is told; arms of one key are shown as made by the first of them."""
    first = plans[0]
    if several:
        tasks: tuple[Task, ...] = tuple(order.task for order in orders)
        paper, done, arms, headline = f"{len(plans)} papers", dict[Task, Any](), (), ()
    else:
        done = {
            first.runs[name]: {"metrics": run.metrics, "seconds": run.seconds["total"]}
            for name, run in finished[first.paper].items()
        }
        tasks, paper = tuple(first.runs.values()), first.paper
        arms = tuple(dict.fromkeys(arm for arm, _ in tasks))  # type: ignore[assignment]
        headline = first.experiment.headline  # type: ignore[assignment]
    return Shown(
        paper=paper,
        scale=first.scale.name,
        tasks=tasks,
        arms=arms,
        headline=headline,
        done=done,
        workers=workers,
        minutes=sum(plan.scale.minutes for plan in plans),
        to_make=to_make([(o.plan, (o.arm, o.seed), o.wanted) for o in orders]),
    )


def _ignore_interrupts(action: Any) -> None:
    """A second Ctrl-C must not leave the terminal without its cursor."""
    try:
        action()
    except KeyboardInterrupt:
        action()
