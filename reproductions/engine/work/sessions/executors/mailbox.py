"""A worker process spoken to through files of a folder that the runner and the node share.

Files need nothing but a folder that is shared, which KD_CACHE is anyway: no open port, no node that reaches another.
Each is opened for every look at it and closed again, as network file systems want it. In the folder lie `in` (lines for
the worker), `out` (what it says), `stop` (the runner wants it to end), `end` (its exit code). Beside it lies `alive`,
which the runner changes every few seconds: where it stays as it was, the runner is gone and the worker is ended.

What Slurm runs on a node is this module, sent there by value: it may import the standard library alone, and `process`,
which is sent along.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from reproductions.engine.work.sessions.executors.process import Process

POLL = 0.2  # seconds between two looks
ALIVE = "alive"


class Lines:
    """The whole lines of a file that grows, each once."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._rest = path, 0, b""

    def new(self) -> list[str]:
        """What came since the last look; a line that is not whole yet waits."""
        try:
            with self._path.open("rb") as handle:
                handle.seek(self._place)
                found = handle.read()
        except FileNotFoundError:
            return []
        self._place += len(found)
        *whole, self._rest = (self._rest + found).split(b"\n")
        return [line.decode("utf-8") for line in whole]


def append(path: Path, lines: Sequence[str]) -> None:
    """Adds lines to a file."""
    with path.open("ab") as handle:
        handle.write("".join(f"{line}\n" for line in lines).encode("utf-8"))


class Beat:
    """Whether the runner lives: what is in its file has changed in the last `patience` seconds of the node's clock."""

    def __init__(self, path: Path, patience: float) -> None:
        self._path, self._patience = path, patience
        self._seen, self._since = b"", time.monotonic()

    def stopped(self) -> bool:
        """Looks."""
        try:
            found = self._path.read_bytes()
        except OSError:  # gone with the runner, or not to be read just now
            found = self._seen
        if found != self._seen:
            self._seen, self._since = found, time.monotonic()
        return time.monotonic() - self._since > self._patience


def serve(
    folder: str, arguments: Sequence[str], variables: Mapping[str, str], log: str, patience: float
) -> None:
    """What a job does: starts a worker, carries lines to and fro, ends it when the runner wants it or is gone.

    A job that was begun a second time (Slurm puts one back whose node failed) does nothing: its runs are with others.
    """
    place = Path(folder)
    try:
        (place / "claimed").touch(exist_ok=False)
    except FileExistsError:
        return
    if (place / "stop").exists():
        return
    process = Process(arguments, variables, Path(log))
    try:
        said: queue.SimpleQueue[str] = queue.SimpleQueue()

        def listen() -> None:
            for line in process.lines():
                said.put(line.rstrip("\n"))

        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        inbox, beat = Lines(place / "in"), Beat(place.parent / ALIVE, patience)
        going = True
        while going:
            going = listener.is_alive()  # asked first: what it said before it ended is in the queue
            lines = [said.get() for _ in range(said.qsize())]
            if lines:
                append(place / "out", lines)
            for line in inbox.new():
                process.send(line)
            if (place / "stop").exists() or beat.stopped():
                process.kill()
            if going:
                time.sleep(POLL)
    finally:
        process.kill()
        code = process.wait().code
    partial = place / "end.partial"
    partial.write_text(str(code), encoding="utf-8")
    partial.rename(place / "end")
