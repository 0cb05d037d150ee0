"""A teacher that is a program: exact, free, and with a skill that is stated."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from methods.elicitation.writers.protocol import LENGTH, STOP, Answer, Meter, Request, Usage
from methods.errors import MethodError


class FunctionWriter:
    """Answers by `function(request, sample) -> text`, which must depend on nothing but these; `name` names it."""

    def __init__(self, name: str, function: Callable[[Request, int], str], *, terms: str = "") -> None:
        self.identity, self.terms, self._function = f"function:{name}", terms, function

    def expected(self, request: Request) -> Usage:
        """Nothing: a program reads no tokens."""
        return Usage()

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """One after another."""
        for place, request in enumerate(requests):
            meter.begin(request, Usage())
            texts = tuple(self._function(request, n) for n in range(request.samples))
            answer = Answer(texts, (STOP,) * request.samples)
            meter.end(request, Usage(), answer)
            meter.keep(place, answer)


@dataclass(frozen=True)
class Skill:
    """How good an oracle is: `right` is the share of right answers, of a `kind` of question where it is named there.

    `cut` and `garbled` are the shares of texts that end in the middle, and of those with their letters in disorder;
    they are drawn first.
    """

    right: float = 1.0
    kinds: Mapping[str, float] = field(default_factory=dict)
    cut: float = 0.0
    garbled: float = 0.0

    def __post_init__(self) -> None:
        shares = {"right": self.right, "cut": self.cut, "garbled": self.garbled, **self.kinds}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise MethodError(f"a skill's {name} is a share between 0 and 1, not {share}")
        if self.cut + self.garbled > 1:
            raise MethodError("more texts of an oracle would be cut or garbled than there are")


Draws = random.Random


class OracleWriter:
    """Knows the right answer and gives it as often as its skill says; what it says is a function of request and sample.

    `right(note, draws)` and `wrong(note, draws)` write a text about the request's `note`, with random numbers of their
    own; `kind(note)` says which kind of question it is. Greedy requests have one draw: a greedy oracle that is wrong
    about a question stays wrong about it. `about(request)` gives the note where more than the request's own is to be
    known, such as the form that its messages ask for.
    """

    def __init__(
        self,
        name: str,
        right: Callable[[Mapping[str, object], Draws], str],
        wrong: Callable[[Mapping[str, object], Draws], str],
        skill: Skill = Skill(),
        *,
        kind: Callable[[Mapping[str, object]], str] = lambda note: "",
        about: Callable[[Request], Mapping[str, object]] = lambda request: request.note,
        terms: str = "",
    ) -> None:
        stated = f"right={skill.right:g} cut={skill.cut:g} garbled={skill.garbled:g}"
        stated += "".join(f" {name}={share:g}" for name, share in sorted(skill.kinds.items()))
        self.identity, self.terms = f"oracle:{name} ({stated})", terms
        self._right, self._wrong, self._kind, self.skill = right, wrong, kind, skill
        self._about = about

    def expected(self, request: Request) -> Usage:
        """Nothing: a program reads no tokens."""
        return Usage()

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """One after another."""
        for place, request in enumerate(requests):
            meter.begin(request, Usage())
            said = [self._said(request, n) for n in range(request.samples)]
            answer = Answer(tuple(text for text, _ in said), tuple(end for _, end in said))
            meter.end(request, Usage(), answer)
            meter.keep(place, answer)

    def _said(self, request: Request, sample: int) -> tuple[str, str]:
        draws = random.Random(f"{request.key(self.identity)}/{0 if request.temperature == 0 else sample}")
        note = self._about(request)
        share = self.skill.kinds.get(self._kind(note), self.skill.right)
        accident, luck = draws.random(), draws.random()
        text = (self._right if luck < share else self._wrong)(note, draws)
        if accident < self.skill.cut:
            return text[: draws.randrange(len(text))] if text else text, LENGTH
        if accident < self.skill.cut + self.skill.garbled:
            letters = list(text)
            draws.shuffle(letters)
            return "".join(letters), STOP
        return text, STOP
