"""Workers on this machine."""

from __future__ import annotations

from reproductions.engine.work.sessions import machine
from reproductions.engine.work.sessions.executors.base import Command
from reproductions.engine.work.sessions.executors.process import Process


class Local:
    """Starts processes here. A run that killed its worker is not begun again: it most likely took all the memory."""

    reschedules = 0
    remote = False

    def start(self, command: Command) -> Process:
        """Starts a process."""
        return Process(command.arguments, command.variables, command.log)

    def workers(self, device: str, here: int) -> int:
        """As many as this machine has room for."""
        return here

    def has_gpu(self) -> bool:
        """Whether torch finds a CUDA device."""
        return machine.has_gpu()

    def close(self) -> None:
        """Nothing."""
