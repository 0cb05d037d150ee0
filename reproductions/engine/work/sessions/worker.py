"""A worker process: takes tasks (an arm with some of its seeds) on stdin, answers with events on stdout, as JSON lines.

An executor starts it as `python -m reproductions.engine.work.sessions.worker <job as JSON>`. When whoever started it
dies, however it dies, the pipe closes and the worker ends at once: no orphan goes on burning a core. A worker may serve
several papers: everything about a paper comes with its tasks.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import write_atomic
from reproductions.engine.plan.code import load_code

if TYPE_CHECKING:
    from reproductions.engine.work.run import Run

_SEEN = 30.0  # seconds until a file that another machine wrote is seen on any network file system

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What all tasks of a worker share.

    `beacon`: a file in the runner's cache that the worker must see; `software`: versions that it must have. Both are
    for workers on other machines.
    """

    cache: str
    device: str
    threads: int
    number: int
    beacon: str = ""
    software: dict[str, str | None] = field(default_factory=dict)

    def to_json(self) -> str:
        """For the command line of the worker."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Work:
    """A task: seeds of one arm. `arm` is what events call it; `wanted` metrics are measured as `how` says.

    `testbed` is as read_testbed gave it: more than the spec holds. `code`: a paper's own Python, whose components its
    arms name. `failures`: the folder for tracebacks.
    """

    arm: str
    seeds: list[int]
    key: str
    spec: dict[str, Any]
    testbed: dict[str, Any]
    curve: dict[str, Any]
    wanted: list[str]
    how: dict[str, str]
    failures: str
    code: str | None = None
    code_digest: str | None = None
    validate: bool = False  # measured on the validation split, and nothing of it is kept: a sweep

    def to_json(self) -> str:
        """A line for the worker."""
        return json.dumps(asdict(self))


def main(argument: str) -> None:
    """Serves tasks until stdin closes."""
    job = Job(**json.loads(argument))
    # Whatever a library prints goes to the log (stderr); the pipe to the runner carries events only.
    pipe = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    tasks: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(tasks,), daemon=True).start()

    def send(event: dict[str, Any]) -> None:
        try:
            pipe.write(json.dumps({"worker": job.number, **event}) + "\n")
        except BrokenPipeError:
            os._exit(1)

    try:
        _check_place(job)
        import torch

        torch.set_num_threads(job.threads)
    except Exception as error:  # said to the runner, which says it to the user and stops
        send(_broken(error))
        return
    send({"event": "ready"})
    for number in count():
        work = Work(**tasks.get())
        try:
            _prepare(work)
        except Exception as error:  # missing data or models end the paper, not one run after the other
            send(_broken(error))
            continue
        ahead = _trained_together(job, work, send)
        for seed in work.seeds:
            _run_one(job, work, seed, send, ahead.pop(seed, None))
        if number == 0:  # by now everything is imported
            _freeze()
        send({"event": "done"})


def _check_place(job: Job) -> None:
    """Whether runs that are made here count for the runner. Raises KDError with what keeps them from it."""
    from reproductions.engine.work.environment import software

    until = time.monotonic() + _SEEN
    while job.beacon and not Path(job.beacon).exists():
        if time.monotonic() > until:
            raise KDError(
                f"{platform.node()} does not see the runner's cache, {job.cache}: KD_CACHE must lie on a file system "
                "that all nodes share"
            )
        time.sleep(0.5)
    here = software()
    other = {name: version for name, version in job.software.items() if here.get(name) != version}
    if other:
        told = ", ".join(
            f"{name} {here.get(name)} (the runner: {version})" for name, version in other.items()
        )
        raise KDError(f"{platform.node()} has {told}: its runs would not count for the runner")


def _freeze() -> None:
    """Libraries and what is kept between runs are no garbage: Trainer looks through all of it whenever it starts."""
    import gc

    gc.collect()
    gc.freeze()


def _listen(tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


def _prepare(work: Work) -> None:
    """The paper's own Python and the testbed; what was loaded for the last task is at hand."""
    if work.code is not None and load_code(Path(work.code)) != work.code_digest:
        raise KDError(f"{work.code} was changed after the runs were planned; start again")
    from reproductions.testbeds import load_testbed

    load_testbed(work.testbed)


def _trained_together(job: Job, work: Work, send: Send) -> dict[int, Run]:
    """The runs of the task's seeds that have no student yet, trained as one; {} where each is to be trained alone.

    What cannot be trained together is said nowhere: the runs are then made one by one, and say what is wrong.
    """
    if len(work.seeds) < 2:
        return {}
    from reproductions.engine.work.cohort import can_cohort, train_together

    lacking = [seed for seed in work.seeds if _Making(job, work, seed, send).before is None]
    if len(lacking) < 2 or can_cohort(work.spec["method"], work.spec) is not None:
        return {}
    for seed in lacking:
        send({"event": "started", "arm": work.arm, "seed": seed})
    runs = [_Making(job, work, seed, send).run(work.wanted) for seed in lacking]
    try:
        train_together(runs)
    except Exception:
        traceback.print_exc()  # into the worker's log
        return {}
    return dict(zip(lacking, runs, strict=True))


def _run_one(job: Job, work: Work, seed: int, send: Send, ahead: Run | None = None) -> None:
    """One run; it is kept in the cache before it is said to be finished. One that fails stops no other."""
    import gc

    import torch

    if ahead is None:
        send({"event": "started", "arm": work.arm, "seed": seed})
    try:
        metrics, seconds = (validated if work.validate else make)(job, work, seed, send, ahead)
    except Exception as error:  # the traceback is kept and its place is reported
        path = failure_path(work.failures, work.arm, seed)
        write_atomic(path, traceback.format_exc())
        message = {"message": _one_line(error), "known": _is_known(error), "file": str(path)}
        message["broken"] = is_broken(error)
        send({"event": "failed", "arm": work.arm, "seed": seed, **message})
    else:
        send({"event": "finished", "arm": work.arm, "seed": seed, "seconds": seconds, "metrics": metrics})
    finally:
        gc.collect()
        if job.device == "cuda":
            torch.cuda.empty_cache()


def failure_path(folder: str | Path, arm: str, seed: int) -> Path:
    """Where the traceback of a run that fails is written."""
    return Path(folder) / f"{arm.replace('/', '-')}-seed{seed}.txt"


def make(
    job: Job, work: Work, seed: int, send: Send, ahead: Run | None = None
) -> tuple[dict[str, float], float]:
    """One run with all metrics that are wanted, those that it has already left alone: its metrics and its seconds.

    Where only metrics are missing, they are measured on the kept student; where none is kept, it is trained again.
    `ahead`: the run, its student trained with others of its arm.
    """
    from reproductions.engine.store.cache import keep_run
    from reproductions.engine.work.environment import now
    from reproductions.engine.work.execute import execute, measure
    from reproductions.engine.work.sessions.students import keep_student, read_student

    started, this = now(), _Making(job, work, seed, send)
    before, lacking, folder = this.before, this.lacking, this.folder
    if before is not None and not lacking:  # somebody else was quicker
        return dict(before.metrics), before.seconds["total"]
    if before is not None and not this.testbed.watches_training(lacking):
        student = read_student(folder, before.student)
        if student is not None:
            return this.add(measure(this.run(lacking), student), again=False)
    wanted = list(dict.fromkeys([*(before.metrics if before else ()), *work.wanted]))
    run = ahead if ahead is not None and before is None else this.run(wanted)
    record = execute(run, keep=lambda model, digest: keep_student(folder, model, digest))
    if before is not None and before.student is not None and before.student == record["student"]:
        return this.add(record, again=True)
    keep_run(
        this.root,
        work.key,
        record,
        made_with=this.made_with | ({"cohort": run.cohort} if run.cohort > 1 else {}),
        metrics=this.testbed.metrics,
        started=started,
        finished=now(),
        **this.about,
    )
    return record["metrics"], record["seconds"]["total"]


class _Making:
    """What there is of a run, and what is needed to make the rest."""

    def __init__(self, job: Job, work: Work, seed: int, send: Send) -> None:
        from reproductions.engine.store.cache import read_run
        from reproductions.engine.work.environment import environment_of
        from reproductions.engine.work.sessions.students import student_path
        from reproductions.testbeds import load_testbed

        self._job, self._work, self._seed, self._send = job, work, seed, send
        whole = load_testbed(work.testbed)
        self.root, self.testbed = Path(job.cache), whole.at(seed)
        self.made_with = environment_of(job.device, job.threads, whole.revision, work.spec["method"])
        self.folder = student_path(self.root, work.key, seed, self.made_with)
        self.about: dict[str, Any] = {"how": work.how, "testbed": self.testbed.name}
        self.before = read_run(self.root, work.key, seed, self.made_with, **self.about)
        self.lacking = [n for n in work.wanted if self.before is None or n not in self.before.metrics]

    def run(self, wanted: list[str]) -> Run:
        """The run, of which these metrics are wanted."""
        import torch

        from reproductions.engine.work.artifacts import Artifacts
        from reproductions.engine.work.run import Run

        return Run(
            {**self._work.spec, "curve": self._work.curve},
            self._seed,
            testbed=self.testbed,
            device=torch.device(self._job.device),
            artifacts=Artifacts(self.root),
            arm=self._work.arm,
            events=self._send,
            wanted=wanted,
        )

    def add(self, record: dict[str, Any], again: bool) -> tuple[dict[str, float], float]:
        """Adds metrics to what there is."""
        from reproductions.engine.store.cache import add_measures
        from reproductions.engine.work.environment import now

        add_measures(
            self.root,
            self._work.key,
            record,
            made_with=self.made_with,
            metrics=self.testbed.metrics,
            date=now(),
            again=again,
            **self.about,
        )
        before = self.before.metrics if self.before else {}
        return {**before, **record["metrics"]}, record["seconds"]["total"]


def validated(
    job: Job, work: Work, seed: int, send: Send, ahead: Run | None = None
) -> tuple[dict[str, float], float]:
    """The wanted metrics of a fresh student on the validation split, five digits each, and the seconds it took.

    `ahead`: the run, its student trained with others of its arm.
    """
    import shutil
    import time

    from reproductions.engine.files import significant
    from reproductions.engine.metrics import value
    from reproductions.engine.work.seeding import seed_everything
    from reproductions.engine.work.surroundings import train

    started = time.perf_counter()
    run = ahead or _Making(job, work, seed, send).run(work.wanted)
    try:
        seed_everything(seed)
        columns = run.measure.columns(train(run), split="validation", wanted=work.wanted)
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    found = {name: significant(value(run.testbed.metrics[name], columns), 5) for name in work.wanted}
    return found, run.ahead + time.perf_counter() - started


def _broken(error: Exception) -> dict[str, Any]:
    text = traceback.format_exc()
    return {"event": "broken", "message": _one_line(error), "known": _is_known(error), "text": text}


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if _is_known(error) else f"{type(error).__name__}: {text}"


def _is_known(error: Exception) -> bool:
    """Whether the error speaks to the user (ours do) rather than to a programmer."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, KDError) or bool(names & {"CatalogError", "MethodError"})


def is_broken(error: BaseException | None) -> bool:
    """Whether a method ended because its training had broken a model."""
    while error is not None:
        if "Broken" in {kind.__name__ for kind in type(error).__mro__}:
            return True
        error = error.__cause__
    return False


if __name__ == "__main__":
    main(sys.argv[1])
