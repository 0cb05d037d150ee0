"""A worker process: takes runs (spec and seed) on stdin, answers with events on stdout, one JSON value a line.

Started by the pool as `python -m reproductions.engine.work.sessions.worker <job as JSON>`. When whoever started it
dies, however it dies, the pipe closes and the worker ends at once: no orphan goes on burning a core.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import write_atomic
from reproductions.engine.plan.code import load_code


@dataclass(frozen=True)
class Job:
    """What all runs of a worker share."""

    testbed: dict[
        str, Any
    ]  # as read_testbed gave it: more than a run's spec holds, and the same for all of them
    cache: str
    failures: str  # folder for tracebacks
    device: str
    threads: int
    number: int
    code: str | None = None  # a paper's own Python, whose components its arms name
    code_digest: str | None = None

    def to_json(self) -> str:
        """For the command line of the worker."""
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
        if job.code is not None and load_code(Path(job.code)) != job.code_digest:
            raise KDError(f"{job.code} was changed after the runs were planned; start again")
        from reproductions.testbeds import load_testbed

        load_testbed(job.testbed)  # missing data or models end the session, not one run after the other
    except Exception as error:  # said to the runner, which says it to the user and stops
        text = traceback.format_exc()
        send({"event": "broken", "message": _one_line(error), "known": _is_known(error), "text": text})
        return
    send({"event": "ready"})
    for number in count():
        _run_task(job, tasks.get(), send)
        if number == 0:  # by now everything is imported
            _freeze()


def _freeze() -> None:
    """Libraries and what is kept between runs are no garbage: Trainer looks through all of it whenever it starts."""
    import gc

    gc.collect()
    gc.freeze()


def _listen(tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


def _run_task(job: Job, task: dict[str, Any], send: Any) -> None:
    """One run; it is kept in the cache before it is said to be finished. One that fails stops no other."""
    import gc

    import torch

    arm, seed = task["arm"], task["seed"]
    send({"event": "started", "arm": arm, "seed": seed})
    try:
        metrics, seconds = _make(job, task, send)
    except Exception as error:  # the traceback is kept and its place is reported
        path = Path(job.failures) / f"{arm}-seed{seed}.txt"
        write_atomic(path, traceback.format_exc())
        message = {"message": _one_line(error), "known": _is_known(error), "file": str(path)}
        send({"event": "failed", "arm": arm, "seed": seed, **message})
    else:
        send({"event": "finished", "arm": arm, "seed": seed, "seconds": seconds, "metrics": metrics})
    finally:
        gc.collect()
        if job.device == "cuda":
            torch.cuda.empty_cache()


def _make(job: Job, task: dict[str, Any], send: Any) -> tuple[dict[str, float], float]:
    import torch

    from reproductions.engine.store.cache import keep_run
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.environment import environment_of, now
    from reproductions.engine.work.execute import execute
    from reproductions.engine.work.run import Run
    from reproductions.testbeds import load_testbed

    started, spec = now(), task["spec"]
    testbed = load_testbed(job.testbed)
    run = Run(
        spec,
        task["seed"],
        testbed=testbed,
        device=torch.device(job.device),
        artifacts=Artifacts(Path(job.cache)),
        arm=task["arm"],
        events=send,
    )
    record = execute(run)
    made_with = environment_of(job.device, job.threads, testbed.revision, spec["method"])
    keep_run(
        Path(job.cache),
        task["key"],
        record,
        made_with=made_with,
        metrics=testbed.metrics,
        started=started,
        finished=now(),
    )
    return record["metrics"], record["seconds"]["total"]


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if _is_known(error) else f"{type(error).__name__}: {text}"


def _is_known(error: Exception) -> bool:
    """Whether the error speaks to the user (ours do) rather than to a programmer."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, KDError) or bool(names & {"CatalogError", "MethodError"})


if __name__ == "__main__":
    main(sys.argv[1])
