"""Filters as components: rows that are no data are marked with a reason; who comes first stays."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from methods.elicitation.filters import copies
from methods.elicitation.filters.leaks import HeldOut
from methods.elicitation.filters.parsers import parser
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import component

Rows = list[Record]


def text_of(row: Record, column: str) -> str:
    """The text in a column: prompt, completion, both, label, or a field. Raises MethodError where there is none."""
    if column == "both":
        return f"{row.prompt}\n{row.completion}"
    if column in ("prompt", "completion"):
        return str(getattr(row, column))
    value = row.label if column == "label" else row.fields.get(column)
    if value is None:
        known = ", ".join(["prompt", "completion", "both", "label", *map(str, row.fields)])
        raise MethodError(f'row {row.id} has no column "{column}"; it has {known}')
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def marked(rows: Sequence[Record], reason: str, why: Callable[[Record], str | None]) -> Rows:
    """The rows, with those dropped of which `why` says something; dropped ones are not looked at."""
    made = []
    for row in rows:
        said = why(row) if row.alive else None
        made.append(row if said is None else row.drop(reason, said))
    return made


@component("elicitation", "exact-copies")
def exact_copies(
    rows: Sequence[Record], session: Any = None, *, column: str = "both", key: str = "words"
) -> Rows:
    """Drops a row whose text an earlier row has already; reason: copy.

    `key` says what of the text counts: text (all of it), words (no case, blanks or punctuation), equations (Yuan et
    al.: two chains with the same equations are one path; give the column `completion`, and copies of one prompt alone
    count then).
    Source: RFT, arXiv 2308.01825 (distinct lists of equations).
    """
    reduced, seen = copies.key_of(key), dict[tuple[str, str], str]()

    def why(row: Record) -> str | None:
        about = (row.prompt if key == "equations" else "", reduced(text_of(row, column)))
        first = seen.setdefault(about, row.id)
        return None if first == row.id else f"of {first}"

    return marked(_apart(rows), "copy", why)


def _apart(rows: Sequence[Record]) -> Rows:
    """The rows, one that stands there twice, id and all, dropped the second time."""
    seen: set[str] = set()
    made = []
    for row in rows:
        made.append(row.drop("copy", f"of {row.id}") if row.id in seen else row)
        seen.add(row.id)
    return made


@component("elicitation", "near-copies")
def near_copies(
    rows: Sequence[Record], session: Any = None, *, column: str = "prompt", near: float = 0.7
) -> Rows:
    """Drops a row whose ROUGE-L to an earlier kept row is `near` or more; reason: near copy.

    Every pair counts that could be so near: none is missed. Rows of one prompt are copies by their prompts; for several
    answers to a question give the column `completion`.
    Source: Self-Instruct, arXiv 2212.10560 (a new task is kept below 0.7 to all).
    """
    pool = copies.Pool(near)

    def why(row: Record) -> str | None:
        text = text_of(row, column)
        found = pool.closest(text)
        if found is None:
            pool.add(text, row.id)
            return None
        return f"ROUGE-L {found[1]:.2f} to {found[0]}"

    return marked(_apart(rows), "near copy", why)


@component("elicitation", "leaks")
def leaks(
    rows: Sequence[Record],
    session: Any = None,
    *,
    held_out: str | list[str],
    column: str = "both",
    words: int = 13,
) -> Rows:
    """Drops a row that shares a run of `words` words with a held-out text; reason: leak.

    `held_out` is a file of JSON lines, each text in it counts, or a list of texts. A held-out text of fewer words
    counts where a row is nothing but it.
    Source: GPT-3, arXiv 2005.14165 (runs of 13 words).
    """
    if words < 1:
        raise MethodError(f'leaks: "words" must be 1 or more, not {words}')
    known = HeldOut(held_out_texts(held_out), words)
    columns = ("prompt", "completion") if column == "both" else (column,)

    def why(row: Record) -> str | None:
        found = (known.leak(text_of(row, one)) for one in (*columns, *(["both"] if column == "both" else [])))
        return next((f"with held-out data: {run}" for run in found if run), None)

    return marked(rows, "leak", why)


def held_out_texts(held_out: str | Sequence[str]) -> list[str]:
    """The texts of a list, or of each line of a JSONL file. Raises MethodError naming file and line."""
    if not isinstance(held_out, str):
        return list(held_out)
    path = Path(held_out)
    if not path.is_file():
        raise MethodError(f"leaks: no file {held_out} of held-out rows")
    texts: list[str] = []
    try:
        lines = path.read_bytes().split(b"\n")  # a text may hold other line separators as they are
    except OSError as error:
        raise MethodError(f"leaks: {held_out}: cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            said = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise MethodError(f"{held_out}:{number}: no JSON: {error}") from None
        values = said.values() if isinstance(said, dict) else [said]
        texts += [value for value in values if isinstance(value, str)]
    return texts


@component("elicitation", "parse")
def parse(
    rows: Sequence[Record],
    session: Any = None,
    *,
    parser: str = "final",
    column: str = "completion",
    into: str = "label",
) -> Rows:
    """Reads the answer out of a text into the label, or a field; a text without one is dropped: unparseable.

    Parsers: text, final, reasons, boxed, number, choice, yes-no, program, items, verdict, `field:NAME` of JSON.
    Source: "Is GPT-3 a Good Data Annotator?", arXiv 2212.10450.
    """
    read = _parser(parser)
    made = []
    for row in rows:
        if not row.alive:
            made.append(row)
            continue
        said = read(text_of(row, column))
        if said is None:
            made.append(row.drop("unparseable", f"no {parser} in its {column}"))
        else:
            made.append(row.marked(label=said) if into == "label" else row.marked(fields={into: said}))
    return made


_parser = parser  # `parse` has a setting of that name


@component("elicitation", "well-formed")
def well_formed(
    rows: Sequence[Record],
    session: Any = None,
    *,
    column: str = "prompt",
    words: list[int] = [4, 150],  # noqa: B006 - a literal, never changed
    without: list[str] = ["image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps", "draw", "plot", "go to"],  # noqa: B006, E501
    repeats: list[int] = [20, 20],  # noqa: B006
) -> Rows:  # fmt: skip
    """Drops texts that are too short or long, name what no model has, begin oddly, repeat or apologise: malformed.

    `words` are the least and the most, `without` words that must not be there, `repeats` [n, times] a run of n words
    that comes more often. A text that begins with punctuation or with what is no ASCII is dropped too, and one that
    says sorry within fewer than 80 words.
    Source: Self-Instruct, arXiv 2212.10560; WizardLM, arXiv 2304.12244 (apologies); "Not All Correct Answers Are
    Equal", arXiv 2505.14464 (20 words in a row more than 20 times).
    """
    if len(words) != 2 or not 0 <= words[0] <= words[1]:
        raise MethodError(f'well-formed: "words" is [least, most], not {words}')
    if len(repeats) != 2 or min(repeats) < 1:
        raise MethodError(f'well-formed: "repeats" is [words in a row, times], not {repeats}')
    unwanted = re.compile(rf"\b(?:{'|'.join(map(re.escape, without))})\b", re.I) if without else None

    def why(row: Record) -> str | None:
        text = text_of(row, column).strip()
        said = text.split()
        if not words[0] <= len(said) <= words[1]:
            return f"{len(said)} words"
        if not (text[0].isascii() and (text[0].isalnum() or text[0] in "\"'(`#$<[{-\\")):
            return f"begins with {text[0]!r}"
        if unwanted and (found := unwanted.search(text)):
            return f"names {found[0].lower()}"
        if len(said) < 80 and re.search(r"\b(?:sorry|apologi[sz]e)\b", text, re.I):
            return "apologises"
        n, times = repeats
        counts: dict[tuple[str, ...], int] = {}
        for place in range(len(said) - n + 1):
            run = tuple(said[place : place + n])
            counts[run] = counts.get(run, 0) + 1
            if counts[run] > times:
                return f"repeats {n} words {counts[run]} times"
        return None

    return marked(rows, "malformed", why)
