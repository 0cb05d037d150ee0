"""Workers as jobs of Slurm, submitted by submitit; lines go through files (`mailbox`)."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root
from reproductions.engine.work.sessions.executors import mailbox, process
from reproductions.engine.work.sessions.executors.base import RESCHEDULES, Command, needed
from reproductions.engine.work.sessions.executors.process import Ended

PATIENCE = 300.0  # seconds without a sign of the runner after which a job ends itself
_BEAT = 5.0  # seconds between two signs
_GRACE = 10.0  # seconds in which a job is to end its worker, and in which its last words are to be seen
_LOOK = 2.0  # seconds between two looks at a job's state
ASK = 30.0  # seconds between two questions to Slurm, each about all jobs


class Slurm:
    """Submits one job a worker, with options of sbatch: `["partition=gpu", "time=240"]`; `time`, in minutes, is needed.

    `cluster=local` among them makes the jobs processes of this machine, submitit's way to try them out. The files lie
    in `folder`, which must be on a file system that all nodes share: by default in KD_CACHE. Slurm is asked `every` so
    many seconds what became of the jobs; a job that sees no sign of the runner for `patience` seconds ends. Raises
    KDError where there is no Slurm, or an option is none.
    """

    reschedules = RESCHEDULES
    remote = True

    def __init__(
        self,
        options: Sequence[str] = (),
        folder: Path | None = None,
        patience: float = PATIENCE,
        every: float = ASK,
    ) -> None:
        submitit = needed("submitit")
        given = options_of(options)
        local = given.pop("cluster", "slurm") == "local"
        if "time" not in given:
            raise KDError("--executor slurm needs the minutes that a job may take: --slurm time=240")
        if not local and not (shutil.which("sbatch") and shutil.which("srun")):
            raise KDError("--executor slurm: there is no Slurm here, sbatch and srun are not on the PATH")
        self._gpu = any(name.startswith("gpus") for name in given) or "gpu" in str(given.get("gres", ""))
        root = (folder or cache_root()) / "slurm"
        root.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix="", dir=root))
        self._patience, self._every, self._count = patience, every, 0
        self._asking, self._asked = threading.Lock(), time.monotonic()
        for module in (process, mailbox):
            needed("cloudpickle").register_pickle_by_value(module)
        try:
            self._submit = _submitter(submitit, self._folder / "jobs", given, local)
        except (TypeError, ValueError) as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise KDError(f"--slurm: {' '.join(str(error).split())}") from error
        self._closed = threading.Event()
        self._beats = 0
        self._beat()
        threading.Thread(target=self._go_on_beating, daemon=True).start()

    def start(self, command: Command) -> _Worker:
        """Submits a job. Raises KDError where Slurm takes it not."""
        place = self._folder / f"worker-{self._count}"
        self._count += 1
        place.mkdir()
        arguments = (list(command.arguments), dict(command.variables), str(command.log), self._patience)
        try:
            job = self._submit(mailbox.serve, str(place), *arguments)
        except Exception as error:  # what sbatch said
            raise KDError(f"Slurm takes no job: {' '.join(str(error).split())}") from error
        return _Worker(job, place, self._gone)

    def workers(self, device: str, here: int) -> int:
        """Raises KDError: how many jobs a cluster has room for is not ours to guess."""
        raise KDError("--executor slurm needs the number of jobs: --workers N")

    def has_gpu(self) -> bool:
        """Whether the options ask for one."""
        return self._gpu

    def close(self) -> None:
        """Forgets the files; the workers' logs are elsewhere."""
        self._closed.set()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _beat(self) -> None:
        self._beats += 1
        with contextlib.suppress(OSError):  # a disk that is full for a moment
            (self._folder / mailbox.ALIVE).write_text(f"{os.getpid()} {self._beats}", encoding="utf-8")

    def _gone(self, job: Any) -> bool:
        """Whether a job is over; asked by the threads of all workers, of which one goes to Slurm now and then."""
        with self._asking:
            force = time.monotonic() - self._asked > self._every
            try:
                return bool(job.done(force_check=force))
            except Exception:  # Slurm does not answer just now
                return False
            finally:
                if force:
                    self._asked = time.monotonic()

    def _go_on_beating(self) -> None:
        while not self._closed.wait(_BEAT):
            self._beat()


class _Worker:
    """The runner's end of a job."""

    def __init__(self, job: Any, place: Path, gone: Callable[[Any], bool]) -> None:
        self._job, self._place, self._gone, self._lost = job, place, gone, ""
        self._killed = threading.Event()

    def send(self, line: str) -> None:
        mailbox.append(self._place / "in", [line])

    def lines(self) -> Iterator[str]:
        said, asked = mailbox.Lines(self._place / "out"), time.monotonic()
        while not self._killed.is_set():
            ended = self._end() is not None  # asked first: what it said before lies there then
            yield from said.new()
            if ended:
                return
            if time.monotonic() - asked > _LOOK:
                asked = time.monotonic()
                if self._gone(self._job) and not self._last_words():
                    self._lost = f"the worker's job {self._job.job_id} is gone: {self._why()}"
                    return
            time.sleep(mailbox.POLL)

    def kill(self) -> None:
        self._killed.set()
        (self._place / "stop").touch()
        if not (self._place / "claimed").exists():
            self._cancel()

    def wait(self) -> Ended:
        if self._lost:
            self._cancel()
            return Ended(None, self._lost)
        self._last_words()
        code = self._end()
        if code is None:
            self._cancel()
            return Ended(None, f"the worker's job {self._job.job_id} was cancelled")
        return Ended(code)

    def _end(self) -> int | None:
        try:
            return int((self._place / "end").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def _last_words(self) -> bool:
        """Whether the job says how its worker ended, now or soon."""
        until = time.monotonic() + _GRACE
        while self._end() is None and (self._place / "claimed").exists():
            if time.monotonic() > until:
                return False
            time.sleep(mailbox.POLL)
        return self._end() is not None

    def _cancel(self) -> None:
        with contextlib.suppress(Exception):
            self._job.cancel(check=False)

    def _why(self) -> str:
        """Its state, and the last line that it left."""
        with contextlib.suppress(Exception):
            said = (self._job.stderr() or "").strip().splitlines()
            return f"{self._job.state}{': ' + said[-1] if said else ''}"
        return "unknown"


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as sbatch's options: whole numbers as numbers, a word without a value as a flag.

    Raises KDError for a word that is none.
    """
    found: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not name.isidentifier():
            raise KDError(f'--slurm "{word}": not an option as sbatch has them, like partition=gpu')
        found[name] = (int(value) if value.isdigit() else value) if equals else True
    return found


def _submitter(submitit: Any, folder: Path, given: Mapping[str, Any], local: bool) -> Any:
    """submitit's function that submits a job. Options that it does not know by name go to sbatch as they are."""
    if local:
        executor = submitit.LocalExecutor(folder)
        executor.update_parameters(timeout_min=given["time"])
        return executor.submit
    executor = submitit.SlurmExecutor(folder, max_num_timeout=0)
    known = executor._valid_parameters()
    own = {name: value for name, value in given.items() if name in known}
    if "setup" in own:
        own["setup"] = [own["setup"]]
    others = {name: value for name, value in given.items() if name not in known}
    executor.update_parameters(**{"job_name": "kd-atlas", **own, "additional_parameters": others})
    return executor.submit
