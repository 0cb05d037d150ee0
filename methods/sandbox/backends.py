"""What this machine has to keep a program in: bubblewrap, the kernel's own filters, or nothing but limits."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from methods.errors import MethodError
from methods.sandbox import system_calls

#: The strongest first.
BACKENDS: Mapping[str, str] = {
    "bubblewrap": "namespaces of its own, and what the kernel's filters hold",
    "kernel": "Landlock and a filter of system calls: no file outside, no network, no process, no signal",
    "limits": "limits alone: a program can read, write and send whatever its user can",
}
PYTHON = getattr(sys, "_base_executable", "") or sys.executable  # outside of any virtual environment
LANDLOCK = 3  # the first version that keeps a file from being cut short
SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/etc/ld.so.cache", "/etc/localtime")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")


def library() -> list[str]:
    """What Python itself reads."""
    return [*SYSTEM, *DEVICES, str(Path(sys.base_prefix)), str(Path(sys.base_exec_prefix))]


@lru_cache(maxsize=1)
def landlock() -> int:
    """The version of Landlock of this kernel, 0 for none that holds."""
    if sys.platform != "linux":
        return 0
    version = int(ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1))
    return version if version >= LANDLOCK else 0


@lru_cache(maxsize=1)
def bubblewrap() -> str | None:
    """The path of a `bwrap` that can make its namespaces here."""
    found = shutil.which("bwrap")
    if found is None:
        return None
    probe = [*wrapped(found, "/", library()), shutil.which("true") or "/bin/true"]
    try:
        return found if subprocess.run(probe, capture_output=True, timeout=20).returncode == 0 else None
    except (OSError, subprocess.SubprocessError):
        return None


def wrapped(bwrap: str, folder: str, readable: Sequence[str]) -> list[str]:
    """The command line of bubblewrap: everything apart, `readable` read only, `folder` written."""
    made = [
        bwrap,
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--dev",
        "/dev",
    ]
    made += ["--tmpfs", "/tmp"]  # noqa: S108 - a folder of the namespace
    for path in readable:
        if not path.startswith("/dev/"):
            made += ["--ro-bind-try", path, path]
    return made if folder == "/" else [*made, "--bind", folder, folder, "--chdir", folder]


def available() -> list[str]:
    """The backends that hold here, the strongest first."""
    made = ["bubblewrap"] if bubblewrap() else []
    return [*made, *(["kernel"] if landlock() and system_calls.program() else []), "limits"]


def chosen(wanted: str | None) -> str:
    """The strongest backend, or the one that is wanted. Raises MethodError where nothing here holds, or not that one.

    "limits" is never chosen unasked.
    """
    here = available()
    if wanted is None:
        if here[0] == "limits":
            raise MethodError(
                "sandbox: nothing here keeps a program from files and network (Landlock of Linux 6.2 or later on "
                'x86-64, or bubblewrap); install bubblewrap, or ask for the backend "limits" and trust the program'
            )
        return here[0]
    if wanted not in BACKENDS:
        raise MethodError(f'sandbox: no backend "{wanted}"; known: {", ".join(BACKENDS)}')
    if wanted not in here:
        raise MethodError(f'sandbox: the backend "{wanted}" does not work here; {", ".join(here)} would')
    return wanted
