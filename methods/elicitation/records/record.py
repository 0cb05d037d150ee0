"""A row that was elicited: what it says, who wrote it from what, and why it is no data where it is none.

Components map records to records. One that is of no use is marked with its reason and never removed, so that yield and
cost can be derived from the rows alone, whatever came of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from methods.elicitation.writers.protocol import Answer, Message, Request
from methods.errors import MethodError

SEED = "seed"  # the component of rows that nobody was asked for


@dataclass(frozen=True)
class Asked:
    """One answer that went into a row: which component asked whom, and what the whole answer cost.

    `request` is the journal's key and `sample` which of the answer's texts this is; `prompt` is the digest of the
    messages. Several rows of one request each carry its whole usage: whoever adds up counts each request once.
    """

    component: str
    request: str
    sample: int
    teacher: str
    terms: str
    prompt: str
    read: int
    written: int


@dataclass(frozen=True)
class Record:
    """One row. `prompt` and `completion` are what a student reads and learns to write.

    `parents` are the ids of the rows it was made from; `component` made it, in `round`, with the session's `seed`.
    `label`, `score` and `verified` are None until somebody says them. `dropped` is None or a reason in a word or two
    ("truncated", "near copy"), `why` more about it. `asked` are the answers that went into it, oldest first; the last
    that wrote is that of the completion. `fields` are columns of the user's own and of components.
    """

    prompt: str
    completion: str = ""
    component: str = SEED
    parents: tuple[str, ...] = ()
    seed: int = 0
    round: int = 0
    label: str | None = None
    score: float | None = None
    verified: bool | None = None
    dropped: str | None = None
    why: str = ""
    asked: tuple[Asked, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", self._digest())

    def _digest(self) -> str:
        """16 hex digits over what the row was when it was made: later marks, scores and checks leave its id."""
        about = {
            "said": [self.prompt, self.completion],
            "made": [self.component, list(self.parents), self.seed, self.round],
            "asked": [[one.request, one.sample] for one in self.asked],
            "fields": self.fields,
        }
        return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]

    @property
    def alive(self) -> bool:
        """Whether it is data: not dropped."""
        return self.dropped is None

    def drop(self, reason: str, why: str = "") -> Record:
        """The same row marked as no data; the first reason stays."""
        return self if self.dropped is not None else replace(self, dropped=reason, why=why)

    def marked(self, answer: Answer | None = None, request: Request | None = None, **changes: Any) -> Record:
        """The same row, its id too, with `label`, `score`, `verified`, `fields` ...; by an answer, where one led to it.

        `changes["fields"]` are added to those that are there. `component` then names who looked at it, and stands in
        `asked` alone.
        """
        component = changes.pop("component", self.component)
        asked = self.asked
        if answer is not None:
            asked = (*asked, asked_of(answer, request, component))
        return replace(
            self,
            asked=asked,
            fields={**self.fields, **changes.pop("fields", {})},
            id=self.id,
            **changes,
        )

    def child(
        self,
        component: str,
        answer: Answer | None = None,
        place: int = 0,
        *,
        request: Request | None = None,
        prompt: str | None = None,
        completion: str | None = None,
        others: Sequence[Record] = (),
        **changes: Any,
    ) -> Record:
        """A row made from this one (and `others`): its completion is the answer's text at `place` unless it is given.

        Where that text is no data the row is dropped for the reason that the answer has: truncated, empty, failed ...
        The child keeps the parent's fields and round, not its label, score or marks; `changes` set any of them.
        """
        asked: tuple[Asked, ...] = ()
        dropped, why = None, ""
        if answer is not None:
            asked = (asked_of(answer, request, component, place),)
            dropped = answer.dropped(place)
            why = answer.failure if dropped == "failed" else ""
            completion = answer.texts[place] if completion is None else completion
        fields = {**self.fields, **changes.pop("fields", {})}
        made = {"seed": self.seed, "round": self.round, "dropped": dropped, "why": why, **changes}
        return Record(
            self.prompt if prompt is None else prompt,
            self.completion if completion is None else completion,
            component,
            (self.id, *(other.id for other in others)),
            asked=asked,
            fields=fields,
            **made,
        )


def asked_of(answer: Answer, request: Request | None, component: str, place: int = 0) -> Asked:
    """What a row keeps of an answer."""
    usage = answer.usage
    prompt = "" if request is None else prompt_digest(request.messages)
    return Asked(
        component, answer.request, place, answer.writer, answer.terms, prompt, usage.read, usage.written
    )


def prompt_digest(messages: Iterable[Message]) -> str:
    """12 hex digits over the messages that were asked."""
    plain = [[message.role, message.content] for message in messages]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:12]


def seeds(rows: Iterable[Mapping[str, Any]], prompt: str = "prompt") -> list[Record]:
    """A user's rows as records: `prompt` names the column that a student reads; the others become fields.

    A "completion" that is there stays the completion. Raises MethodError with the row's number where there is no text,
    and where it holds what cannot be written again.
    """
    made = []
    for number, row in enumerate(rows, 1):
        value = row.get(prompt)
        if not isinstance(value, str) or not value.strip():
            raise MethodError(f'row {number} has no text in "{prompt}"')
        if not _writable(row):
            raise MethodError(f"row {number} holds half of a letter (a lone surrogate), which no file takes")
        completion = row.get("completion", "")
        fields = {name: item for name, item in row.items() if name not in (prompt, "completion")}
        made.append(Record(value, completion if isinstance(completion, str) else "", fields=fields))
    return made


def _writable(row: Mapping[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def alive(rows: Iterable[Record]) -> list[Record]:
    """The rows that are data."""
    return [row for row in rows if row.alive]


def plain(row: Record) -> dict[str, Any]:
    """The row as JSON keeps it."""
    return asdict(row)


def from_plain(made: Mapping[str, Any]) -> Record:
    """What `plain` gave, as a record again."""
    asked = tuple(Asked(**one) for one in made["asked"])
    return Record(**{**made, "asked": asked, "parents": tuple(made["parents"])})
