"""How a component asks about rows: a prompt of a file, filled in from a row, one request a row."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from methods.elicitation.filters.marks import text_of
from methods.elicitation.prompting import Prompt, read_prompt
from methods.elicitation.records.record import Record
from methods.elicitation.writers.protocol import Answer, Request
from methods.errors import MethodError

Rows = list[Record]


@dataclass(frozen=True)
class How:
    """How a teacher is asked, but for the words."""

    samples: int = 1
    temperature: float = 0.0
    max_tokens: int = 512
    draw: int = 0  # the same question, asked again
    top_p: float = 1.0
    stop: tuple[str, ...] = ()  # what ends a text, and is no part of it


@dataclass(frozen=True)
class Asked:
    """A row, what was asked about it and what came."""

    row: Record
    request: Request
    answer: Answer

    def children(self, component: str, **changes: Any) -> Rows:
        """A row for each text of the answer; what was cut, is empty or failed is dropped there."""
        return [self.child(component, place, **changes) for place in range(len(self.answer.texts))]

    def child(self, component: str, place: int = 0, **changes: Any) -> Record:
        """The row of one text of the answer."""
        return self.row.child(component, self.answer, place, request=self.request, **changes)


def ask_about(
    rows: Sequence[Record],
    session: Any,
    component: str,
    prompt: str,
    fields: Callable[[Record], Mapping[str, str]],
    how: How,
) -> list[Asked]:
    """What the session's teacher says about each row that is alive, in order."""
    if session is None:
        raise MethodError(f"{component} asks a teacher, and there is none")
    read = read_prompt(prompt)
    living = [row for row in rows if row.alive]
    requests = [request_for(row, component, read, fields(row), how) for row in living]
    answers = session.ask(requests) if requests else []
    return [Asked(*one) for one in zip(living, requests, answers, strict=True)]


def request_for(row: Record, component: str, prompt: Prompt, fields: Mapping[str, str], how: How) -> Request:
    """The request; its note says what row it is about, for a teacher that is no model."""
    note = {**row.fields, "question": row.prompt, "component": component}
    return Request(
        prompt.fill(fields),
        how.samples,
        how.temperature,
        how.top_p,
        max_tokens=how.max_tokens,
        stop=how.stop,
        seed=how.draw,
        note=note,
    )


def gold_of(row: Record, column: str, component: str) -> str:
    """The right answer that a row knows. Raises MethodError naming the column that lacks it."""
    try:
        return text_of(row, column)
    except MethodError:
        raise MethodError(
            f'{component} needs the right answer of each row in "{column}"; row {row.id} has {_names(row)}'
        ) from None


def _names(row: Record) -> str:
    return ", ".join(map(str, row.fields)) or "no fields"


def in_place(rows: Sequence[Record], made: Mapping[int, Rows]) -> Rows:
    """The rows, each that is alive followed by what was made of it: by its number among those that are alive."""
    found: Rows = []
    number = 0
    for row in rows:
        if row.alive:
            found += made.get(number, [])
            number += 1
        else:
            found.append(row)
    return found


def groups(rows: Sequence[Record], by: Callable[[Record], str] | None = None) -> dict[str, list[int]]:
    """Places of the rows that are alive, by what they answer, the same prompt, or by another word; read in order."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        if row.alive:
            found.setdefault(row.prompt if by is None else by(row), []).append(place)
    return found


def dropped(rows: Sequence[Record], places: Mapping[int, tuple[str, str]]) -> Rows:
    """The rows, those at some places dropped for (reason, why)."""
    return [row.drop(*places[place]) if place in places else row for place, row in enumerate(rows)]


def teacher_of(row: Record) -> str:
    """Who wrote a row's completion: the identity of the last that was asked; "" for a seed."""
    return row.asked[-1].teacher if row.asked else ""


def draws_of(session: Any, about: str) -> random.Random:
    """Random numbers for one thing: the same for one seed of the session, others for another."""
    return random.Random(f"{session.seed if session is not None else 0}/{about}")


def counted(name: str, value: int, least: int = 1) -> int:
    """A setting that is a whole number of at least so many. Raises MethodError."""
    if value < least:
        raise MethodError(f'"{name}" must be {least} or more, not {value}')
    return value
