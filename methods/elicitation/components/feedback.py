"""Feedback: a teacher criticises, revises and rates what somebody wrote; errors of a known kind are put in."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any

from methods.elicitation.components.asking import How, Rows, ask_about, counted, draws_of, in_place
from methods.elicitation.filters.parsers import verdict
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import component, near

_REVISE = re.compile(r"\brevise:\W*(yes|no)\b", re.I)


@component("elicitation", "criticise")
def criticise(
    rows: Sequence[Record],
    session: Any,
    *,
    prompt: str = "criticise",
    only_wrong: bool = False,
    temperature: float = 0.0,
    max_tokens: int = 512,
) -> Rows:
    """The teacher says what is wrong with each completion: field `critique`, and whether to revise, field `revise`.

    What a check said of it (field `error`) is shown to the teacher. A critique that says nothing of revising counts as
    yes. With `only_wrong`, rows that are verified are not criticised. A critique that failed leaves none.
    Source: "SelFee: Iterative Self-Revising LLM Empowered by Self-Feedback Generation"; Constitutional AI, arXiv
    2212.08073.
    """
    looked = [row.alive and not (only_wrong and row.verified) for row in rows]

    def fields(row: Record) -> dict[str, str]:
        error = str(row.fields.get("error") or "")
        said = {"prompt": row.prompt, "completion": row.completion}
        return {**said, "error": f"\nIts check says: {error}" if error else ""}

    asked = iter(
        ask_about(
            [row for row, look in zip(rows, looked, strict=True) if look],
            session,
            "criticise",
            prompt,
            fields,
            How(1, temperature, max_tokens),
        )
    )
    made = []
    for row, look in zip(rows, looked, strict=True):
        if not look:
            made.append(row)
            continue
        one = next(asked)
        text = one.answer.texts[0] if one.answer.dropped() is None else None
        found = _REVISE.findall(text or "")
        marks = {"critique": text, "revise": text is not None and (not found or found[-1].lower() == "yes")}
        made.append(row.marked(one.answer, one.request, component="criticise", fields=marks))
    return made


@component("elicitation", "revise")
def revise(
    rows: Sequence[Record],
    session: Any,
    *,
    rounds: int = 1,
    prompt: str = "revise",
    criticise_prompt: str = "criticise",
    keep_first: bool = False,
    temperature: float = 0.0,
    max_tokens: int = 1024,
) -> Rows:
    """The teacher writes again what its critique found wanting; up to `rounds` times, criticised anew in between.

    A row that is to be revised (field `revise`; a row without a critique gets one first) gives way to its revision, a
    child in the next round whose label and verification are open again; the old one is dropped as revised, or stays
    with `keep_first`. A revision that is cut or fails is dropped, and the row before it stays.
    Source: "SelFee: Iterative Self-Revising LLM Empowered by Self-Feedback Generation"; Constitutional AI, arXiv
    2212.08073.
    """
    counted("rounds", rounds)
    found: Rows = list(rows)
    for _ in range(rounds):
        missing = [place for place, row in enumerate(found) if row.alive and "revise" not in row.fields]
        reviewed = criticise(
            [found[place] for place in missing], session, prompt=criticise_prompt, temperature=temperature,
            max_tokens=max_tokens,
        )  # fmt: skip
        for place, row in zip(missing, reviewed, strict=True):
            found[place] = row
        todo = [place for place, row in enumerate(found) if row.alive and row.fields.get("revise")]
        if not todo:
            break
        asked = ask_about(
            [found[place] for place in todo],
            session,
            "revise",
            prompt,
            _shown,
            How(1, temperature, max_tokens),
        )
        fresh = dict(zip(todo, asked, strict=True))
        after: Rows = []
        for place, row in enumerate(found):
            if place not in fresh:
                after.append(row)
                continue
            blank = dict.fromkeys(("critique", "error"))
            child = fresh[place].child("revise", round=row.round + 1, fields={**blank, "first": _first(row)})
            child = _open(child)
            if not child.alive or keep_first:  # nothing came: the row stays, and is not asked about again
                after += [row.marked(fields={"revise": False}), child]
            else:
                after += [row.drop("revised", f"by {child.id}"), child]
        found = after
    return found


def _shown(row: Record) -> dict[str, str]:
    return {
        "prompt": row.prompt,
        "completion": row.completion,
        "critique": str(row.fields.get("critique") or ""),
    }


def _first(row: Record) -> str:
    """What the first answer of a chain of revisions was."""
    return str(row.fields.get("first") or row.completion)


def _open(row: Record) -> Record:
    """Nobody has said yet whether the revision must be revised."""
    fields = {
        name: value for name, value in row.fields.items() if name not in ("revise", "critique", "error")
    }
    made = row.marked(label=None, verified=None, score=None)
    return Record(
        made.prompt, made.completion, made.component, made.parents, made.seed, made.round,
        dropped=made.dropped, why=made.why, asked=made.asked, fields=fields,
    )  # fmt: skip


@component("elicitation", "rate")
def rate(
    rows: Sequence[Record],
    session: Any,
    *,
    prompt: str = "rate",
    samples: int = 1,
    temperature: float | None = None,
    max_tokens: int = 256,
) -> Rows:
    """The teacher's rating of each completion becomes its score: the mean of `samples` ratings that can be read.

    A row of which no rating can be read is dropped: not rated. Several ratings are sampled at 0.7, one is greedy.
    Source: UltraFeedback, arXiv 2310.01377; Humpback, arXiv 2308.06259 (1 to 5).
    """
    counted("samples", samples)
    heat = temperature if temperature is not None else 0.0 if samples == 1 else 0.7

    def fields(row: Record) -> dict[str, str]:
        return {"prompt": row.prompt, "completion": row.completion}

    asked = ask_about(rows, session, "rate", prompt, fields, How(samples, heat, max_tokens))
    made: dict[int, Rows] = {}
    for number, one in enumerate(asked):
        said = [verdict(text) for text in one.answer.whole]
        marks = [float(mark) for mark in said if mark is not None]
        row = one.row.marked(one.answer, one.request, component="rate", score=mean(marks) if marks else None)
        made[number] = [row if marks else row.drop("not rated", f"none of {samples} ratings can be read")]
    return in_place(rows, made)


#: Each changes a text in one place that is drawn, or gives None where there is no such place: (text, what, where).
Error = Callable[[str, random.Random], tuple[str, int] | None]


def _number(text: str, draws: random.Random) -> tuple[str, int] | None:
    found = list(re.finditer(r"(?<![\d.])\d{1,9}(?![\d.]*\d)", text))
    if not found:
        return None
    one = draws.choice(found)
    wrong = int(one[0]) + draws.choice([-1, 1, 2, 10])
    wrong = wrong if wrong >= 0 else int(one[0]) + 1
    return text[: one.start()] + str(wrong) + text[one.end() :], text.count("\n", 0, one.start()) + 1


def _operator(text: str, draws: random.Random) -> tuple[str, int] | None:
    found = list(re.finditer(r"(?<=[\w)])[ \t]*([-+*/])[ \t]*(?=[\d(A-Za-z])", text))
    found = [one for one in found if " " in one[0] or text[one.start() - 1].isdigit()]  # no hyphen of a word
    if not found:
        return None
    one = draws.choice(found)
    wrong = draws.choice([sign for sign in "+-*/" if sign != one[1]])
    return text[: one.start(1)] + wrong + text[one.end(1) :], text.count("\n", 0, one.start()) + 1


def _steps(text: str) -> list[int]:
    """Lines with something on them, the last one, the answer, left out."""
    said = [place for place, line in enumerate(text.split("\n")) if line.strip()]
    return said[:-1]


def _missing(text: str, draws: random.Random) -> tuple[str, int] | None:
    steps = _steps(text)
    if not steps:
        return None
    place = draws.choice(steps)
    lines = text.split("\n")
    return "\n".join(lines[:place] + lines[place + 1 :]), place + 1


def _swapped(text: str, draws: random.Random) -> tuple[str, int] | None:
    lines, steps = text.split("\n"), _steps(text)
    pairs = [(a, b) for a, b in zip(steps, steps[1:], strict=False) if lines[a].strip() != lines[b].strip()]
    if not pairs:
        return None
    a, b = draws.choice(pairs)
    lines[a], lines[b] = lines[b], lines[a]
    return "\n".join(lines), a + 1


ERRORS: dict[str, Error] = {
    "number": _number,
    "operator": _operator,
    "missing-step": _missing,
    "swapped-steps": _swapped,
}


@component("elicitation", "inject-errors")
def inject_errors(
    rows: Sequence[Record],
    session: Any,
    *,
    kinds: list[str] = ["number", "operator", "missing-step", "swapped-steps"],  # noqa: B006
    errors: int = 1,
) -> Rows:
    """Beside each row a wrong one: `errors` errors of kinds that are drawn, known by construction; no teacher is asked.

    The wrong row is a child that is not verified (`verified` false), with the right text in `right`, the kinds in
    `errors` and their lines, from 1, in `error_lines`. It differs from the right one, always. A row without a place for
    any kind has no wrong one beside it.
    Source: PaD, arXiv 2305.13888 (errors to be repaired); TIGERScore, arXiv 2310.00752 (errors with their places).
    """
    for kind in kinds:
        if kind not in ERRORS:
            raise MethodError(
                f'inject-errors: no kind "{kind}"{near(kind, ERRORS)}; known: {", ".join(ERRORS)}'
            )
    if not kinds:
        raise MethodError("inject-errors needs a kind of error")
    counted("errors", errors)
    made: Rows = []
    for row in rows:
        made.append(row)
        wrong = _wrong(row, kinds, errors, draws_of(session, row.id)) if row.alive else None
        if wrong is not None:
            made.append(wrong)
    return made


def _wrong(row: Record, kinds: Sequence[str], errors: int, draws: random.Random) -> Record | None:
    text, done, lines = row.completion, list[str](), list[int]()
    for _ in range(errors):
        for kind in draws.sample(list(kinds), len(kinds)):
            found = ERRORS[kind](text, draws)
            if found is not None and found[0] != text and found[0] != row.completion:
                text, line = found
                done.append(kind)
                lines.append(line)
                break
    if not done:
        return None
    fields = {"right": row.completion, "errors": done, "error_lines": lines}
    return row.child("inject-errors", completion=text, fields=fields, label=None, verified=False)
