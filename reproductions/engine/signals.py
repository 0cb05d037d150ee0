"""Signals that ask a command to stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator


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


@contextlib.contextmanager
def patient(tell: Callable[[], None]) -> Iterator[None]:
    """Within `terminable`: the first SIGTERM or SIGHUP calls `tell` and raises nothing; a second one does as before."""
    before: dict[int, object] = {}

    def first(number: int, frame: object) -> None:
        for known, handler in before.items():
            signal.signal(known, handler)  # type: ignore[arg-type]
        tell()

    try:
        for name in (signal.SIGTERM, signal.SIGHUP):
            if callable(signal.getsignal(name)):
                before[name] = signal.signal(name, first)
    except ValueError:
        before.clear()  # not the main thread
    try:
        yield
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)  # type: ignore[arg-type]
