"""What a run was made with: packages, machine, data revision, and how each component behaved."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "datasets")
# Another value of one of these may give other figures: a finished run of then is made again.
DECISIVE = ("python", *PACKAGES, "device_type", "data_revision", "fingerprints")


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def environment_of(
    device: str, threads: int, data_revision: str, method: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that is recorded of where a run was made."""
    return {
        **decisive(device, data_revision, method),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "device": _device_name(device),
        "threads": threads,
        **commit(),
    }


def decisive(device: str, data_revision: str | None, method: Mapping[str, Any]) -> dict[str, Any]:
    """The part of it that decides figures; needs no torch."""
    from methods.fingerprints import recorded_for

    return {
        **software(),
        "device_type": device,
        "data_revision": data_revision,
        "fingerprints": recorded_for(method),
    }


def software() -> dict[str, str | None]:
    """Versions that decide figures: of Python, and of packages; None for one that is not installed."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


@cache
def commit() -> dict[str, Any]:
    """The commit of this checkout and whether files differ from it.

    Outside git (a copy on a machine without the history) KD_COMMIT may name the commit it was copied from.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's own git
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD") or os.environ.get("KD_COMMIT"),
        "dirty": None if status is None else bool(status),
    }


def _device_name(device: str) -> str:
    if device != "cuda":
        return device
    import torch

    return torch.cuda.get_device_name()


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    """The processor, as the system names it, with family and model: hosts of clouds call several kinds "AMD EPYC"."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
        told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "model name" in told:
            numbers = [told.get("cpu family"), told.get("model")]
            kind = f", family {numbers[0]}, model {numbers[1]}" if None not in numbers else ""
            return told["model name"] + kind
    return platform.processor() or platform.machine()
