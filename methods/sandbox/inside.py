"""What runs first in a sandboxed process: it gives up all it does not need, then runs the program.

Started as a script with nothing but Python's own library: `python inside.py SPEC`, where SPEC is JSON. One byte on the
descriptor `ready` says that every guard stands; without it the program was not begun.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import runpy
import struct
import sys
import traceback
from typing import Any

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 22, 24, 38
LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
READ = 0b1101  # execute (maps libraries), read files, read folders
HANDLED = {1: 2**13 - 1, 2: 2**14 - 1, 3: 2**15 - 1, 4: 2**15 - 1, 5: 2**16 - 1}  # by version of Landlock
IN_ITS_FOLDER = (
    READ | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 14
)  # write, remove, make files and folders
OUT_OF_MEMORY = 86  # the exit code that says so
KEPT_BY_A_FILE = 0b110 | 1 | 1 << 14 | 1 << 15  # what can be granted on something that is no folder


def main(spec: dict[str, Any]) -> None:
    """Put up every guard, say so, run the program. Raises OSError where a guard that is asked for cannot stand."""
    libc = ctypes.CDLL(None, use_errno=True)
    _checked(libc.prctl(PR_SET_PDEATHSIG, 9, 0, 0, 0))
    for name, value in spec["limits"].items():
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        # Behind the processor's limit comes a second that the program can ignore; behind that nothing.
        resource.setrlimit(which, (value, value + 1 if name == "RLIMIT_CPU" else value))
    sys.path[:] = [*spec["path"], *sys.path]
    os.chdir(spec["folder"])
    _give_up_capabilities(libc)
    _checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if spec["landlock"]:
        _close_files(libc, spec["landlock"], spec["readable"], spec["folder"])
    if spec["filter"]:
        code = ctypes.create_string_buffer(bytes.fromhex(spec["filter"]))
        length = (len(code) - 1) // 8
        given = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", length, ctypes.addressof(code)))
        _checked(libc.prctl(PR_SET_SECCOMP, 2, given, 0, 0))
    os.write(spec["ready"], b"1")
    os.close(spec["ready"])
    _run(spec["program"])


def _run(path: str) -> None:
    sys.argv = [path]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit:
        raise
    except BaseException as error:
        at = error.__traceback__
        while at is not None and at.tb_frame.f_code.co_filename != path:
            at = at.tb_next  # the frames of this file and of runpy are nobody's business
        traceback.print_exception(type(error), error, at)
        sys.exit(OUT_OF_MEMORY if isinstance(error, MemoryError) else 1)


def _give_up_capabilities(libc: Any) -> None:
    """The superuser keeps its name and none of its powers; for everybody else nothing changes."""
    for number in range(64):
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    _checked(libc.capset(header, ctypes.create_string_buffer(24)))


def _close_files(libc: Any, version: int, readable: list[str], folder: str) -> None:
    """Landlock: nothing is read but `readable`, nothing written but in `folder`."""
    handled = HANDLED[min(version, 5)]
    # From version 4 on no TCP, from 6 on no signal and no abstract socket to anybody outside.
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    fields = struct.pack("QQQ", handled, network, scoped)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = _checked(libc.syscall(LANDLOCK_CREATE, ctypes.create_string_buffer(fields), len(fields), 0))
    for path, rights in [*((path, READ) for path in readable), (folder, IN_ITS_FOLDER)]:
        if not os.path.exists(path):  # noqa: PTH110 - nothing is imported here that is not needed
            continue
        if not os.path.isdir(path):  # noqa: PTH112
            rights = (rights | (1 << 1 if path.startswith("/dev/") else 0)) & KEPT_BY_A_FILE
        at = os.open(path, os.O_PATH)
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights & handled, at))
        _checked(libc.syscall(LANDLOCK_ADD, rules, 1, rule, 0))
        os.close(at)
    _checked(libc.syscall(LANDLOCK_RESTRICT, rules, 0))
    os.close(rules)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
