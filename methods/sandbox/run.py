"""A program in a process of its own: begun, watched, ended, cleaned up after."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import IO, Any

from methods.errors import MethodError
from methods.sandbox import backends, system_calls
from methods.sandbox.inside import OUT_OF_MEMORY
from methods.sandbox.limits import Limits, Outcome

INSIDE = Path(__file__).with_name("inside.py")
LOOK = 0.02  # seconds between two looks at a running program
GRACE = 30.0  # seconds in which the guards must stand


class Sandbox:
    """Runs Python programs that nobody has read; only where `allowed` is true.

    `backend` is one of `backends.BACKENDS`, by default the strongest that works here. Raises MethodError where running
    is not allowed, where no backend holds, and where the guards cannot be put up; a program that fails raises nothing.
    """

    def __init__(
        self, limits: Limits | None = None, *, allowed: bool = False, backend: str | None = None
    ) -> None:
        if allowed is not True:
            raise MethodError(
                "programs that a model wrote are not run unless that is allowed: set run_programs: true"
            )
        self.limits, self.backend = limits or Limits(), backends.chosen(backend)

    def run(self, program: str, stdin: str = "") -> Outcome:
        """Run one program, given as source text, with `stdin` to read."""
        with tempfile.TemporaryDirectory(prefix="kd-sandbox-", ignore_cleanup_errors=True) as place:
            folder = Path(place).resolve() / "work"
            folder.mkdir()
            path = folder / "program.py"
            path.write_text(program, encoding="utf-8", errors="replace")
            try:
                return self._run(folder, path, stdin)
            finally:
                remove(folder)

    def run_all(self, programs: Sequence[str], stdins: Sequence[str] = (), workers: int = 1) -> list[Outcome]:
        """Run many, `workers` at a time; the outcomes stand in the order of the programs."""
        given = list(stdins) or [""] * len(programs)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            return list(pool.map(self.run, programs, given))

    def _run(self, folder: Path, path: Path, stdin: str) -> Outcome:
        read, ready = os.pipe()
        try:
            with tempfile.TemporaryFile() as given:
                given.write(stdin.encode("utf-8", "replace"))
                given.seek(0)
                began = time.monotonic()
                process = subprocess.Popen(
                    self._command(folder, path, ready),
                    stdin=given,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    cwd=folder,
                    env=_environment(folder),
                    pass_fds=[ready],
                    start_new_session=True,
                )
            os.close(ready)
            ready = -1
            return _Watch(process, read, folder, self.limits, began).outcome(self.backend)
        finally:
            os.close(read)
            if ready >= 0:
                os.close(ready)

    def _command(self, folder: Path, path: Path, ready: int) -> list[str]:
        limits, guarded = self.limits, self.backend != "limits"
        readable = [
            *backends.library(),
            str(INSIDE),
            *(str(Path(name).resolve()) for name in limits.readable),
        ]
        code = system_calls.program() if guarded else None
        spec = {
            "program": str(path),
            "folder": str(folder),
            "ready": ready,
            "path": list(limits.readable),
            "readable": readable,
            "landlock": backends.landlock() if guarded else 0,
            "filter": code.hex() if code else "",
            "limits": {
                "RLIMIT_CPU": limits.cpu_seconds,
                "RLIMIT_AS": limits.memory,
                "RLIMIT_FSIZE": limits.file_size,
                "RLIMIT_NOFILE": limits.open_files,
                "RLIMIT_NPROC": 0,
                "RLIMIT_CORE": 0,
            },
        }
        # -P, -s and -S: nothing is imported from its folder, from the user's packages or from any other.
        python = [backends.PYTHON, "-P", "-s", "-S", "-B", "-X", "utf8", str(INSIDE), json.dumps(spec)]
        if self.backend != "bubblewrap":
            return python
        return [*backends.wrapped(backends.bubblewrap() or "bwrap", str(folder), readable), *python]


class _Watch:
    """Reads what a process writes and ends it where it goes too far."""

    def __init__(
        self, process: subprocess.Popen[bytes], ready: int, folder: Path, limits: Limits, began: float
    ) -> None:
        self._process, self._ready, self._folder, self._limits = process, ready, folder, limits
        self._began, self._started = began, False
        self._said: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}

    def outcome(self, backend: str) -> Outcome:
        try:
            why = self._watch()
        finally:
            status, used = self._end()
        code = os.waitstatus_to_exitcode(status)
        texts = {name: bytes(said).decode("utf-8", "replace") for name, said in self._said.items()}
        if not self._started:
            raise MethodError(
                f"sandbox: its guards do not stand ({backend}): {texts['stderr'].strip()[-500:]}"
            )
        cpu = used.ru_utime + used.ru_stime
        return Outcome(
            why or self._by_itself(code, cpu), code, **texts, seconds=time.monotonic() - self._began,
            cpu_seconds=cpu, backend=backend,
        )  # fmt: skip

    def _watch(self) -> str:
        """Until it has ended, or why it must."""
        with selectors.DefaultSelector() as waiting:
            for name in self._said:
                stream: IO[bytes] = getattr(self._process, name)
                os.set_blocking(stream.fileno(), False)
                waiting.register(stream, selectors.EVENT_READ, name)
            waiting.register(self._ready, selectors.EVENT_READ, "ready")
            looked = 0.0
            while waiting.get_map():
                for key, _ in waiting.select(LOOK):
                    said = os.read(key.fd, 65536)
                    if key.data == "ready":
                        self._started = self._started or bool(said)
                        self._began = time.monotonic()
                    else:
                        self._said[key.data] += said
                    if not said:
                        waiting.unregister(key.fileobj)
                if sum(map(len, self._said.values())) > self._limits.output:
                    self._cut()
                    return "output"
                now = time.monotonic()
                if now - self._began > (self._limits.seconds if self._started else GRACE):
                    return "seconds"
                if now - looked > LOOK:
                    looked = now
                    if _too_much(self._folder, self._limits):
                        return "disk"
                # Its ends of the pipes may outlive it only in other processes, which it cannot have.
                if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                    self._drain(waiting)
                    return ""
            return self._closed()

    def _closed(self) -> str:
        """It has closed both streams; wait for its end all the same."""
        while not os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if time.monotonic() - self._began > (self._limits.seconds if self._started else GRACE):
                return "seconds"
            if _too_much(self._folder, self._limits):
                return "disk"
            time.sleep(LOOK)
        return ""

    def _drain(self, waiting: selectors.BaseSelector) -> None:
        """What still stands in the pipes."""
        for key in list(waiting.get_map().values()):
            try:
                while said := os.read(key.fd, 65536):
                    if key.data == "ready":
                        self._started = True
                    else:
                        self._said[key.data] += said
            except BlockingIOError:
                pass
        self._cut()

    def _cut(self) -> None:
        left = self._limits.output
        for said in self._said.values():
            del said[left:]
            left -= len(said)

    def _end(self) -> tuple[int, Any]:
        """End the whole group, whatever it is doing; nothing can refuse SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        _, status, used = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        for name in self._said:
            getattr(self._process, name).close()
        return status, used

    def _by_itself(self, code: int, cpu: float) -> str:
        if code == OUT_OF_MEMORY:
            return "memory"
        signalled = -code if code < 0 else code - 128  # bubblewrap hands a signal on as an exit code
        if signalled == signal.SIGXCPU or (
            signalled == signal.SIGKILL and cpu >= 0.9 * self._limits.cpu_seconds
        ):
            return "cpu"
        if code < 0 or (code > 128 and signalled in set(signal.Signals)):
            return "killed"
        return "done" if code == 0 else "failed"


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of ours: no key and no path; the order of sets is the same every time."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}
    place = {"HOME": str(folder), "TMPDIR": str(folder)}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", **place, **threads}


def _too_much(folder: Path, limits: Limits) -> bool:
    """Whether its files are too many or too large together; looks at no more of them than it may have."""
    waiting, files, size = [folder], 0, 0
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    files += 1
                    try:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(Path(entry.path))
                    except OSError:  # gone by now
                        continue
                    if files > limits.files or size > limits.disk:
                        return True
        except OSError:  # a name beyond what a path may have counts as one
            files += 1
    return False


def remove(folder: Path) -> None:
    """A folder with all that is in it, however deep: what lies in a folder is moved up before that is removed."""
    own = secrets.token_hex(8)  # names that no program can have chosen
    names = (folder / f"{own}-{number}" for number in count())
    while entries := list(os.scandir(folder)):
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                Path(entry.path).unlink()
                continue
            Path(entry.path).chmod(0o700)
            with os.scandir(entry.path) as inside:
                for one in inside:
                    Path(one.path).rename(next(names))
            Path(entry.path).rmdir()
    folder.rmdir()
