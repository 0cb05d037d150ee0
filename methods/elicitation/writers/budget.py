"""What asking may cost and has cost: caps that hold while many requests are under way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from methods.elicitation.writers.journal import AnswerJournal, Spent
from methods.elicitation.writers.protocol import Answer, CapReached, Usage
from methods.errors import MethodError


@dataclass(frozen=True)
class Prices:
    """Of a million tokens read and of a million written, in any one currency."""

    read: float = 0.0
    written: float = 0.0

    def of(self, used: Usage) -> float:
        """What these tokens cost."""
        return (used.read * self.read + used.written * self.written) / 1e6


@dataclass(frozen=True)
class Caps:
    """What may be spent over the whole journal, failed attempts included; None for no cap. Money as the prices."""

    calls: int | None = None
    read: int | None = None
    written: int | None = None
    money: float | None = None


FREE, NO_CAPS = Prices(), Caps()
NAMES = {"calls": "calls", "read": "tokens read", "written": "tokens written", "money": "money"}


Cost = tuple[Usage, float]  # tokens and money


class Stopped(MethodError):
    """Somebody pressed Ctrl-C: what is under way is awaited, nothing new is sent."""


class Ledger:
    """Spending of a journal against caps. What is under way counts as much as it may cost, until it came back."""

    def __init__(self, journal: AnswerJournal, caps: Caps) -> None:
        self._journal, self._caps = journal, caps
        self._under_way = Spent()
        self._news = threading.Condition()
        self.sent = 0  # attempts of this run
        self.stopped = False

    @property
    def spent(self) -> Spent:
        """Over the whole journal, without what is under way."""
        return self._journal.spent

    def begin(self, key: str, expected: Usage, money: float) -> None:
        """Reserve an attempt. Waits for those under way where only their worst case would pass a cap; CapReached."""
        with self._news:
            while True:
                if self.stopped:
                    raise Stopped("asking was stopped")
                passed = self._passed(expected, money)
                if passed is None:
                    break
                if self._under_way.calls == 0:
                    raise CapReached(passed)
                self._news.wait(1.0)
            self._under_way.add(1, expected, money)
            self.sent += 1
        self._journal.begun(key, expected, money)

    def stop(self) -> None:
        """Nothing more is sent."""
        with self._news:
            self.stopped = True
            self._news.notify_all()

    def said(self, key: str, expected: Cost, used: Cost, part: Answer, of: int) -> None:
        """An attempt gave some of the `of` texts: what it has cost takes the place of what it might have."""
        self._journal.said(key, part, of, used[1])
        self._back(expected)

    def failed(self, key: str, expected: Cost, used: Cost, kind: str) -> None:
        """An attempt gave none."""
        self._journal.failed(key, kind, *used)
        self._back(expected)

    def _back(self, expected: Cost) -> None:
        with self._news:
            usage, money = expected
            self._under_way.add(-1, Usage(-usage.read, -usage.written), -money)
            self._news.notify_all()

    def _passed(self, expected: Usage, money: float) -> str | None:
        """The cap that one more attempt would pass, in a sentence."""
        spent, way = self.spent, self._under_way
        after = {
            "calls": spent.calls + way.calls + 1,
            "read": spent.read + way.read + expected.read,
            "written": spent.written + way.written + expected.written,
            "money": spent.money + way.money + money,
        }
        for name, value in after.items():
            cap = getattr(self._caps, name)
            if cap is not None and value > cap * (1 + 1e-9):
                shown: Callable[[float], str] = (
                    (lambda x: f"{x:.4f}") if name == "money" else (lambda x: f"{x:,}")
                )
                return f"the next request could bring {NAMES[name]} to {shown(value)}, above the cap of {shown(cap)}"
        return None
