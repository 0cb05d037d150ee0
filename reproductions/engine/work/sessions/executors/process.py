"""A worker process on the machine at hand, spoken to by lines.

What Ray and Slurm run on a node is this module, sent there by value: it may import the standard library alone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a worker ended. `code`: that of its process, minus the signal's number where one ended it.

    None where nobody is left to say it: the node or the job is gone; `why` then has it in words.
    """

    code: int | None
    why: str = ""


class Process:
    """A Python process in a session of its own: Ctrl-C reaches the runner, and the runner decides.

    `arguments` are Python's, `variables` are added to the environment, what it says on stderr goes to `log`. Raises
    OSError where the log cannot be written.
    """

    def __init__(self, arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **variables},
                start_new_session=True,
                text=True,
                bufsize=1,
            )

    def send(self, line: str) -> None:
        """Hands it a line; one that died meanwhile says so by ending."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def lines(self) -> Iterator[str]:
        """What it says on stdout, until it ends; half a line, of one that was killed, is left out."""
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # the stream is closed under us by `wait`
            for line in self._process.stdout:
                if line.endswith("\n"):
                    yield line

    def kill(self) -> None:
        """Ends it at once, with everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Waits until it has ended."""
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        return Ended(code)
