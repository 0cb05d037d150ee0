"""A worker that needs no torch: it answers lines, and dies in whatever way it is told to."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from reproductions.engine.work.sessions.executors.base import Command

SCRIPT = """
import os, subprocess, sys
print("ready", os.environ["KD_TEST"], flush=True)
print("a word on stderr", file=sys.stderr, flush=True)
for line in sys.stdin:
    word = line.split()
    if word[0] == "die":
        sys.stdout.write("half a li"); sys.stdout.flush()
        os.kill(os.getpid(), int(word[1]))
    elif word[0] == "exit":
        print("last words", flush=True)
        sys.exit(int(word[1]))
    elif word[0] == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sys.argv[1]])
        print("child", child.pid, flush=True)
    else:
        print("heard", line.strip(), os.getpid(), flush=True)
"""
_NUMBERS = itertools.count()
DEADLINE = 120  # seconds until a test gives up: no test waits for them


def command(folder: Path) -> Command:
    """What starts one; its mark, the folder, is on its command line and on its child's."""
    log = folder / "logs" / f"worker-{next(_NUMBERS)}.log"
    return Command(("-c", SCRIPT, str(folder)), {"KD_TEST": "passed on"}, log)


def alive(folder: Path) -> list[int]:
    """Processes with the folder's mark; the runner's own are left out."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[-2:-1] == [str(folder).encode()] and int(entry.parent.name) != os.getpid():
            found.append(int(entry.parent.name))
    return found


def wait_until(what) -> None:
    """Until it is so."""
    until = time.monotonic() + DEADLINE
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)
