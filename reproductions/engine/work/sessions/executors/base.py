"""What an executor offers: it starts a worker somewhere and gives a connection to it."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from reproductions.engine.errors import KDError
from reproductions.engine.work.sessions.executors.process import Ended

RESCHEDULES = 2  # how often a run is begun again whose worker on a cluster was lost


@dataclass(frozen=True)
class Command:
    """What starts a worker: Python's arguments, variables that must stand before torch is imported, its log's place."""

    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    log: Path
    gpu: bool = False


class Connection(Protocol):
    """A worker that was started, or waits for its turn on a cluster."""

    def send(self, line: str) -> None:
        """Hands it a line; one that died meanwhile says so by ending."""

    def lines(self) -> Iterator[str]:
        """What it says, until it has ended or is lost."""

    def kill(self) -> None:
        """Ends it, with everything it started; does not wait for it."""

    def wait(self) -> Ended:
        """Waits until it has ended, and gives back what it held."""


class Executor(Protocol):
    """Starts workers. `reschedules`: how often a run is begun again that a dead worker left.

    `remote`: workers may be on other machines, so that KD_CACHE must lie on a file system which all of them see.
    """

    reschedules: int
    remote: bool

    def start(self, command: Command) -> Connection:
        """Starts a worker, or asks for one. Raises KDError where the cluster takes none."""

    def workers(self, device: str, here: int) -> int:
        """How many are started where nobody says it; `here`: so many on this machine alone."""

    def has_gpu(self) -> bool:
        """Whether workers get a GPU."""

    def close(self) -> None:
        """Leaves the cluster; every worker has ended before."""


def needed(package: str) -> Any:
    """An optional package. Raises KDError that says how it is installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = {"submitit": "slurm"}.get(package, package)
        raise KDError(
            f"--executor {extra} needs the package {package}: pip install 'kd-atlas[{extra}]' ({error})"
        ) from None
