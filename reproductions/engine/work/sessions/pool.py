"""Worker processes side by side: one task each at a time, events in one queue, nobody left behind."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reproductions.engine.work.sessions.worker import Job, Work

ROOT = Path(__file__).resolve().parents[4]
_LOG_TAIL = 2000


@dataclass
class Worker:
    """A process and the task it is at: an arm with some of its seeds."""

    process: subprocess.Popen[str]
    log: Path
    task: Work | None = None
    ended: set[int] = field(default_factory=set)  # the task's seeds that are finished or have failed
    ready: bool = False


class Pool:
    """Starts workers, hands them tasks, collects their events. Use as a context manager: leaving it kills them."""

    def __init__(self, job: Job, logs: Path, environment: dict[str, str]) -> None:
        self._job, self._logs, self._environment = job, logs, environment
        self.workers: dict[int, Worker] = {}
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        self._count = 0

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def device(self) -> str:
        """The kind of device that the workers run on."""
        return self._job.device

    def start_worker(self) -> None:
        """Starts one process in a session of its own: Ctrl-C reaches the runner, and the runner decides."""
        number = self._count
        self._count += 1
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"worker-{number}.log"
        job = replace(self._job, number=number)
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "reproductions.engine.work.sessions.worker", job.to_json()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=self._environment,
                start_new_session=True,
                text=True,
                bufsize=1,
            )
        self.workers[number] = Worker(process, log)
        threading.Thread(target=self._listen, args=(number, process), daemon=True).start()

    def give(self, number: int, task: Work) -> None:
        """Hands a task to a worker; a worker that died meanwhile says so by its own event."""
        worker = self.workers[number]
        worker.task, worker.ended = task, set()
        assert worker.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.write(task.to_json() + "\n")
            worker.process.stdin.flush()

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
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(worker.process.pid, signal.SIGKILL)
        for worker in self.workers.values():
            worker.process.wait()
            for stream in (worker.process.stdin, worker.process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        self.workers.clear()

    def remove(self, number: int) -> str:
        """Takes a worker out that has ended; returns why, in words."""
        worker = self.workers.pop(number)
        code = worker.process.wait()
        text = worker.log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:].strip()
        if code < 0:
            name = signal.Signals(-code).name
            why = f"the worker was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        else:
            why = f"the worker ended with exit code {code}"
        return f"{why}\n{text}" if text else why

    def _listen(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError):  # the stream is closed under us when the pool stops
            for line in process.stdout:
                self._events.put(json.loads(line))
        self._events.put({"event": "exited", "worker": number})


def worker_environment(threads: int, offline: bool) -> dict[str, str]:
    """Environment variables that must stand before torch is imported."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        environment[name] = str(threads)
    environment["TOKENIZERS_PARALLELISM"] = "false"
    environment["HF_HUB_DISABLE_TELEMETRY"] = "1"
    environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if offline:
        environment["HF_HUB_OFFLINE"] = environment["HF_DATASETS_OFFLINE"] = "1"
    paths = [str(ROOT), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    return environment


def cores() -> int:
    """Processor cores this process may use: its affinity, and the quota of its container."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        allowed, _, period = quota.read_text().partition(" ")
        if allowed.isdigit() and period.strip().isdigit():
            count = min(count, max(1, round(int(allowed) / int(period))))
    return count


def has_gpu() -> bool:
    """Whether torch finds a CUDA device; asked in another process, so that this one stays light."""
    if not Path("/dev/nvidiactl").exists() and not Path("/dev/dxg").exists():
        return False
    question = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", question], capture_output=True, check=False).returncode == 0
