"""Labeling: a teacher answers questions that are there, or says how one gets to the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from methods.elicitation.components.asking import (
    How,
    Rows,
    ask_about,
    counted,
    draws_of,
    gold_of,
    in_place,
)
from methods.elicitation.filters.parsers import parser as parser_of
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import component, near

#: What a chain may look like, and how its answer is read where it says one.
FORMS = {"steps": "final", "program": "program", "equations": None, "sub-questions": "items"}
HINTS = ("never", "always", "unsolved")


@component("elicitation", "label")
def label(
    rows: Sequence[Record],
    session: Any,
    *,
    prompt: str = "answer",
    parser: str = "text",
    samples: int = 1,
    temperature: float = 0.0,
    max_tokens: int = 512,
) -> Rows:
    """The teacher's answers to the prompts: `samples` rows in the place of each row, the label read by `parser`.

    An answer that the parser cannot read is dropped as unparseable and keeps its text.
    Source: Distilling Step-by-Step, arXiv 2305.02301; "Is GPT-3 a Good Data Annotator?", arXiv 2212.10450.
    """
    read = parser_of(parser)
    counted("samples", samples)
    asked = ask_about(
        rows,
        session,
        "label",
        prompt,
        lambda row: {"prompt": row.prompt},
        How(samples, temperature, max_tokens),
    )
    made = {
        n: [_labelled(row, read, parser) for row in one.children("label", label=None)]
        for n, one in enumerate(asked)
    }
    return in_place(rows, made)


@component("elicitation", "explain")
def explain(
    rows: Sequence[Record],
    session: Any,
    *,
    form: str = "steps",
    prompt: str | None = None,
    hint: str = "never",
    gold: str = "answer",
    chains: int = 1,
    temperature: float | None = None,
    max_tokens: int = 1024,
) -> Rows:
    """The teacher's reasoning as steps, a program, equations or sub-questions: `chains` rows for each prompt.

    With `hint` always, the teacher sees the right answer (column `gold`); with unsolved, it sees it for prompts alone
    of which no row is verified yet, and their solved rows stay (rationalisation). The student's prompt is the row's own
    in every case. One chain is greedy and several are sampled at 0.7, unless `temperature` says otherwise.
    Source: Fine-tune-CoT, arXiv 2212.10071 (several chains at 0.7); STaR, arXiv 2203.14465 (the answer as a hint for
    what is unsolved); PaD, arXiv 2305.13888 (programs); EoTD, arXiv 2401.11864 (equations); Divide-or-Conquer, arXiv
    2402.15000 (sub-questions).
    """
    if form not in FORMS:
        raise MethodError(f'explain: no form "{form}"{near(form, FORMS)}; known: {", ".join(FORMS)}')
    if hint not in HINTS:
        raise MethodError(f'explain: "hint" is {", ".join(HINTS)}, not "{hint}"')
    counted("chains", chains)
    kept, asking = (list(rows), list(rows)) if hint != "unsolved" else _unsolved(rows)
    hinted = hint != "never"

    def fields(row: Record) -> dict[str, str]:
        said = {"prompt": row.prompt}
        return {**said, "gold": gold_of(row, gold, "explain")} if hinted else said

    heat = temperature if temperature is not None else 0.0 if chains == 1 else 0.7
    name = prompt or f"explain/{form}{'-hint' if hinted else ''}"
    asked = ask_about(asking, session, "explain", name, fields, How(chains, heat, max_tokens))
    made: dict[int, Rows] = {}
    for number, one in enumerate(asked):
        marks = {"form": form, "hinted": hinted}
        children = one.children("explain", label=None, verified=None, fields=marks)
        made[number] = [_answered(row, form) for row in children]
    if hint == "unsolved":
        return [*kept, *(row for number in sorted(made) for row in made[number])]
    return in_place(kept, made)


def _unsolved(rows: Sequence[Record]) -> tuple[Rows, Rows]:
    """What stays, and for each prompt without a verified row its first row, dropped or not, as it can be asked about.

    Of an unsolved prompt the wrong chains stay as dropped rows; a question without an answer gives way to its chains.
    """
    solved = {row.prompt for row in rows if row.alive and row.verified}
    first: dict[str, Record] = {}
    for row in rows:
        first.setdefault(row.prompt, row)
    asking = [row.marked(dropped=None, why="") for prompt, row in first.items() if prompt not in solved]
    kept = []
    for row in rows:
        if row.alive and row.prompt not in solved:
            if not row.completion:
                continue
            row = row.drop("wrong answer" if row.verified is False else "not verified")
        kept.append(row)
    return kept, asking


def _labelled(row: Record, read: Any, name: str) -> Record:
    if not row.alive:
        return row
    said = read(row.completion)
    return row.drop("unparseable", f"no {name} in it") if said is None else row.marked(label=said)


def _answered(row: Record, form: str) -> Record:
    """A chain with its answer as the label, a list of sub-questions as a field; what has not its form is dropped."""
    name = FORMS[form]
    if not row.alive or name is None:
        return row
    said = parser_of(name)(row.completion)
    if form == "steps":
        return row.marked(
            label=said
        )  # a chain without a marked answer is a chain all the same: `verify` judges
    if said is None:
        return row.drop("unparseable", f"no {form} in it")
    return row if form == "program" else row.marked(fields={"sub_questions": said.split("\n")})


CHOICES = ("lowest", "random")


@component("elicitation", "hand-back")
def hand_back(
    rows: Sequence[Record], session: Any, *, share: float = 0.2, by: str = "lowest", column: str = "answer"
) -> Rows:
    """A share of the rows goes back to people: those with the lowest score, or drawn at `random`, get their label.

    What people say of a row stands in its field `column`, and becomes its completion and label; nobody's is looked at
    before. Rounded half up; of equal scores the earlier rows go first. A row without a score, or without that field,
    is refused.
    Source: "Want To Reduce Labeling Cost? GPT-3 Can Help", arXiv 2108.13487, section 2.4 (active labelling: people
    label what the model is least sure of).
    """
    if by not in CHOICES:
        raise MethodError(f'hand-back: no choice "{by}"{near(by, CHOICES)}; known: {", ".join(CHOICES)}')
    if not 0 <= share <= 1:
        raise MethodError(f'hand-back: "share" lies between 0 and 1, not at {share}')
    places = [place for place, row in enumerate(rows) if row.alive]
    count = int(share * len(places) + 0.5)
    if by == "random":
        chosen = draws_of(session, "hand-back").sample(places, count)
    else:
        chosen = sorted(places, key=lambda place: _surety(rows[place]))[:count]
    made = list(rows)
    for place in chosen:
        gold = gold_of(rows[place], column, "hand-back")
        made[place] = rows[place].child("hand-back", completion=gold, label=gold)
    return made


def _surety(row: Record) -> float:
    if row.score is None:
        raise MethodError(
            f"hand-back: row {row.id} has no score; a component before it must give one (classify)"
        )
    return row.score
