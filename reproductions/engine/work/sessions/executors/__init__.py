"""Where worker processes are started: on this machine, on the nodes of a Ray cluster, as jobs of Slurm.

An executor starts the same worker process wherever it is, and hands lines to and fro; which run is made by which worker
is decided by the session, and what becomes of a run that a worker did not finish too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reproductions.engine.work.sessions.executors.base import Executor

NAMES = ("local", "ray", "slurm")


def executor_named(
    name: str, *, address: str | None = None, slurm: Sequence[str] = (), **options: Any
) -> Executor:
    """The executor of a name. `address`: Ray's, as `ray.init` takes it; `slurm`: options as `key=value`.

    Raises KDError where its package is not installed, or its cluster is not to be reached.
    """
    if name == "ray":
        from reproductions.engine.work.sessions.executors.ray import Ray

        return Ray(address, **options)
    if name == "slurm":
        from reproductions.engine.work.sessions.executors.slurm import Slurm

        return Slurm(slurm, **options)
    from reproductions.engine.work.sessions.executors.local import Local

    return Local()
