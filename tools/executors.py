"""Options of the verbs that make many runs: where their workers are started."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tools.commands import UsageError

if TYPE_CHECKING:
    from reproductions.engine.work.sessions.executors.base import Executor

NAMES = ("local", "ray", "slurm")


def executor_options(parser: argparse.ArgumentParser) -> None:
    """`--executor` and what belongs to one of them."""
    parser.add_argument(
        "--executor",
        choices=NAMES,
        default="local",
        help="where the workers are: this machine, the nodes of a Ray cluster, jobs of Slurm",
    )
    parser.add_argument(
        "--address", help="of the Ray cluster; RAY_ADDRESS, or the one of this machine, without it"
    )
    parser.add_argument(
        "--slurm",
        action="append",
        metavar="KEY=VALUE",
        help="an option of sbatch, once each: --slurm partition=gpu --slurm time=240 (minutes)",
    )


@contextlib.contextmanager
def executor_of(args: argparse.Namespace) -> Iterator[Executor | None]:
    """The executor that was asked for; None for this machine. The cluster is left at the end."""
    for name, given in (("ray", args.address), ("slurm", args.slurm)):
        if given and args.executor != name:
            option = "--address" if name == "ray" else "--slurm"
            raise UsageError(f"{option} belongs to --executor {name}")
    if args.executor == "local":
        yield None
        return
    from reproductions.engine.work.sessions.executors import executor_named

    executor = executor_named(args.executor, address=args.address, slurm=args.slurm or ())
    try:
        yield executor
    finally:
        executor.close()
