"""Signals that ask a command to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP raise KeyboardInterrupt inside; one that is ignored (nohup) stays ignored."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    previous = {}
    try:
        for name in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(name) is signal.SIG_IGN:
                continue
            previous[name] = signal.signal(name, interrupt)
    except ValueError:
        previous.clear()  # not the main thread: the caller deals with signals
    try:
        yield
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
