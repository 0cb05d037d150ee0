"""A teacher that is a program: exact, free, and with a skill that is stated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from methods.elicitation.writers.protocol import STOP, Answer, Meter, Request, Usage


class FunctionWriter:
    """Answers by `function(request, sample) -> text`, which must depend on nothing but these; `name` names it."""

    def __init__(self, name: str, function: Callable[[Request, int], str], *, terms: str = "") -> None:
        self.identity, self.terms, self._function = f"function:{name}", terms, function

    def expected(self, request: Request) -> Usage:
        """Nothing: a program reads no tokens."""
        return Usage()

    def write(self, requests: Sequence[Request], meter: Meter) -> Iterator[tuple[int, Answer]]:
        """One after another."""
        for place, request in enumerate(requests):
            meter.begin(request, Usage())
            texts = tuple(self._function(request, n) for n in range(request.samples))
            meter.end(request, Usage(), Usage())
            yield place, Answer(texts, (STOP,) * request.samples)
