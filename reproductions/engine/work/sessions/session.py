"""Makes the runs of a plan that are not made yet, by worker processes; every finished run is kept at once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import check_disk, sole_user, write_atomic
from reproductions.engine.plan.experiment import code_path
from reproductions.engine.plan.plan import Plan, Task
from reproductions.engine.signals import terminable
from reproductions.engine.store.arm import RunResults
from reproductions.engine.store.cache import forget_run, read_run
from reproductions.engine.work.environment import decisive
from reproductions.engine.work.sessions.pool import Pool, cores, has_gpu, worker_environment
from reproductions.engine.work.sessions.progress import Reporter, Shown, seconds_by_arm
from reproductions.engine.work.sessions.progress.needs import to_make
from reproductions.engine.work.sessions.worker import Job

GPU_WORKERS = 6


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


def finished_runs(plan: Plan, device: str) -> dict[tuple[str, int], RunResults]:
    """The plan's runs that the cache holds, made with what would make them now; a broken file is set aside."""
    found = {}
    for key, seed in plan.runs:
        arm = plan.runs[key, seed][0]
        made_with = decisive(device, None, plan.specs[arm]["method"])
        revision = plan.specs[arm]["testbed"].get("revision")
        run = read_run(plan.cache, key, seed, {**made_with, "data_revision": revision})
        if run is not None:
            found[key, seed] = run
    return found


def make_runs(plan: Plan, workers: int | None, reporter: Reporter, *, fresh: bool = False) -> Made:
    """Makes what is missing. `fresh` forgets finished runs first. Raises KDError where nothing can be made."""
    check_disk(plan.cache)
    settings = plan.scale.settings
    gpu = settings.get("device", "auto") != "cpu" and has_gpu()
    device = "cuda" if gpu else "cpu"
    with sole_user(plan.folder / "lock", f"{plan.paper} at scale {plan.scale.name}"), terminable():
        if fresh:
            for key, seed in plan.runs:
                forget_run(plan.cache, key, seed)
        finished = finished_runs(plan, device)
        missing = [task for name, task in plan.runs.items() if name not in finished]
        started, interrupted = time.monotonic(), False
        failures: tuple[Failure, ...] = ()
        if missing:
            count = workers or (int(settings.get("gpu_workers", GPU_WORKERS)) if gpu else cores())
            count = max(1, min(count, len(missing)))
            threads = max(1, cores() // count) if gpu else 1
            job = Job(
                testbed=dict(plan.testbed),
                cache=str(plan.cache),
                failures=str(plan.folder / "failed"),
                device=device,
                threads=threads,
                number=0,
                code=str(code_path(plan.experiment.path)) if plan.experiment.code else None,
                code_digest=plan.experiment.code,
            )
            environment = worker_environment(threads, offline=not settings.get("download", False))
            with Pool(job, plan.folder / "logs", environment) as pool:
                session = _Session(plan, pool, reporter, _shown(plan, finished, count, missing), missing)
                try:
                    failures = session.work(count)
                except KeyboardInterrupt:
                    interrupted = True
                finally:
                    _ignore_interrupts(reporter.end)
            finished = finished_runs(plan, device)
        return Made(finished, failures, interrupted, time.monotonic() - started)


class _Session:
    """Hands tasks to workers until all are done."""

    def __init__(self, plan: Plan, pool: Pool, reporter: Reporter, shown: Shown, missing: list[Task]) -> None:
        self.plan, self.pool, self.reporter, self.shown = plan, pool, reporter, shown
        self.pending = list(missing)
        self.failures: list[Failure] = []
        self.seconds = seconds_by_arm((task, run["seconds"]) for task, run in shown.done.items())

    def work(self, workers: int) -> tuple[Failure, ...]:
        """Returns the runs that failed. Raises KDError when no worker can start."""
        self.reporter.begin(self.shown)
        for _ in range(workers):
            self.pool.start_worker()
        while self.pending or any(True for _ in self.pool.running()):
            event = self.pool.event(timeout=0.5)
            if event is not None:
                self.handle(event)
        return tuple(self.failures)

    def handle(self, event: dict[str, Any]) -> None:
        kind, number = event["event"], event["worker"]
        if kind == "ready":
            self.next_task(number)
            return
        if kind == "broken":
            raise self.broken(event)
        if kind == "exited":
            self.exited(number)
            return
        self.reporter.event(event)
        if kind == "finished":
            self.seconds.setdefault(event["arm"], event["seconds"])
            self.traceback((event["arm"], event["seed"])).unlink(missing_ok=True)
        if kind == "failed":
            self.failures.append(Failure(event["arm"], event["seed"], event["message"], event["file"]))
        if kind in ("finished", "failed"):
            self.next_task(number)

    def next_task(self, number: int) -> None:
        """Gives the worker the next task: a seed nobody else is at, then seeds in order, then the longest arm.

        Workers at different seeds do not wait for each other's per-seed SFT start.
        """
        worker = self.pool.workers[number]
        worker.task = None
        if not self.pending:
            return
        busy = {seed for _, seed in self.pool.running()}
        roles = {"method": 0, "ablation": 1, "baseline": 2}

        def rank(task: Task) -> tuple[Any, ...]:
            arm, seed = task
            role = roles[self.plan.experiment.arms[arm].role]
            return (seed in busy, self.plan.seeds.index(seed), -self.seconds.get(arm, 0.0), role)

        task = min(self.pending, key=rank)
        self.pending.remove(task)
        arm, seed = task
        self.pool.give(number, task, {"key": self.plan.keys[arm], "spec": self.plan.specs[arm]})

    def exited(self, number: int) -> None:
        """A worker is gone: its run failed, another worker takes its place."""
        task = self.pool.workers[number].task
        why = self.pool.remove(number)
        if task is None:
            raise KDError(f"a worker ended before it could take a run: {why}")
        path = self.traceback(task)
        write_atomic(path, why + "\n")
        failure = Failure(*task, why.splitlines()[0], str(path))
        self.failures.append(failure)
        self.reporter.event({"event": "failed", **asdict(failure)})
        if self.pending:
            self.pool.start_worker()

    def traceback(self, task: Task) -> Path:
        """Where the worker writes the traceback of a run that fails."""
        return self.plan.folder / "failed" / f"{task[0]}-seed{task[1]}.txt"

    def broken(self, event: Mapping[str, Any]) -> KDError:
        """The experiment's own code or torch cannot be loaded: no run can be made."""
        if event["known"]:
            return KDError(event["message"])
        path = self.plan.folder / "failed" / "setup.txt"
        write_atomic(path, event["text"])
        return KDError(f"no worker can be set up: {event['message']} (traceback: {path})")


def _shown(
    plan: Plan, finished: Mapping[tuple[str, int], RunResults], workers: int, missing: Sequence[Task]
) -> Shown:
    """What the progress display is told; arms of one key are shown as made by the first of them."""
    done = {
        plan.runs[name]: {"metrics": run.metrics, "seconds": run.seconds["total"]}
        for name, run in finished.items()
    }
    return Shown(
        paper=plan.paper,
        scale=plan.scale.name,
        tasks=tuple(plan.runs.values()),
        arms=tuple(dict.fromkeys(arm for arm, _ in plan.runs.values())),
        headline=plan.experiment.headline,
        done=done,
        workers=workers,
        minutes=plan.scale.minutes,
        to_make=to_make(plan, missing),
    )


def _ignore_interrupts(action: Any) -> None:
    """A second Ctrl-C must not leave the terminal without its cursor."""
    try:
        action()
    except KeyboardInterrupt:
        action()
