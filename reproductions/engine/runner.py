"""Makes every run of a reproduction that is not made yet, then judges the paper's claims."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reproductions.engine import report
from reproductions.engine.claims import ClaimSet, load_claims
from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Experiment, config_hash, load_experiment, paper_folder
from reproductions.engine.files import cache_root, check_disk, sole_user, write_atomic
from reproductions.engine.judge import Judgement, ValueJudgement, judge_claims, judge_values
from reproductions.engine.pool import Pool, cores, has_gpu, worker_environment
from reproductions.engine.progress import Plan, Reporter, Task, default_reporter, seconds_by_arm
from reproductions.engine.results import assemble, dumps, read_results, results_path, write_results
from reproductions.engine.state import State, now
from reproductions.engine.worker import Job

DONE, NOT_REPRODUCED, BAD, INTERRUPTED = 0, 1, 2, 130
_GPU_WORKERS = 6


@dataclass(frozen=True)
class Failure:
    """A run that raised, and where its traceback is."""

    arm: str
    seed: int
    message: str
    file: str


@dataclass(frozen=True)
class Outcome:
    """What a reproduction came to: exit code 0, 1 (a claim is not reproduced), 2 (a run failed) or 130."""

    exit_code: int
    message: str
    judgements: tuple[Judgement, ...] = ()
    values: tuple[ValueJudgement, ...] = ()
    table: tuple[report.Row, ...] = ()
    failures: tuple[Failure, ...] = ()
    results_path: Path | None = None
    complete: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return {**asdict(self), "results_path": str(self.results_path) if self.results_path else None}


@dataclass
class _Request:
    """What was asked for, checked."""

    experiment: Experiment
    claims: ClaimSet
    scale: str
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    state: State
    cache: Path
    papers_root: Path | None
    replace: bool
    complete: bool = field(init=False)

    def __post_init__(self) -> None:
        declared = self.experiment.scale(self.scale).seeds
        self.complete = set(self.arms) == set(self.experiment.arms_at(self.scale)) and self.seeds == tuple(
            declared
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple((arm, seed) for seed in self.seeds for arm in self.arms)

    @property
    def results_path(self) -> Path:
        """The committed file for a complete reproduction, a file in the state folder for a part of one."""
        if self.complete:
            return results_path(self.experiment.paper, self.scale, self.papers_root)
        return self.state.folder / "partial" / f"{self.scale}.json"


def reproduce(
    paper: str,
    scale: str = "tiny",
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
    workers: int | None = None,
    resume: bool = True,
    reporter: Reporter | None = None,
    *,
    replace: bool = False,
    as_json: bool = False,
    papers_root: Path | None = None,
    cache: Path | None = None,
    quiet: bool = False,
) -> Outcome:
    """Makes the missing runs, writes results, plot and report, judges the claims and prints all of it.

    `seeds`: only the first so many; `arms`: only these. Then nothing outside the cache is written. `resume=False`
    forgets finished runs. `replace` allows writing over results of another configuration. Raises KDError on bad input.
    """
    request = _check(paper, scale, seeds, arms, replace, papers_root, cache)
    _check_recorded(request)
    check_disk(request.cache)
    check_disk(request.results_path.parent if request.complete else request.cache)
    reporter = reporter if reporter is not None else default_reporter(as_json=as_json)
    with sole_user(request.state.folder / "lock", f"{paper} at scale {scale}"), _terminable():
        if not resume:
            request.state.forget()
        outcome = _reproduce(request, workers, reporter)
    if as_json:
        print(json.dumps(outcome.as_dict(), indent=1))
    elif not quiet:
        _show(request, outcome)
    return outcome


def _reproduce(request: _Request, workers: int | None, reporter: Reporter) -> Outcome:
    finished = {task: saved for task in request.tasks if (saved := request.state.read_run(*task))}
    missing = [task for task in request.tasks if task not in finished]
    job = _job(request, workers, len(missing))
    failures: tuple[Failure, ...] = ()
    if missing:
        plan = _plan(request, finished, job[1])
        with Pool(job[0], request.state.folder / "logs", _environment(request, job[0])) as pool:
            session = _Session(request, pool, reporter, plan, missing)
            try:
                failures = session.work(job[1])
            except KeyboardInterrupt:
                return _interrupted(request)
            finally:
                _ignore_interrupts(reporter.end)
    finished = {task: saved for task in request.tasks if (saved := request.state.read_run(*task))}
    return _conclude(request, finished, failures, job[1])


class _Session:
    """Hands tasks to workers until all are done."""

    def __init__(
        self, request: _Request, pool: Pool, reporter: Reporter, plan: Plan, missing: list[Task]
    ) -> None:
        self.request, self.pool, self.reporter, self.plan = request, pool, reporter, plan
        self.pending = missing
        self.failures: list[Failure] = []
        self.seconds = seconds_by_arm((task, run["seconds"]) for task, run in plan.done.items())
        self.begun, self.clock = now(), time.monotonic()

    def work(self, workers: int) -> tuple[Failure, ...]:
        """Returns the runs that failed. Raises KDError when no worker can start."""
        self.reporter.begin(self.plan)
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
            self.request.state.check_setup(event["setup"])
            _check_revision(self.request, event["setup"])
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
            self.request.state.session(self.begun, self.clock)
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
            role = roles[self.request.experiment.arms[arm].role]
            return (seed in busy, self.request.seeds.index(seed), -self.seconds.get(arm, 0.0), role)

        task = min(self.pending, key=rank)
        self.pending.remove(task)
        self.pool.give(number, task)

    def exited(self, number: int) -> None:
        """A worker is gone: its run failed, another worker takes its place."""
        task = self.pool.workers[number].task
        why = self.pool.remove(number)
        if task is None:
            raise KDError(f"a worker ended before it could take a run: {why}")
        path = self.request.state.failure_path(*task)
        write_atomic(path, why + "\n")
        failure = Failure(*task, why.splitlines()[0], str(path))
        self.failures.append(failure)
        self.reporter.event({"event": "failed", **asdict(failure)})
        if self.pending:
            self.pool.start_worker()

    def broken(self, event: Mapping[str, Any]) -> KDError:
        """The experiment or its testbed cannot be loaded: no run can be made."""
        if event["known"]:
            return KDError(event["message"])
        path = self.request.state.folder / "failed" / "setup.txt"
        write_atomic(path, event["text"])
        return KDError(f"the experiment cannot be set up: {event['message']} (traceback: {path})")


def _check(
    paper: str,
    scale: str,
    seeds: int | None,
    arms: Sequence[str] | None,
    replace: bool,
    papers_root: Path | None,
    cache: Path | None,
) -> _Request:
    experiment = load_experiment(paper, papers_root)
    declared = experiment.scale(scale).seeds
    if seeds is not None and not 1 <= seeds <= len(declared):
        raise KDError(
            f"--seeds {seeds}: scale {scale} of {paper} declares {len(declared)}, so 1 to {len(declared)}"
        )
    here = experiment.arms_at(scale)
    for arm in arms or ():
        experiment.arm(arm)
        if arm not in here:
            raise KDError(f'{paper} does not run arm "{arm}" at scale {scale}, only {", ".join(here)}')
    root = cache if cache is not None else cache_root()
    return _Request(
        experiment=experiment,
        claims=load_claims(paper_folder(paper, papers_root) / "claims.yaml", experiment),
        scale=scale,
        seeds=tuple(declared[:seeds]),
        arms=tuple(arm for arm in here if not arms or arm in arms),
        state=State(root, paper, scale, config_hash(experiment, scale)),
        cache=root,
        papers_root=papers_root,
        replace=replace,
    )


def _check_recorded(request: _Request) -> None:
    """Before anything is trained: may the results be written where they will have to be?"""
    path = request.results_path
    if not request.complete or request.replace or not path.exists():
        return
    recorded = read_results(path)
    today = config_hash(request.experiment, request.scale)
    if recorded["config_hash"] != today:
        raise KDError(
            f"{path}: holds results of config {recorded['config_hash']}, this experiment is {today}; "
            "nothing was run or overwritten; --replace allows it"
        )


def _check_revision(request: _Request, setup: Mapping[str, Any]) -> None:
    """The recorded results may be on other data although the configuration is the same."""
    path = request.results_path
    if not request.complete or request.replace or not path.exists():
        return
    recorded = read_results(path)["data_revision"]
    if recorded != setup["data_revision"]:
        raise KDError(
            f"{path}: holds results on data {recorded}, the data is now {setup['data_revision']}; "
            "nothing was overwritten; --replace allows it"
        )


def _job(request: _Request, workers: int | None, missing: int) -> tuple[Job, int]:
    settings = request.experiment.scale(request.scale).settings
    gpu = missing > 0 and settings.get("device", "auto") != "cpu" and has_gpu()
    count = workers or (int(settings.get("gpu_workers", _GPU_WORKERS)) if gpu else cores())
    count = max(1, min(count, missing or count))
    job = Job(
        paper=request.experiment.paper,
        scale=request.scale,
        cache=str(request.cache),
        config_hash=config_hash(request.experiment, request.scale),
        papers_root=str(request.papers_root) if request.papers_root else None,
        device="cuda" if gpu else "cpu",
        threads=max(1, cores() // count) if gpu else 1,
        number=0,
    )
    return job, count


def _environment(request: _Request, job: Job) -> dict[str, str]:
    settings = request.experiment.scale(request.scale).settings
    return worker_environment(job.threads, offline=not settings.get("download", False))


def _plan(request: _Request, finished: Mapping[Task, Mapping[str, Any]], workers: int) -> Plan:
    return Plan(
        paper=request.experiment.paper,
        scale=request.scale,
        tasks=request.tasks,
        arms=request.arms,
        headline=request.experiment.headline,
        done={
            task: {"metrics": saved["record"]["metrics"], "seconds": saved["record"]["seconds"]["total"]}
            for task, saved in finished.items()
        },
        workers=workers,
        minutes=request.experiment.scale(request.scale).minutes,
    )


def _conclude(
    request: _Request,
    finished: Mapping[Task, Mapping[str, Any]],
    failures: tuple[Failure, ...],
    workers: int,
) -> Outcome:
    setup = request.state.setup()
    if failures or len(finished) < len(request.tasks) or setup is None:
        files = ", ".join(failure.file for failure in failures)
        message = (
            f"{len(failures)} of {len(request.tasks)} runs failed; tracebacks: {files}. "
            f"{len(finished)} finished runs are kept in {request.state.folder}; the same command makes the rest."
        )
        return Outcome(BAD, message, failures=failures)
    results = assemble(
        request.experiment,
        request.scale,
        setup,
        finished.values(),
        workers=workers,
        wall_seconds=request.state.wall_seconds(),
    )
    results = json.loads(dumps(results))
    judgements = tuple(judge_claims(request.claims, request.scale, results))
    values = tuple(judge_values(request.claims, request.scale, results))
    table = tuple(report.rows(request.claims, results))
    path = request.results_path
    _check_revision(request, setup)
    written = write_results(path, results)
    outcome = Outcome(
        exit_code=_exit_code(judgements, values),
        message=_message(request, path, written),
        judgements=judgements,
        values=values,
        table=table,
        results_path=path,
        complete=request.complete,
    )
    if written or not path.with_suffix(".md").exists() or not path.with_suffix(".png").exists():
        report.write(path, _report(request, outcome, results))
    return outcome


def _report(request: _Request, outcome: Outcome, results: Mapping[str, Any]) -> report.Report:
    return report.Report(
        claims=request.claims,
        results=results,
        rows=outcome.table,
        headline=request.experiment.headline,
        judgements=outcome.judgements,
        values=outcome.values,
    )


def _show(request: _Request, outcome: Outcome) -> None:
    if outcome.results_path is None:
        print(outcome.message, file=sys.stderr)
        return
    report.show(_report(request, outcome, read_results(outcome.results_path)), outcome.message)


def _message(request: _Request, path: Path, written: bool) -> str:
    if not request.complete:
        return f"only a part of the arms or seeds: recorded results are left alone; this part is in {path}"
    return f"results: {path}" + ("" if written else " (unchanged: the same figures)")


def _exit_code(judgements: Sequence[Judgement], values: Sequence[ValueJudgement]) -> int:
    verdicts = {judgement.verdict for judgement in judgements} | {value.verdict for value in values}
    return DONE if verdicts <= {"reproduced", "not run"} else NOT_REPRODUCED


def _interrupted(request: _Request) -> Outcome:
    kept = sum(1 for task in request.tasks if request.state.run_path(*task).exists())
    message = (
        f"interrupted: {kept} of {len(request.tasks)} runs are finished and kept in {request.state.folder}; "
        "the same command goes on from there"
    )
    return Outcome(INTERRUPTED, message)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end a reproduction the way Ctrl-C does."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {}
    try:
        for name in (signal.SIGTERM, signal.SIGHUP):
            previous[name] = signal.signal(name, interrupt)
    except ValueError:
        previous.clear()  # not the main thread: the caller deals with signals
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def _ignore_interrupts(action: Any) -> None:
    """A second Ctrl-C must not leave the terminal without its cursor."""
    try:
        action()
    except KeyboardInterrupt:
        action()
