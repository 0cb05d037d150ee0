"""The steps of a config with stand-ins for its teachers: what is wrong in the last step is said before any pays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from methods.elicitation.records.record import Record
from methods.elicitation.writers.pool import Pool, Router
from methods.elicitation.writers.protocol import STOP, Answer, Meter, Request, Scorer, Usage, Writer
from methods.errors import NotYet

ROWS, ASKED = 20, 400  # so many rows are enough, and so many requests


def said(about: str) -> str:
    """Something for every parser to read, so that rows get as far as the last step; in words of its own each time."""
    words = hashlib.sha256(about.encode()).hexdigest()
    listed = " ".join(words[place : place + 4] for place in range(0, 48, 4))
    return f"1. {listed}\nScore: 5\nBetter: A\n#### 7"


class _StandIn:
    """Says something whatever it is asked."""

    def __init__(self, real: Writer, asked: list[int]) -> None:
        self.identity, self.terms, self._asked = real.identity, real.terms, asked

    def expected(self, request: Request) -> Usage:
        """Nothing."""
        return Usage()

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """Raises NotYet when it has said enough."""
        self._asked[0] += len(requests)
        if self._asked[0] > ASKED:
            raise NotYet("enough was rehearsed")
        for place, request in enumerate(requests):
            key = request.key(self.identity)
            texts = tuple(said(f"{key}/{sample}") for sample in range(request.samples))
            meter.keep(place, Answer(texts, (STOP,) * request.samples))


class _ScoringStandIn(_StandIn):
    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        """One token each."""
        return [[-1.0] for _ in requests]


def stand_ins(writers: dict[str, Writer], router: Router | None, *, fallback: bool) -> Pool:
    """The pool with a stand-in for each teacher, which can score where that one can."""
    asked = [0]
    made = {
        name: (_ScoringStandIn if isinstance(writer, Scorer) else _StandIn)(writer, asked)
        for name, writer in writers.items()
    }
    return Pool(made, router, fallback=fallback)


def rehearsed(rows: Sequence[Record]) -> list[Record]:
    """The rows to rehearse with."""
    return list(rows[:ROWS])
