"""What a component asks: one teacher behind a journal."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from methods.elicitation.writers.protocol import Answer, Request, Usage, Writer

Told = Callable[[int, int], None]


class Session:
    """Asks a writer, each request once: answers of before come from the journal (SKETCH: caps and file follow)."""

    def __init__(self, writer: Writer, journal: Path | None = None, *, seed: int = 0) -> None:
        self.writer, self.seed = writer, seed
        self._known: dict[str, Answer] = {}

    def ask(self, requests: Sequence[Request], told: Told | None = None) -> list[Answer]:
        """An answer for each request, in order; `told` hears how many of how many there are."""
        found: dict[int, Answer] = {}
        for place, answer in self.each(requests):
            found[place] = answer
            if told is not None:
                told(len(found), len(requests))
        return [found[place] for place in range(len(requests))]

    def each(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """Places and answers as they come, in any order; requests that are equal are asked once."""
        drawn = [self.drawn(request) for request in requests]
        places: dict[str, list[int]] = {}
        for place, request in enumerate(drawn):
            places.setdefault(request.key(self.writer.identity), []).append(place)
        for key in [key for key in places if key in self._known]:
            yield from ((place, self._known[key]) for place in places.pop(key))
        keys = list(places)
        asked = [drawn[places[key][0]] for key in keys]
        for number, answer in self.writer.write(asked, self) if asked else ():
            key = keys[number]
            self._known[key] = replace(
                answer,
                request=key,
                writer=answer.writer or self.writer.identity,
                terms=answer.terms or self.writer.terms,
            )
            yield from ((place, self._known[key]) for place in places[key])

    def drawn(self, request: Request) -> Request:
        """The request with the session's seed in it; a greedy one has no draws and is one for all seeds."""
        if request.temperature == 0:
            return replace(request, seed=0)
        mixed = hashlib.sha256(f"{self.seed}/{request.seed}".encode()).digest()
        return replace(request, seed=int.from_bytes(mixed[:4], "big") >> 1)

    def begin(self, request: Request, expected: Usage) -> None:
        """See Meter."""

    def end(self, request: Request, expected: Usage, used: Usage, *, failed: str = "") -> None:
        """See Meter."""
