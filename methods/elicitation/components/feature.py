"""Feature: what a model knows of a text without writing one: how probable it finds it.

Distributions and hidden states are kept by `methods.teachers`; here a number a row is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from methods.elicitation.components.asking import How, Rows, request_for
from methods.elicitation.filters.marks import text_of
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import component

MEANS = ("mean", "sum", "least")


@component("elicitation", "likelihood")
def likelihood(
    rows: Sequence[Record],
    session: Any,
    *,
    prompt: str = "answer",
    over: str = "mean",
    column: str = "completion",
    behind: str = "prompt",
) -> Rows:
    """The score of each row: the log-probability of its completion to the session's model, in nats a token.

    `column` is what is scored, `behind` what it stands behind: of what `write` made, the text of a class in the column
    prompt, behind the field `asked`.
    `over` mean, sum, or least (that of the least probable token). Perplexity is exp of minus the mean. A session whose
    model cannot score is refused; a completion of no tokens is dropped as empty.
    Source: "Not All Correct Answers Are Equal", arXiv 2505.14464 (rows above a perplexity are dropped); SuperGen, arXiv
    2202.04538 (texts of the highest mean log-probability are kept).
    """
    if over not in MEANS:
        raise MethodError(f'likelihood: "over" is {", ".join(MEANS)}, not "{over}"')
    if session is None:
        raise MethodError("likelihood asks a model, and there is none")
    read, living = read_prompt(prompt), [row for row in rows if row.alive]
    fields = [{"prompt": text_of(row, behind)} for row in living]
    requests = [
        request_for(row, "likelihood", read, own, How()) for row, own in zip(living, fields, strict=True)
    ]
    scores = iter(session.score(requests, [text_of(row, column) for row in living]) if living else [])
    return [_scored(row, next(scores), over) if row.alive else row for row in rows]


def _scored(row: Record, values: Sequence[float], over: str) -> Record:
    if not values:
        return row.drop("empty", "no token to score")
    made = {"mean": sum(values) / len(values), "sum": sum(values), "least": min(values)}
    return row.marked(score=made[over])
