"""Self-knowledge: a model's own texts, and what is found out about them without another teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from methods.elicitation.checks import answers, equations, programs
from methods.elicitation.components.asking import (
    How,
    Rows,
    ask_about,
    counted,
    dropped,
    gold_of,
    groups,
    in_place,
)
from methods.elicitation.filters.parsers import parser as parser_of
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import component, near
from methods.sandbox import Limits, Sandbox
from methods.sandbox.limits import MIB

CHECKS: dict[str, Callable[[str, str], bool | None]] = {
    "exact": answers.exact,
    "number": answers.number,
    "choice": answers.choice,
    "yes-no": answers.yes_no,
    "mentions": answers.mentions,
    "equations": equations.equations,
}
RUN = {"program": programs.outputs, "tests": programs.tests}
Judged = list[tuple[bool | None, str]]


@component("elicitation", "self-generate")
def self_generate(
    rows: Sequence[Record],
    session: Any,
    *,
    samples: int = 8,
    temperature: float = 0.7,
    max_tokens: int = 512,
    prompt: str = "answer",
    parser: str = "final",
) -> Rows:
    """The session's model, the student itself, answers each prompt `samples` times; the labels are read by `parser`.

    A text without a readable answer stays a row without a label: a check or a vote decides. What was cut is dropped.
    Source: LMSI, arXiv 2210.11610; STaR, arXiv 2203.14465; ReST-EM, arXiv 2312.06585.
    """
    counted("samples", samples)
    read = parser_of(parser)
    how = How(samples, temperature, max_tokens)
    asked = ask_about(rows, session, "self-generate", prompt, lambda row: {"prompt": row.prompt}, how)
    made = {
        number: [
            row.marked(label=read(row.completion)) if row.alive else row
            for row in one.children("self-generate", label=None, verified=None)
        ]
        for number, one in enumerate(asked)
    }
    return in_place(rows, made)


@component("elicitation", "verify")
def verify(
    rows: Sequence[Record],
    session: Any,
    *,
    check: str = "number",
    gold: str = "answer",
    drop: bool = True,
    run_programs: bool = False,
    seconds: float = 5.0,
    memory: int = 256,
) -> Rows:
    """Holds completions against the right answer (column `gold`) and says so in `verified`; reason: wrong answer.

    Checks: exact, number, choice, yes-no, mentions, equations (solved exactly), program (its last line), tests (`gold`
    is Python that raises). What cannot be read is unparseable. Without `drop` rows are only marked, wrong ones too.
    Programs run in the sandbox, only where `run_programs` is true, for `seconds` and with `memory` MiB at most; what
    went wrong there stands in the field `error`.
    Source: STaR, arXiv 2203.14465 (answers); PaD, arXiv 2305.13888 (programs); PERsD, arXiv 2310.18628 (tests).
    """
    if check not in CHECKS and check not in RUN:
        known = [*CHECKS, *RUN]
        raise MethodError(f'verify: no check "{check}"{near(check, known)}; known: {", ".join(known)}')
    living = [row for row in rows if row.alive]
    texts, golds = [row.completion for row in living], [gold_of(row, gold, "verify") for row in living]
    if check in RUN:
        limits = Limits(seconds=seconds, cpu_seconds=max(1, round(seconds)), memory=memory * MIB)
        judged: Judged = RUN[check](texts, golds, Sandbox(limits, allowed=run_programs))
    else:
        judged = [(CHECKS[check](text, right), "") for text, right in zip(texts, golds, strict=True)]
    found = iter(judged)
    return [_verified(row, *next(found), drop) if row.alive else row for row in rows]


def _verified(row: Record, right: bool | None, why: str, drop: bool) -> Record:
    marked = row.marked(verified=right, fields={"error": why} if why else {})
    if right or not drop:
        return marked
    return marked.drop("wrong answer" if right is False else "unparseable", why)


@component("elicitation", "majority")
def majority(rows: Sequence[Record], session: Any, *, share: float = 0.0, least: int = 1) -> Rows:
    """Keeps, of each prompt, the rows whose label most rows have; its share of the votes becomes their score.

    Rows without a label have no vote and are dropped as unparseable. A prompt whose majority has a share below `share`,
    fewer than `least` votes, or as many as another label is dropped whole: no majority. `share` 1 asks for unanimity.
    Source: LMSI, arXiv 2210.11610 (32 samples at 0.7, those that agree with the most).
    """
    if not 0 <= share <= 1:
        raise MethodError(f'majority: "share" is between 0 and 1, not {share}')
    made = [row.drop("unparseable", "no label") if row.alive and row.label is None else row for row in rows]
    for places in groups(made).values():
        votes = Counter(made[place].label for place in places)
        (winner, most), *rest = votes.most_common(2)
        part = most / len(places)
        tied = bool(rest) and rest[0][1] == most
        for place in places:
            row = made[place]
            if tied or part < share or most < least:
                made[place] = row.drop("no majority", f"{most} of {len(places)} votes")
            elif row.label != winner:
                made[place] = row.drop("minority", f"{most} of {len(places)} say {winner}"[:200])
            else:
                made[place] = row.marked(score=part)
    return made


@component("elicitation", "best-of")
def best_of(rows: Sequence[Record], session: Any, *, keep: int = 1, least: float | None = None) -> Rows:
    """Keeps the `keep` rows of each prompt with the highest score; of equals the earlier; reason: not best.

    A row without a score is dropped as not scored, one below `least` too.
    Source: ReST, arXiv 2308.08998 (samples by their reward, above a threshold).
    """
    counted("keep", keep)
    made = [row.drop("not scored") if row.alive and row.score is None else row for row in rows]
    out: dict[int, tuple[str, str]] = {}
    for places in groups(made).values():
        order = sorted(places, key=lambda place: -_worth(made[place]))
        for rank, place in enumerate(order):
            worth = _worth(made[place])
            if rank >= keep or (least is not None and worth < least):
                out[place] = ("not best", f"score {worth:.4g}, number {rank + 1} of {len(places)}")
    return dropped(made, out)


def _worth(row: Record) -> float:
    return 0.0 if row.score is None else row.score
