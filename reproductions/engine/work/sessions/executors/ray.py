"""Workers on the nodes of a Ray cluster: an actor on each holds the worker process and hands lines to and fro.

When an actor is lost, with its node or alone, its worker's pipe closes and the worker ends; when the runner is, Ray
ends its actors. The actors are sent by value: Ray's processes need not find this package, the workers they start do.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.work.sessions.executors import process
from reproductions.engine.work.sessions.executors.base import RESCHEDULES, Command, needed
from reproductions.engine.work.sessions.executors.process import Ended, Process

_PATIENCE = 10.0  # seconds in which an actor is to end its worker, before Ray ends the actor


class Ray:
    """Starts one actor a worker, spread over the cluster: each takes one CPU, and one GPU where runs need one.

    `address` as `ray.init` takes it: without one RAY_ADDRESS, a cluster that was started on this machine, or a new one
    of this machine alone. Raises KDError where the cluster cannot be reached.
    """

    reschedules = RESCHEDULES
    remote = True

    def __init__(self, address: str | None = None) -> None:
        # Neither may a thread that asks late start a cluster, nor a cluster that we start report on its use.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray = needed("ray")
        self._mine = not self._ray.is_initialized()
        if self._mine:
            _knock(address or os.environ.get("RAY_ADDRESS", ""))
            try:
                self._ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            except Exception as error:  # whatever it is, it is the cluster's
                raise KDError(f"the Ray cluster cannot be joined: {_line(error)}") from error
        self._ray.cloudpickle.register_pickle_by_value(process)
        self._actor = _actor_class(self._ray)

    def start(self, command: Command) -> _Worker:
        """Asks for an actor; it begins as soon as a node has room for it."""
        options = {"num_cpus": 1, "num_gpus": int(command.gpu), "scheduling_strategy": "SPREAD"}
        try:
            actor = self._actor.options(max_restarts=0, **options).remote(
                list(command.arguments), dict(command.variables), command.log
            )
        except Exception as error:
            raise KDError(f"the Ray cluster takes no worker: {_line(error)}") from error
        return _Worker(self._ray, actor)

    def workers(self, device: str, here: int) -> int:
        """One for every GPU of the cluster, or for every CPU."""
        return max(1, int(self._ray.cluster_resources().get("GPU" if device == "cuda" else "CPU", 1)))

    def has_gpu(self) -> bool:
        """Whether a node of the cluster has one."""
        return bool(self._ray.cluster_resources().get("GPU"))

    def close(self) -> None:
        """Leaves the cluster, if it was joined here."""
        if self._mine:
            self._ray.shutdown()


class _Worker:
    """The runner's end of an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor, self._lost = ray, actor, ""
        self._placed = False
        self._killing: Any = None

    def send(self, line: str) -> None:
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._actor.send.remote(line)

    def lines(self) -> Iterator[str]:
        try:
            self._placed = self._ray.get(self._actor.placed.remote())
            while True:
                for line in self._ray.get(self._actor.read.remote()):
                    if line is None:
                        return
                    yield line
        except Exception as error:  # RayError, and what Ray raises when it is left meanwhile
            self._lost = f"the worker's node or actor is gone: {_line(error)}"

    def kill(self) -> None:
        if self._placed and not self._lost:
            with contextlib.suppress(Exception):
                self._killing = self._actor.kill.remote()

    def wait(self) -> Ended:
        ended = Ended(None, self._lost)
        with contextlib.suppress(Exception):
            if self._killing is not None:
                self._ray.wait([self._killing], timeout=_PATIENCE)
            elif self._placed and not self._lost:
                ended = Ended(self._ray.get(self._actor.ended.remote(), timeout=_PATIENCE))
        with contextlib.suppress(Exception):
            self._ray.kill(self._actor, no_restart=True)
        return ended if ended.code is not None or ended.why else Ended(None, "the worker's actor is gone")


def _actor_class(ray: Any) -> Any:
    """The actor, of a class that Ray sends by value because it stands in a function."""

    class Holder:
        """Holds a worker process on a node."""

        def __init__(self, arguments: list[str], variables: dict[str, str], log: Any) -> None:
            self._process = Process(arguments, variables, log)
            self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            threading.Thread(target=self._listen, daemon=True).start()

        def placed(self) -> bool:
            """Answers as soon as there is a process."""
            return True

        @ray.method(concurrency_group="in")
        def send(self, line: str) -> None:
            self._process.send(line)

        @ray.method(concurrency_group="out")
        def read(self) -> list[str | None]:
            """What was said since the last time, one line at least; None when there is no more."""
            found = [self._said.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    found.append(self._said.get_nowait())
            return found

        def kill(self) -> None:
            self._process.kill()
            self._process.wait()

        def ended(self) -> int | None:
            return self._process.wait().code

        def _listen(self) -> None:
            for line in self._process.lines():
                self._said.put(line)
            self._said.put(None)

    # Of a group of one thread calls come in order; reading waits in a thread of its own.
    return ray.remote(concurrency_groups={"in": 1, "out": 1})(Holder)


def _knock(address: str) -> None:
    """Raises KDError where nobody listens at host:port: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not port.isdigit() or "/" in host:  # "auto", a client's address, or none
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()
    except OSError as error:
        raise KDError(f"the Ray cluster cannot be joined: {address}: {error.strerror or error}") from error


def _line(error: Exception) -> str:
    """The first line that an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
