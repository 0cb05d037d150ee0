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
from methods.elicitation.writers.protocol import Request
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
    before: str = "",
    ends: bool = True,
) -> Rows:
    """The class whose name the session's model finds likeliest behind each text; the score is its probability.

    Probabilities are over the `classes` alone. A model likes some names whatever it reads: `calibrate` "blank" divides
    by what it says of a text without content (`blank`), "rows" by its mean over all rows, "none" by nothing. `before`
    stands before each name; with `ends` the name is all that is said. A model without a chat template that goes on
    where the prompt stops wants a blank before, and no end.
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
    said = probabilities([*living, *blanks], session, classes, prompt, before=before, ends=ends)
    prior = [1.0] * len(classes)
    if blanks:
        prior = said.pop()
    elif calibrate == "rows" and living:
        prior = mean_of(said)
    made = {}
    for number, (row, own) in enumerate(zip(living, said, strict=True)):
        shares = calibrated(own, prior)
        best = max(range(len(shares)), key=shares.__getitem__)
        name = classes[best]
        made[number] = [row.child("classify", completion=name, label=name, score=shares[best])]
    return in_place(rows, made)


def calibrated(own: Sequence[float], prior: Sequence[float]) -> list[float]:
    """Probabilities over the classes, each divided by that of the prior, brought to the sum 1."""
    odds = [one / max(other, 1e-12) for one, other in zip(own, prior, strict=True)]
    return [one / sum(odds) for one in odds]


def mean_of(said: Sequence[Sequence[float]]) -> list[float]:
    """The mean probability of each class over texts: the prior of Batch Calibration, arXiv 2309.17249."""
    return [sum(column) / len(said) for column in zip(*said, strict=True)]


def probabilities(
    rows: Sequence[Record],
    session: Any,
    classes: Sequence[str],
    prompt: str,
    *,
    before: str = "",
    ends: bool = True,
) -> list[list[float]]:
    """Of each row's text, over the classes, as the session's model says them: nothing is calibrated.

    `before` stands before each name; without `ends` what stands behind it does not matter.
    """
    read, requests = read_prompt(prompt), []
    for row in rows:
        fields = {"prompt": row.prompt, "classes": ", ".join(classes)}
        requests += [request_for(row, "classify", read, fields, How())] * len(classes)
    names = [before + name for name in classes]
    scored = session.score(requests, names * len(rows)) if requests else []
    logs = [sum(values if ends else values[:-1]) for values in scored]
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
    top_p: float = 1.0,
    max_tokens: int = 128,
    stop: list[str] = [],  # noqa: B006 - a literal, never changed
) -> Rows:
    """`count` texts for each row, which is a class: its prompt says of what kind, its field `label` how it is called.

    Without that field the class is called by its prompt. Nobody's texts are needed. The classes themselves are dropped:
    they are no texts. What a text was asked by stands in its field `asked`. A text ends where one of `stop` begins.
    Source: ZeroGen, arXiv 2202.07922 (nucleus sampling at 0.9); SuperGen, arXiv 2202.04538.
    """
    counted("count", count)
    asked = ask_about(
        rows,
        session,
        "write",
        prompt,
        lambda row: {"prompt": row.prompt},
        How(count, temperature, max_tokens, top_p=top_p, stop=tuple(stop)),
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
    top_p: float = 1.0,
    max_tokens: int = 128,
    stop: list[str] = [],  # noqa: B006 - a literal, never changed
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
    if session is None:
        raise MethodError("blend asks a teacher, and there is none")
    read, percent = read_prompt(prompt), round(100 * share)
    rest, others, asked = str(100 - percent), list[Record](), list[tuple[Record, Request]]()
    for number in range(count):
        how = How(1, temperature, max_tokens, number, top_p, tuple(stop))
        for row in living:
            choices = [one for one in living if one is not row]
            others.append(draws_of(session, f"{number}/{row.id}").choice(choices))
            fields = {"prompt": row.prompt, "other": others[-1].prompt, "most": str(percent), "rest": rest}
            asked.append((row, request_for(row, "blend", read, fields, how)))
    answers = session.ask([request for _, request in asked])
    made = [
        _text_of_class(Asked(*one, answer), "blend", 0, blended=name_of_class(other))
        for one, answer, other in zip(asked, answers, others, strict=True)
    ]
    return [*_classes_alone(rows), *made]


@component("elicitation", "paraphrase")
def paraphrase(
    rows: Sequence[Record],
    session: Any,
    *,
    samples: int = 1,
    prompt: str = "paraphrase",
    temperature: float = 0.7,
    top_p: float = 1.0,
    max_tokens: int = 256,
    stop: list[str] = [],  # noqa: B006 - a literal, never changed
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
        How(samples, temperature, max_tokens, top_p=top_p, stop=tuple(stop)),
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


@component("elicitation", "jumble")
def jumble(rows: Sequence[Record], session: Any, *, samples: int = 1, share: float = 0.1) -> Rows:
    """Each text with some of its words swapped or left out, `samples` times, behind the row itself; nobody is asked.

    Every other sample swaps two words, as often as a `share` of the words is (once at least); the others leave each
    word out with that probability, one word stays. Completion and label are the row's own. What comes out unchanged is
    dropped.
    Source: EDA, arXiv 1901.11196 (random swap and random deletion; synonyms would need a thesaurus).
    """
    counted("samples", samples)
    if not 0 < share < 1:
        raise MethodError(f'jumble: "share" lies between 0 and 1, not at {share}')
    made: dict[int, Rows] = {}
    for number, row in enumerate(row for row in rows if row.alive):
        own = [row]
        for place in range(samples):
            draws, words = draws_of(session, f"jumble/{row.id}/{place}"), row.prompt.split()
            if place % 2 == 0:
                for _ in range(max(1, round(share * len(words)))):
                    one, other = draws.randrange(len(words)), draws.randrange(len(words))
                    words[one], words[other] = words[other], words[one]
            else:
                words = [word for word in words if draws.random() >= share] or [draws.choice(words)]
            said = " ".join(words)
            child = row.child("jumble", prompt=said, label=row.label, fields={"sample": place})
            own.append(child.drop("unchanged") if same_words(said) == same_words(row.prompt) else child)
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
    about = {"label": called, "asked": one.request.messages[-1].content, **fields}
    more: dict[str, Any] = {"completion": called, "label": called, "fields": about}
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
