"""A worker process: takes (arm, seed) tasks on stdin, answers with events on stdout, one JSON value a line.

Started by the runner as `python -m reproductions.engine.worker <job as JSON>`. When the runner dies, however it dies,
the pipe closes and the worker ends at once: no orphan goes on burning a core.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import sys
import threading
import traceback
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import write_atomic

_PACKAGES = ("torch", "transformers", "trl", "datasets")


@dataclass(frozen=True)
class Job:
    """What all tasks of a worker share."""

    paper: str
    scale: str
    cache: str
    config_hash: str
    papers_root: str | None
    device: str
    threads: int
    number: int

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
        served = _prepare(job)
    except Exception as error:  # said to the runner, which says it to the user and stops
        send(
            {
                "event": "broken",
                "message": _one_line(error),
                "known": _is_known(error),
                "text": traceback.format_exc(),
            }
        )
        return
    send({"event": "ready", "setup": served.setup})
    while True:
        task = tasks.get()
        _run_task(served, task["arm"], task["seed"], send)


@dataclass(frozen=True)
class _Served:
    job: Job
    experiment: Any
    testbed: Any
    state: Any
    device: str
    setup: dict[str, Any]


def _listen(tasks: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        tasks.put(json.loads(line))
    os._exit(0)


def _prepare(job: Job) -> _Served:
    import torch

    from reproductions.engine.experiment import load_experiment
    from reproductions.engine.state import State

    torch.set_num_threads(job.threads)
    experiment = load_experiment(job.paper, Path(job.papers_root) if job.papers_root else None)
    testbed = experiment.load_testbed(job.scale)
    state = State(Path(job.cache), job.paper, job.scale, job.config_hash)
    setup = {
        "data_revision": testbed.revision,
        "device_type": job.device,
        "metrics": {name: metric.as_dict() for name, metric in testbed.metrics.items()},
        "environment": _environment(job.device, job.threads),
    }
    return _Served(job, experiment, testbed, state, job.device, setup)


def _run_task(served: _Served, arm: str, seed: int, send: Any) -> None:
    import gc
    import tempfile

    import torch

    from reproductions.engine.run import execute, make_run
    from reproductions.engine.sharing import find, keep, shared_key
    from reproductions.engine.state import now

    send({"event": "started", "arm": arm, "seed": seed})
    started = now()
    scratch = Path(tempfile.mkdtemp(prefix="kd-atlas-"))
    try:
        run = make_run(
            served.experiment,
            arm,
            seed,
            served.job.scale,
            testbed=served.testbed,
            device=served.device,
            cache=Path(served.job.cache),
            events=send,
            scratch=scratch,
        )
        key = shared_key(served.experiment, served.job.scale, arm, seed, served.setup)
        record = find(Path(served.job.cache), key)
        if record is None:
            record = execute(run, served.experiment)
            keep(Path(served.job.cache), key, served.job.paper, record)
        else:  # another paper has this very run; its arm may have another name here
            record["arm"] = arm
        served.state.write_run(record, started)
    except (
        Exception
    ) as error:  # one run fails, the others go on; the traceback is kept and its place is reported
        path = served.state.failure_path(arm, seed)
        write_atomic(path, traceback.format_exc())
        send({"event": "failed", "arm": arm, "seed": seed, "message": _one_line(error), "file": str(path)})
    else:
        send(
            {
                "event": "finished",
                "arm": arm,
                "seed": seed,
                "seconds": record["seconds"]["total"],
                "metrics": record["metrics"],
            }
        )
    finally:
        gc.collect()
        if served.device == "cuda":
            torch.cuda.empty_cache()


def _environment(device: str, threads: int) -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": threads,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if _is_known(error) else f"{type(error).__name__}: {text}"


def _is_known(error: Exception) -> bool:
    """Whether the error speaks to the user (ours do) rather than to a programmer."""
    return isinstance(error, KDError) or type(error).__name__ in ("CatalogError", "MethodError")


if __name__ == "__main__":
    main(sys.argv[1])
