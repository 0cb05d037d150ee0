"""What a teacher that writes is asked and answers, whoever it is: a local model, a server, recorded outputs, an oracle.

A component makes `Request`s, gives them to a `Session` and gets an `Answer` for each, in order. A `Writer` is what the
session asks; nothing but the session calls it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from methods.errors import MethodError

ROLES = ("system", "user", "assistant")
# How a text ended. Only a text that ended with "stop" is whole: the others carry their reason as far as the record.
STOP, LENGTH, FILTERED, INVALID, FAILED = "stop", "length", "filtered", "invalid", "failed"
ENDS = (STOP, LENGTH, FILTERED, INVALID, FAILED)
USUAL: Mapping[str, Any] = {
    **{"samples": 1, "temperature": 0.0, "top_p": 1.0, "stop": (), "seed": 0},
    **{"schema": None, "note": {}},
}
_REASONS = {LENGTH: "truncated", FILTERED: "filtered", INVALID: "invalid", FAILED: "failed"}


@dataclass(frozen=True)
class Message:
    """One turn of what the teacher reads; `role` is system, user or assistant."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise MethodError(f'no role "{self.role}" of a message; known: {", ".join(ROLES)}')


@dataclass(frozen=True)
class Request:
    """What is asked: `samples` texts of at most `max_tokens` tokens each that go on after `messages`.

    `temperature` 0 is greedy. The same request with another `seed` is another draw (greedy ones have no draws). With a
    `schema`, a JSON schema, each text must be JSON that it allows: the server is asked to see to it where it can, and
    every text is checked. `note` is for a writer that is not a model (recorded outputs, an oracle): the row that is
    asked about; it belongs to the request's key where it is not empty, and no server sees it.
    """

    messages: tuple[Message, ...]
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    seed: int = 0
    schema: Mapping[str, Any] | None = None
    note: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.messages:
            raise MethodError("a request without messages")
        if self.samples < 1 or self.max_tokens < 1:
            raise MethodError(
                f"a request for {self.samples} texts of {self.max_tokens} tokens: 1 is the least"
            )
        if not (self.temperature >= 0 and 0 < self.top_p <= 1):
            raise MethodError(f"a request at temperature {self.temperature} and top_p {self.top_p}")

    def plain(self) -> dict[str, Any]:
        """The request as JSON keeps it; fields that are at their default are left out, so that new ones can come."""
        turns = [{"role": message.role, "content": message.content} for message in self.messages]
        made: dict[str, Any] = {"messages": turns, "max_tokens": self.max_tokens}
        for name, usual in USUAL.items():
            value = getattr(self, name)
            if value != usual:
                made[name] = value
        return made

    def key(self, writer: str) -> str:
        """64 hex digits over who is asked (a `Writer.identity`) and what: under these the answer is journalled."""
        asked = {"writer": writer, "request": self.plain()}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def ask(prompt: str, *, system: str = "", **settings: Any) -> Request:
    """A request of one user turn, behind a system turn where there is one."""
    turns = [Message("system", system)] if system else []
    return Request((*turns, Message("user", prompt)), **settings)


@dataclass(frozen=True)
class Usage:
    """Tokens that were read and written for one request; `guessed` where the teacher did not tell."""

    read: int = 0
    written: int = 0
    guessed: bool = False

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.read + other.read, self.written + other.written, self.guessed or other.guessed)


@dataclass(frozen=True)
class Answer:
    """`samples` texts and how each ended; where no text came its end is "failed" and `failure` says why.

    `thoughts` are what the teacher thought before each text, where it tells that apart. `writer` is the identity of who
    wrote (of a pool: the member), `request` the journal's key, `terms` the entry of catalog/teachers.yaml that binds
    whoever trains on it.
    """

    texts: tuple[str, ...]
    ended: tuple[str, ...]
    usage: Usage = Usage()
    thoughts: tuple[str, ...] = ()
    writer: str = ""
    terms: str = ""
    request: str = ""
    failure: str = ""

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.ended):
            raise MethodError(f"{len(self.texts)} texts with {len(self.ended)} ends")

    @property
    def text(self) -> str:
        """The first text, whatever its end."""
        return self.texts[0]

    def dropped(self, place: int = 0) -> str | None:
        """Why the text at `place` is no data: truncated, filtered, invalid, failed or empty; None where it is."""
        if self.ended[place] != STOP:
            return _REASONS.get(self.ended[place], self.ended[place])
        return None if self.texts[place].strip() else "empty"

    @property
    def whole(self) -> list[str]:
        """The texts that are data."""
        return [text for place, text in enumerate(self.texts) if self.dropped(place) is None]

    def about(self, **fields: Any) -> Answer:
        """The same answer with other fields."""
        return replace(self, **fields)


def joined(parts: Sequence[Answer]) -> Answer:
    """The texts of several answers to one request as one."""
    texts, ends, thoughts, usage = list[str](), list[str](), list[str](), Usage()
    for part in parts:
        texts, ends = texts + list(part.texts), ends + list(part.ended)
        thoughts += list(part.thoughts or [""] * len(part.texts))
        usage = usage + part.usage
    last = parts[-1]
    kept = tuple(thoughts) if any(thoughts) else ()
    return replace(last, texts=tuple(texts), ended=tuple(ends), thoughts=kept, usage=usage)


def failed(request: Request, why: str, usage: Usage = Usage()) -> Answer:
    """The answer to a request that gave none."""
    return Answer(("",) * request.samples, (FAILED,) * request.samples, usage, failure=why or "no answer")


class CapReached(MethodError):
    """The next request would pass a cap; what was answered is in the journal."""


class Meter(Protocol):
    """What a writer tells of its work, from any thread: caps hold while many are under way, no answer is lost.

    Each attempt has one `begin` and then one `end` or `failed`; each request one `keep` at last.
    """

    def had(self, request: Request) -> Answer | None:
        """The texts that earlier attempts gave to this request, where they were fewer than it wants."""

    def begin(self, request: Request, expected: Usage) -> None:
        """An attempt that may cost `expected` is about to be sent; raises CapReached where a cap would be passed."""

    def end(self, request: Request, expected: Usage, part: Answer) -> None:
        """It gave some or all of the texts, and cost `part.usage`: both are in the journal when this returns."""

    def failed(self, request: Request, expected: Usage, used: Usage, kind: str) -> None:
        """It gave no text, and cost `used`; `kind` is counted."""

    def keep(self, place: int, answer: Answer) -> None:
        """All texts of the request at `place`, or a `failed` answer."""


class Writer(Protocol):
    """A teacher that writes.

    `identity` names everything that decides its texts (model, revision, address; never a secret) and stands in every
    key; `terms` is its entry of catalog/teachers.yaml, or "" where nobody knows.
    """

    @property
    def identity(self) -> str: ...

    @property
    def terms(self) -> str: ...

    def expected(self, request: Request) -> Usage:
        """What the request will cost at most, in tokens of this teacher as well as it can be told beforehand."""

    def write(self, requests: Sequence[Request], meter: Meter) -> None:
        """Give each request's answer to `meter.keep`, in any order; each attempt is told to `meter` beforehand.

        A request that gives nothing has a `failed` answer. Raises MethodError only for what concerns every request (no
        such model, a key that is refused, a cap); what is under way then is awaited and kept.
        """


@runtime_checkable
class Scorer(Protocol):
    """A writer that can also say how probable given texts are."""

    def score(self, requests: Sequence[Request], texts: Sequence[str]) -> list[list[float]]:
        """For each request the log-probabilities, in nats, of the tokens of the text behind its messages."""
