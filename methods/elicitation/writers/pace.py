"""How many requests are under way at a time: as many as a server says it takes, learnt from what it answers.

One more after each round of good answers, half as many after a refusal or where nothing came in time; what a server
tells of its limits (`x-ratelimit-*`, `anthropic-ratelimit-*`, `ratelimit-*`, `retry-after`) is kept to before it
refuses.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from methods.elicitation.writers.budget import Stopped

START = 4.0
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PREFIXES = ("x-ratelimit-", "anthropic-ratelimit-", "ratelimit-")


class Crew:
    """Threads that are waited for. `Thread.join` takes a thread for ended when Ctrl-C interrupts it; this does not."""

    def __init__(self, works: Sequence[Callable[[], None]]) -> None:
        self._left, self._all = len(works), threading.Event()
        self._lock = threading.Lock()
        if not works:
            self._all.set()
        for work in works:
            threading.Thread(target=self._do, args=(work,), daemon=True).start()

    def wait(self, seconds: float = float("inf")) -> bool:
        """Whether all have ended, at the latest after so many seconds."""
        ends = time.monotonic() + seconds
        while not self._all.is_set() and time.monotonic() < ends:
            self._all.wait(min(0.5, max(0.0, ends - time.monotonic())))
        return self._all.is_set()

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._all.set()


class Pace:
    """Lets threads through, at most `most` at a time and fewer where the server wants it."""

    def __init__(
        self,
        most: int = 16,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.most, self.limit = most, min(START, float(most))
        self._clock, self._wall = clock, wall
        self._under_way, self._not_before, self._cut_at = 0, 0.0, float("-inf")
        self._left: dict[str, tuple[float, float]] = {}  # kind -> how many are left, until when
        self._news = threading.Condition()
        self.stopped = False

    def stop(self) -> None:
        """Nobody is let through any more."""
        with self._news:
            self.stopped = True
            self._news.notify_all()

    def enter(self, tokens: int = 0) -> float:
        """Wait for one's turn; returns the time of it. Raises Stopped."""
        with self._news:
            while True:
                if self.stopped:
                    raise Stopped("asking was stopped")
                now = self._clock()
                wait = self.wait(now, tokens)
                if wait <= 0:
                    break
                self._news.wait(min(wait, 1.0))
            self._under_way += 1
            for kind, taken in (("requests", 1), ("tokens", tokens)):
                if kind in self._left:
                    left, until = self._left[kind]
                    self._left[kind] = left - taken, until
            return now

    def wait(self, now: float, tokens: int = 0) -> float:
        """Seconds until the next may be let through, if nothing else happens before."""
        if self._under_way >= int(self.limit):
            return 1.0
        wait = self._not_before - now
        for kind, wanted in (("requests", 1), ("tokens", tokens)):
            left, until = self._left.get(kind, (float("inf"), 0.0))
            # Where nothing is under way a request larger than what is left goes all the same, when the time has come.
            if left < wanted and now < until:
                wait = max(wait, until - now)
        return wait

    def leave(
        self, entered: float, headers: Mapping[str, str], *, refused: bool = False, answered: bool = True
    ) -> None:
        """One came back, `refused` where the server was asked too much; only what is `answered` lets more through."""
        with self._news:
            self._under_way -= 1
            now = self._clock()
            if refused:
                if entered > self._cut_at:  # those that were under way at the last cut say nothing new
                    self.limit, self._cut_at = max(1.0, self.limit / 2), now
            elif answered:
                self.limit = min(float(self.most), self.limit + 1 / max(1.0, self.limit))
            after = retry_after(headers, self._wall())
            if after is not None and refused:
                self._not_before = max(self._not_before, now + after)
            for kind in ("requests", "tokens"):
                told = limits(headers, kind, self._wall())
                if told is not None:
                    self._left[kind] = told[0], now + told[1]
            self._news.notify_all()


def retry_after(headers: Mapping[str, str], wall: float) -> float | None:
    """Seconds to wait: `Retry-After` in seconds or as a date (HTTP, RFC 9110, 10.2.3), `retry-after-ms`; or None."""
    given = _lower(headers)
    if (ms := _number(given.get("retry-after-ms", ""))) is not None:
        return ms / 1000
    text = given.get("retry-after", "").strip()
    if not text:
        return None
    if (seconds := _number(text)) is not None:
        return seconds
    return _from_now(lambda: parsedate_to_datetime(text), wall)


def limits(headers: Mapping[str, str], kind: str, wall: float) -> tuple[float, float] | None:
    """How many requests or tokens are left, and for how many seconds that holds; None where nothing is told."""
    given = _lower(headers)
    for prefix in _PREFIXES:
        names = [f"{prefix}remaining-{kind}", f"{prefix}{kind}-remaining"]
        names += [f"{prefix}remaining"] if kind == "requests" else []
        for name in names:
            left = _number(given.get(name, ""))
            until = _until(given.get(name.replace("remaining", "reset"), ""), wall)
            if left is not None and until is not None:
                return left, until
    return None


def _until(text: str, wall: float) -> float | None:
    """Seconds: '12', '6m0s', '20ms', or a time such as 2026-11-29T01:00:00Z."""
    text = text.strip()
    number = _number(text)
    if number is not None:
        # Some tell the second of the clock instead of how many are left.
        return max(0.0, number - wall) if number > 1e8 else number
    parts = _PART.findall(text)
    if parts and "".join(a + b for a, b in parts) == text:
        return sum(float(amount) * _SECONDS[unit] for amount, unit in parts)
    return _from_now(lambda: datetime.fromisoformat(text), wall)


def _from_now(read: Callable[[], datetime], wall: float) -> float | None:
    """Seconds until a date, 0 where it is past; None where it is none."""
    try:
        when = read()
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, when.timestamp() - wall)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*[0-9]{1,12}(\.[0-9]{1,9})?\s*", text) else None


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
