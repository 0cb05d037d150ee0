"""What every benchmark shares: where it ran, the peak of memory, the record it leaves."""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from tools.paths import ROOT

BENCHMARKS = ROOT / "benchmarks"


def publish(record: dict[str, Any], name: str, args: argparse.Namespace, console: Console) -> None:
    """Write `record` to benchmarks/<name>.json under `--record`, print it under `--json`."""
    if args.record:
        path = BENCHMARKS / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        console.print(f"recorded in {path.relative_to(path.parents[1])}")
    if args.json:
        print(json.dumps(record))


def environment(args: argparse.Namespace) -> dict[str, Any]:
    import torch

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    cuda = args.device == "cuda"
    return {
        "schema": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": 1,
        "versions": {name: installed(name) for name in ("torch", "transformers", "trl", "liger-kernel")},
        "python": platform.python_version(),
        "cases": [],
    }


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_in_fork(prepare: Callable[[], Callable[[], Any]]) -> int | None:
    """Bytes that the step which `prepare` returns adds to the peak, in a fork that does nothing else.

    None where the fork was killed (out of memory). The parent must not have run a step: its heap would help.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_peak_in_child, args=(sender, prepare))
    child.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        child.join()


def _peak_in_child(sender: Any, prepare: Callable[[], Callable[[], Any]]) -> None:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    step = prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    sender.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit)
