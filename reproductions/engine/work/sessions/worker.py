"""A worker process: takes tasks (an arm with some of its seeds) on stdin, answers with events on stdout, as JSON lines.

Started by the pool as `python -m reproductions.engine.work.sessions.worker <job as JSON>`. When whoever started it
dies, however it dies, the pipe closes and the worker ends at once: no orphan goes on burning a core. A worker may serve
several papers: everything about a paper comes with its tasks.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import write_atomic
from reproductions.engine.plan.code import load_code

Send = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What all tasks of a worker share."""

    cache: str
    device: str
    threads: int
    number: int

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
        import torch

        torch.set_num_threads(job.threads)
    except Exception as error:  # said to the runner, which says it to the user and stops
        send(_broken(error))
        return
    send({"event": "ready"})
    while True:
        work = Work(**tasks.get())
        try:
            _prepare(work)
        except Exception as error:  # missing data or models end the paper, not one run after the other
            send(_broken(error))
            continue
        for seed in work.seeds:
            _run_one(job, work, seed, send)
        send({"event": "done"})


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


def _run_one(job: Job, work: Work, seed: int, send: Send) -> None:
    """One run; it is kept in the cache before it is said to be finished. One that fails stops no other."""
    import gc

    import torch

    send({"event": "started", "arm": work.arm, "seed": seed})
    try:
        metrics, seconds = (validated if work.validate else make)(job, work, seed, send)
    except Exception as error:  # the traceback is kept and its place is reported
        path = failure_path(work.failures, work.arm, seed)
        write_atomic(path, traceback.format_exc())
        message = {"message": _one_line(error), "known": _is_known(error), "file": str(path)}
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


def make(job: Job, work: Work, seed: int, send: Send) -> tuple[dict[str, float], float]:
    """One run with all metrics that are wanted, those that it has already left alone: its metrics and its seconds.

    Where only metrics are missing, they are measured on the kept student; where none is kept, it is trained again.
    """
    import torch

    from reproductions.engine.store.cache import add_measures, keep_run, read_run
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.environment import environment_of, now
    from reproductions.engine.work.execute import execute, measure
    from reproductions.engine.work.run import Run
    from reproductions.engine.work.sessions.students import keep_student, read_student, student_path
    from reproductions.testbeds import load_testbed

    started, root, testbed = now(), Path(job.cache), load_testbed(work.testbed)
    made_with = environment_of(job.device, job.threads, testbed.revision, work.spec["method"])
    folder = student_path(root, work.key, seed, made_with)
    about: dict[str, Any] = {"how": work.how, "testbed": testbed.name}
    before = read_run(root, work.key, seed, made_with, **about)
    lacking = [name for name in work.wanted if before is None or name not in before.metrics]

    def run_of(wanted: list[str]) -> Run:
        return Run(
            {**work.spec, "curve": work.curve},
            seed,
            testbed=testbed,
            device=torch.device(job.device),
            artifacts=Artifacts(root),
            arm=work.arm,
            events=send,
            wanted=wanted,
        )

    def add(record: dict[str, Any], again: bool) -> tuple[dict[str, float], float]:
        add_measures(
            root,
            work.key,
            record,
            made_with=made_with,
            metrics=testbed.metrics,
            date=now(),
            again=again,
            **about,
        )
        return {**(before.metrics if before else {}), **record["metrics"]}, record["seconds"]["total"]

    if before is not None and not lacking:  # somebody else was quicker
        return dict(before.metrics), before.seconds["total"]
    if before is not None and not testbed.watches_training(lacking):
        student = read_student(folder, before.student)
        if student is not None:
            return add(measure(run_of(lacking), student), again=False)
    wanted = list(dict.fromkeys([*(before.metrics if before else ()), *work.wanted]))
    record = execute(run_of(wanted), keep=lambda model, digest: keep_student(folder, model, digest))
    if before is not None and before.student is not None and before.student == record["student"]:
        return add(record, again=True)
    keep_run(
        root,
        work.key,
        record,
        made_with=made_with,
        metrics=testbed.metrics,
        started=started,
        finished=now(),
        **about,
    )
    return record["metrics"], record["seconds"]["total"]


def validated(job: Job, work: Work, seed: int, send: Send) -> tuple[dict[str, float], float]:
    """The wanted metrics of a fresh student on the validation split, five digits each, and the seconds it took."""
    import shutil
    import time

    import torch

    from reproductions.engine.files import significant
    from reproductions.engine.metrics import value
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.run import Run
    from reproductions.engine.work.seeding import seed_everything
    from reproductions.engine.work.surroundings import train
    from reproductions.testbeds import load_testbed

    started, testbed = time.perf_counter(), load_testbed(work.testbed)
    run = Run(
        {**work.spec, "curve": work.curve},
        seed,
        testbed=testbed,
        device=torch.device(job.device),
        artifacts=Artifacts(Path(job.cache)),
        arm=work.arm,
        events=send,
        wanted=work.wanted,
    )
    try:
        seed_everything(seed)
        columns = run.measure.columns(train(run), split="validation", wanted=work.wanted)
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    found = {name: significant(value(testbed.metrics[name], columns), 5) for name in work.wanted}
    return found, time.perf_counter() - started


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


if __name__ == "__main__":
    main(sys.argv[1])
