"""Worker processes side by side: one task each at a time, events in one queue, nobody left behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reproductions.engine.files import write_atomic
from reproductions.engine.work.environment import software
from reproductions.engine.work.sessions.executors.base import Command, Connection, Executor
from reproductions.engine.work.sessions.executors.local import Local
from reproductions.engine.work.sessions.executors.process import Ended
from reproductions.engine.work.sessions.worker import Job, Work

ROOT = Path(__file__).resolve().parents[4]
_LOG_TAIL = 2000
_WORKER = "reproductions.engine.work.sessions.worker"
_PASSED_ON = ("KD_CACHE", "KD_DATA_DIR", "KD_MODEL_DIR", "KD_COMMIT", "HF_HOME", "HF_HUB_CACHE")


@dataclass
class Worker:
    """A process and the task it is at: an arm with some of its seeds."""

    connection: Connection
    log: Path
    task: Work | None = None
    ended: set[int] = field(default_factory=set)  # the task's seeds that are finished or have failed
    ready: bool = False


class Pool:
    """Starts workers, hands them tasks, collects their events. Use as a context manager: leaving it kills them.

    `variables` are added to a worker's environment; `executor` says where workers are, on this machine by default.
    """

    def __init__(
        self, job: Job, logs: Path, variables: Mapping[str, str], executor: Executor | None = None
    ) -> None:
        self._job, self._logs, self._variables = job, logs, variables
        self._executor: Executor = executor or Local()
        self.workers: dict[int, Worker] = {}
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._listeners: list[threading.Thread] = []
        self._count = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def device(self) -> str:
        """The kind of device that the workers run on."""
        return self._job.device

    @property
    def reschedules(self) -> int:
        """How often a run is begun again that a dead worker left."""
        return self._executor.reschedules

    def start_worker(self) -> None:
        """Starts one process. Raises KDError where a cluster takes none."""
        number = self._count
        self._count += 1
        if self._executor.remote and not self._job.beacon:
            beacon = self._logs / f"beacon-{secrets.token_hex(4)}"
            write_atomic(beacon, "seen by every node\n")
            self._job = replace(self._job, beacon=str(beacon), software=software())
        log = self._logs / f"worker-{number}.log"
        job = replace(self._job, number=number)
        command = Command(("-m", _WORKER, job.to_json()), self._variables, log, gpu=self.device == "cuda")
        connection = self._executor.start(command)
        self.workers[number] = Worker(connection, log)
        listener = threading.Thread(target=self._listen, args=(number, connection), daemon=True)
        self._listeners.append(listener)
        listener.start()

    def give(self, number: int, task: Work) -> None:
        """Hands a task to a worker; a worker that died meanwhile says so by its own event."""
        worker = self.workers[number]
        worker.task, worker.ended = task, set()
        worker.connection.send(task.to_json())

    def event(self, timeout: float) -> dict[str, Any] | None:
        """The next event, or None when there was none in `timeout` seconds."""
        try:
            return self._events.get(timeout=timeout)
        except queue.Empty:
            return None

    def running(self) -> Iterator[Work]:
        """The tasks being worked on."""
        return (worker.task for worker in self.workers.values() if worker.task is not None)

    def stop(self) -> None:
        """Ends all workers, with everything they started."""
        for worker in self.workers.values():
            worker.connection.kill()
        for worker in self.workers.values():
            worker.connection.wait()
        self.workers.clear()
        if self._executor.remote:  # nobody may ask a cluster that is left
            for listener in self._listeners:
                listener.join(timeout=10)
        if self._job.beacon:
            Path(self._job.beacon).unlink(missing_ok=True)
            self._job = replace(self._job, beacon="")

    def remove(self, number: int) -> str:
        """Takes a worker out that has ended; returns why, in words."""
        worker = self.workers.pop(number)
        why = _in_words(worker.connection.wait())
        text = ""
        with contextlib.suppress(OSError):  # a node that does not share our disk has it
            text = worker.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()
        return f"{why}\n{text}" if text else why

    def _listen(self, number: int, connection: Connection) -> None:
        with contextlib.suppress(ValueError):  # a line that is none of ours
            for line in connection.lines():
                self._events.put(json.loads(line))
        self._events.put({"event": "exited", "worker": number})


def _in_words(ended: Ended) -> str:
    """How a worker ended."""
    if ended.code is None:
        return ended.why
    if ended.code < 0:
        name = signal.Signals(-ended.code).name
        return f"the worker was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the worker ended with exit code {ended.code}"


def worker_variables(threads: int, offline: bool) -> dict[str, str]:
    """Environment variables that must stand before torch is imported, and what says where data are.

    A worker has them beside the variables of whatever machine it is on.
    """
    variables = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        variables[name] = str(threads)
    variables["TOKENIZERS_PARALLELISM"] = "false"
    variables["HF_HUB_DISABLE_TELEMETRY"] = "1"
    variables["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if offline:
        variables["HF_HUB_OFFLINE"] = variables["HF_DATASETS_OFFLINE"] = "1"
    variables["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return variables
