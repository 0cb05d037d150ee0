"""Expansion: tasks made of tasks, more of them (expand) or harder ones (evolve)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from methods.elicitation.components.asking import Asked, How, Rows, ask_about, counted, draws_of
from methods.elicitation.filters.copies import Pool, same_words
from methods.elicitation.filters.parsers import items
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.elicitation.writers.protocol import Request
from methods.errors import MethodError, NotYet
from methods.registry import component
from methods.registry import near as nearest

OPERATORS = ("constrain", "deepen", "concretise", "reason", "widen")
ROUND = 4  # requests of expand that are made side by side: what they bring becomes examples together
COPIED = re.compile(
    r"\b(?:given|new|rewritten|created|original) (?:prompt|task)\b|#(?:the )?\w+ prompt#", re.I
)
FEW = re.compile(
    r"(?:(?:a|an|the|and|or|of|to|in|on|at|is|are|be|it|this|that|with|for|as|by|from|i|you|he|she|we|they)(?: |$))*"
)


@component("elicitation", "expand")
def expand(
    rows: Sequence[Record],
    session: Any,
    *,
    wanted: int,
    shots: list[int] = [6, 2],  # noqa: B006 - a literal, never changed
    per_call: int = 8,
    near: float = 0.7,
    calls: int = 1000,
    prompt: str = "expand",
    temperature: float = 0.7,
    max_tokens: int = 1024,
) -> Rows:
    """New tasks in the manner of the seeds, until `wanted` are there or `calls` requests have been made.

    Each request shows `shots` tasks: so many seeds and so many of those made before (seeds where those are too few), in
    random order, and asks for `per_call` more as a list. A task as near as `near` in ROUGE-L to any that is kept is
    dropped as a near copy, an answer without a list as unparseable. The seeds stay, with nothing said to them.
    Source: Self-Instruct, arXiv 2212.10560 (6 seeds and 2 made ones, ROUGE-L below 0.7, temperature 0.7).
    """
    counted("wanted", wanted), counted("per_call", per_call), counted("calls", calls)
    if len(shots) != 2 or shots[0] < 1 or shots[1] < 0:
        raise MethodError(f'expand: "shots" is [seeds, made ones], not {shots}')
    seeds = [row for row in rows if row.alive]
    if not seeds:
        raise NotYet("expand needs at least one seed that is not dropped")
    pool = Pool(near)
    for row in seeds:
        pool.add(row.prompt, row.id)
    kept: Rows = []
    made: Rows = []
    call, read = 0, read_prompt(prompt)
    while len(kept) < wanted and call < calls:
        shown = [_shown(seeds, kept, shots, session, str(n)) for n in range(call, min(call + ROUND, calls))]
        requests = []
        for place, examples in enumerate(shown, call):
            listed = "\n".join(f"{n}. {row.prompt}" for n, row in enumerate(examples, 1))
            fields = {"count": str(len(examples)), "tasks": listed, "wanted": str(per_call)}
            note = {"component": "expand", "question": listed}
            requests.append(
                Request(read.fill(fields), 1, temperature, max_tokens=max_tokens, seed=place, note=note)
            )
        for examples, request, answer in zip(shown, requests, session.ask(requests), strict=True):
            fresh = _listed(Asked(examples[0], request, answer), examples, per_call)
            for row in fresh:
                if row.alive and len(kept) >= wanted:
                    row = row.drop("not wanted", "there are enough")
                if row.alive:
                    found = pool.closest(row.prompt)
                    if found is None:
                        pool.add(row.prompt, row.id)
                        kept.append(row)
                    else:
                        row = row.drop("near copy", f"ROUGE-L {found[1]:.2f} to {found[0]}")
                made.append(row)
        call += len(requests)
    return [*rows, *made]


def _shown(seeds: Rows, kept: Rows, shots: Sequence[int], session: Any, draw: str) -> Rows:
    """The examples of one request."""
    draws = draws_of(session, draw)
    later = draws.sample(kept, min(shots[1], len(kept)))
    first = draws.sample(seeds, min(sum(shots) - len(later), len(seeds)))
    shown = [*first, *later]
    draws.shuffle(shown)
    return shown


def _listed(asked: Asked, examples: Rows, most: int) -> Rows:
    """A row for each task of a list; where the list was cut its last task is dropped, as the others are whole."""
    first, others = asked.row, examples[1:]
    text, cut = asked.answer.texts[0], asked.answer.dropped()
    said = items(text)
    if cut not in (None, "truncated") or said is None:
        row = asked.child("expand", prompt="", others=others, completion=text, fields=_nothing(first))
        return [row.drop("unparseable", "no list of tasks")]
    made = []
    tasks = said.split("\n")
    for place, task in enumerate(tasks):
        more: dict[str, Any] = {
            "others": others,
            "prompt": task,
            "completion": "",
            "fields": {**_nothing(first), "place": place},
        }
        row = asked.child("expand", **more)
        if cut == "truncated" and place < len(tasks) - 1:
            row = row.marked(dropped=None)
        made.append(row if place < most else row.drop("not wanted", f"more than {most} in one list"))
    return made


def _nothing(row: Record) -> dict[str, None]:
    """No field of the example that a new task was written beside: it is about something else."""
    return dict.fromkeys(map(str, row.fields))


@component("elicitation", "evolve")
def evolve(
    rows: Sequence[Record],
    session: Any,
    *,
    operators: list[str] = ["constrain", "deepen", "concretise", "reason", "widen"],  # noqa: B006
    rounds: int = 1,
    judge: bool = True,
    words: int = 4,
    temperature: float = 0.7,
    max_tokens: int = 512,
) -> Rows:
    """Tasks made harder or rarer, `rounds` times, by an operator drawn for each; failed evolutions are eliminated.

    A task of a round is dropped where the teacher finds it equal to the one before (`judge`), where it has fewer than
    `words` words, is nothing but words like "the", or speaks of the prompt itself. The next round goes on from what was
    made, and where that was eliminated from the task before. All rounds stay, with the seeds.
    Source: WizardLM, arXiv 2304.12244 (operators and elimination).
    """
    for name in operators:
        if name not in OPERATORS and not name.endswith(".txt"):
            known = ", ".join(OPERATORS)
            raise MethodError(f'evolve: no operator "{name}"{nearest(name, OPERATORS)}; known: {known}')
    if not operators:
        raise MethodError("evolve needs an operator")
    counted("rounds", rounds)
    found, current = list(rows), [row for row in rows if row.alive]
    for number in range(1, rounds + 1):
        chosen = [draws_of(session, f"{number}/{row.id}").choice(operators) for row in current]
        fresh: dict[int, Record] = {}
        for name in dict.fromkeys(chosen):
            places = [place for place, one in enumerate(chosen) if one == name]
            asked = ask_about(
                [current[place] for place in places],
                session,
                "evolve",
                name if name.endswith(".txt") else f"evolve/{name}",
                lambda row: {"prompt": row.prompt},
                How(1, temperature, max_tokens, number),
            )
            for place, one in zip(places, asked, strict=True):
                task = _task(one.answer.texts[0])
                more: dict[str, Any] = {"prompt": task, "completion": "", "fields": {"operator": name}}
                fresh[place] = _eliminated(one.child("evolve", round=number, **more), one.row, words)
        if judge:
            fresh = _different(fresh, current, session, number)
        found += [fresh[place] for place in range(len(current))]
        current = [fresh[place] if fresh[place].alive else row for place, row in enumerate(current)]
    return found


def _task(text: str) -> str:
    """The task of an answer, without a heading before it."""
    return re.sub(
        r"^\W*(?:the )?(?:new |rewritten )?(?:task|prompt)\W*:\s*", "", text.strip(), flags=re.I
    ).strip()


def _eliminated(row: Record, before: Record, words: int) -> Record:
    said = same_words(row.prompt).split()
    if not row.alive:
        return row
    if said == same_words(before.prompt).split():
        return row.drop("eliminated", "unchanged")
    if FEW.fullmatch(" ".join(said)):
        return row.drop("eliminated", "says nothing")
    if len(said) < words:
        return row.drop("eliminated", f"fewer than {words} words")
    copied = COPIED.search(row.prompt)
    if copied and not COPIED.search(before.prompt):
        return row.drop("eliminated", f"speaks of the {copied[0].lower()}")
    return row


def _different(fresh: Mapping[int, Record], before: Rows, session: Any, number: int) -> dict[int, Record]:
    """Those that the teacher calls equal to what they were made of are dropped; if it does not say so they stay."""
    places = [place for place, row in fresh.items() if row.alive]
    parents = {fresh[place].id: before[place].prompt for place in places}

    def fields(row: Record) -> dict[str, str]:
        return {"before": parents[row.id], "after": row.prompt}

    asked = ask_about(
        [fresh[p] for p in places], session, "evolve", "evolve/equal", fields, How(1, 0.0, 8, number)
    )
    made = dict(fresh)
    for place, one in zip(places, asked, strict=True):
        row = one.row.marked(one.answer, one.request, component="evolve")
        equal = re.match(r"\W*equal\b", one.answer.texts[0], re.I)
        made[place] = row.drop("eliminated", "equal to the task before") if equal else row
    return made
