"""Texts and their classes: labels by likelihood, texts written for a class or between two, texts said otherwise.

Labeling (classify), data curation (write, blend: from nothing but the names of classes) and expansion (paraphrase,
query). What comes out is data for a classifier or a search: `prompt` is the text, `completion` its class, or what is to
be found.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from methods.elicitation.components.asking import (
    Asked,
    How,
    Rows,
    ask_about,
    counted,
    draws_of,
    in_place,
    request_for,
)
from methods.elicitation.filters.copies import same_words
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.errors import MethodError, NotYet
from methods.registry import component, near

CALIBRATIONS = ("none", "blank", "rows")


@component("elicitation", "classify")
def classify(
    rows: Sequence[Record],
    session: Any,
    *,
    classes: list[str],
    prompt: str = "classify",
    calibrate: str = "blank",
    blank: str = "N/A",
) -> Rows:
    """The class whose name the session's model finds likeliest behind each text; the score is its probability.

    Probabilities are over the `classes` alone. A model likes some names whatever it reads: `calibrate` "blank" divides
    by what it says of a text without content (`blank`), "rows" by its mean over all rows, "none" by nothing.
    Source: "Calibrate Before Use", arXiv 2102.09690 (a text without content); Batch Calibration, arXiv 2309.17249 (the
    mean over the rows). A session whose model cannot score is refused.
    """
    if calibrate not in CALIBRATIONS:
        raise MethodError(
            f'classify: no calibration "{calibrate}"{near(calibrate, CALIBRATIONS)}; known: {", ".join(CALIBRATIONS)}'
        )
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise MethodError(f"classify: classes are two or more different names, not {classes}")
    if session is None:
        raise MethodError("classify asks a model, and there is none")
    living = [row for row in rows if row.alive]
    blanks = [Record(blank)] if calibrate == "blank" and living else []
    said = _probabilities([*living, *blanks], session, classes, prompt)
    prior = [1.0] * len(classes)
    if blanks:
        prior = said.pop()
    elif calibrate == "rows" and living:
        prior = [sum(column) / len(said) for column in zip(*said, strict=True)]
    made = {}
    for number, (row, own) in enumerate(zip(living, said, strict=True)):
        odds = [one / max(other, 1e-12) for one, other in zip(own, prior, strict=True)]
        best = max(range(len(odds)), key=odds.__getitem__)
        name, score = classes[best], odds[best] / sum(odds)
        made[number] = [row.child("classify", completion=name, label=name, score=score)]
    return in_place(rows, made)


def _probabilities(
    rows: Sequence[Record], session: Any, classes: Sequence[str], prompt: str
) -> list[list[float]]:
    """Of each row's text, over the classes."""
    read, requests = read_prompt(prompt), []
    for row in rows:
        fields = {"prompt": row.prompt, "classes": ", ".join(classes)}
        requests += [request_for(row, "classify", read, fields, How())] * len(classes)
    scored = session.score(requests, list(classes) * len(rows)) if requests else []
    logs = [sum(values) for values in scored]
    found = []
    for begin in range(0, len(logs), len(classes)):
        own = logs[begin : begin + len(classes)]
        likely = [math.exp(one - max(own)) for one in own]
        found.append([one / sum(likely) for one in likely])
    return found


@component("elicitation", "write")
def write(
    rows: Sequence[Record],
    session: Any,
    *,
    count: int = 10,
    prompt: str = "write",
    temperature: float = 0.7,
    max_tokens: int = 128,
) -> Rows:
    """`count` texts for each row, which is a class: its prompt says of what kind, its field `label` how it is called.

    Without that field the class is called by its prompt. Nobody's texts are needed. The classes themselves are dropped:
    they are no texts.
    Source: ZeroGen, arXiv 2202.07922; SuperGen, arXiv 2202.04538.
    """
    counted("count", count)
    asked = ask_about(
        rows,
        session,
        "write",
        prompt,
        lambda row: {"prompt": row.prompt},
        How(count, temperature, max_tokens),
    )
    made = [_text_of_class(one, "write", place) for one in asked for place in range(len(one.answer.texts))]
    return [*_classes_alone(rows), *made]


@component("elicitation", "blend")
def blend(
    rows: Sequence[Record],
    session: Any,
    *,
    count: int = 10,
    share: float = 0.75,
    prompt: str = "blend",
    temperature: float = 0.7,
    max_tokens: int = 128,
) -> Rows:
    """`count` texts for each row, a class as in `write`, each to the `share` of its class and for the rest of another.

    The other class is drawn anew for each text and stands in the field `blended`. Such texts lie near a boundary, on
    either side of it: `classify` says on which.
    Source: PromptMix, arXiv 2310.14192 (three quarters, then labelled again).
    """
    counted("count", count)
    if not 0.5 < share < 1:
        raise MethodError(f'blend: "share" lies between 0.5 and 1, not at {share}')
    living = [row for row in rows if row.alive]
    if len(living) < 2:
        raise NotYet("blend needs two classes that are not dropped")
    made: Rows = []
    for number in range(count):
        others = {}
        for row in living:
            choices = [one for one in living if one is not row]
            others[row.id] = draws_of(session, f"{number}/{row.id}").choice(choices)
        percent = round(100 * share)

        def fields(row: Record, others: dict[str, Record] = others, percent: int = percent) -> dict[str, str]:
            other = others[row.id].prompt
            return {"prompt": row.prompt, "other": other, "most": str(percent), "rest": str(100 - percent)}

        asked = ask_about(
            living, session, "blend", prompt, fields, How(1, temperature, max_tokens, draw=number)
        )
        made += [_text_of_class(one, "blend", 0, blended=name_of_class(others[one.row.id])) for one in asked]
    return [*_classes_alone(rows), *made]


@component("elicitation", "paraphrase")
def paraphrase(
    rows: Sequence[Record],
    session: Any,
    *,
    samples: int = 1,
    prompt: str = "paraphrase",
    temperature: float = 0.7,
    max_tokens: int = 256,
) -> Rows:
    """Each text in other words, `samples` times, behind the row itself; completion and label are the row's own.

    What comes back in the same words is dropped as unchanged.
    Source: AugGPT, arXiv 2302.13007.
    """
    counted("samples", samples)
    asked = ask_about(
        rows,
        session,
        "paraphrase",
        prompt,
        lambda row: {"prompt": row.prompt},
        How(samples, temperature, max_tokens),
    )
    made: dict[int, Rows] = {}
    for number, one in enumerate(asked):
        own = [one.row]
        for place, text in enumerate(one.answer.texts):
            said = _plain(text)
            kept: dict[str, Any] = {"completion": one.row.completion, "label": one.row.label}
            row = one.child("paraphrase", place, prompt=said, **kept)
            same = same_words(said) == same_words(one.row.prompt)
            own.append(row.drop("unchanged") if row.alive and same else row)
        made[number] = own
    return in_place(rows, made)


@component("elicitation", "query")
def query(
    rows: Sequence[Record],
    session: Any,
    *,
    samples: int = 1,
    prompt: str = "query",
    temperature: float = 0.7,
    max_tokens: int = 64,
) -> Rows:
    """What somebody may have searched for who is glad of this document: `samples` queries in the place of each row.

    The row's prompt is the document, which becomes the completion behind each query. The first line counts.
    Source: InPars, arXiv 2202.05144; Promptagator, arXiv 2209.11755.
    """
    counted("samples", samples)
    asked = ask_about(
        rows,
        session,
        "query",
        prompt,
        lambda row: {"prompt": row.prompt},
        How(samples, temperature, max_tokens),
    )
    made: dict[int, Rows] = {}
    for number, one in enumerate(asked):
        own = []
        for place, text in enumerate(one.answer.texts):
            said = _plain(text.strip().partition("\n")[0])
            row = one.child("query", place, prompt=said, completion=one.row.prompt, label=None)
            own.append(row if said or not row.alive else row.drop("empty"))
        made[number] = own
    return in_place(rows, made)


def name_of_class(row: Record) -> str:
    """How a class is called."""
    return str(row.fields.get("label") or row.prompt)


def _text_of_class(one: Asked, name: str, place: int, **fields: Any) -> Record:
    """A text that was written for a class, as a row of that class."""
    called, said = name_of_class(one.row), _plain(one.answer.texts[place])
    more: dict[str, Any] = {"completion": called, "label": called, "fields": {"label": called, **fields}}
    row = one.child(name, place, prompt=said, **more)
    return row if said or not row.alive else row.drop("empty")


def _classes_alone(rows: Sequence[Record]) -> Rows:
    return [row.drop("a class", "no text of one") for row in rows]


def _plain(text: str) -> str:
    """A text without the quotation marks or the heading that a model put around it."""
    said = text.strip()
    for opened, closed in (('"', '"'), ("“", "”"), ("'", "'")):
        if len(said) > 1 and said.startswith(opened) and said.endswith(closed):
            return said[1:-1].strip()
    return said
