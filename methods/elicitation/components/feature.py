"""Feature: what a model knows of a text without writing one: how probable it finds it.

Distributions and hidden states are kept by `methods.teachers`; here a number a row is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from methods.elicitation.components.asking import How, Rows, request_for
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.errors import MethodError
from methods.registry import component

MEANS = ("mean", "sum", "least")


@component("elicitation", "likelihood")
def likelihood(rows: Sequence[Record], session: Any, *, prompt: str = "answer", over: str = "mean") -> Rows:
    """The score of each row: the log-probability of its completion to the session's model, in nats a token.

    `over` mean, sum, or least (that of the least probable token). Perplexity is exp of minus the mean. A session whose
    model cannot score is refused; a completion of no tokens is dropped as empty.
    Source: "Not All Correct Answers Are Equal", arXiv 2505.14464 (rows above a perplexity are dropped).
    """
    if over not in MEANS:
        raise MethodError(f'likelihood: "over" is {", ".join(MEANS)}, not "{over}"')
    if session is None:
        raise MethodError("likelihood asks a model, and there is none")
    read, living = read_prompt(prompt), [row for row in rows if row.alive]
    requests = [request_for(row, "likelihood", read, {"prompt": row.prompt}, How()) for row in living]
    scores = iter(session.score(requests, [row.completion for row in living]) if living else [])
    return [_scored(row, next(scores), over) if row.alive else row for row in rows]


def _scored(row: Record, values: Sequence[float], over: str) -> Record:
    if not values:
        return row.drop("empty", "no token to score")
    made = {"mean": sum(values) / len(values), "sum": sum(values), "least": min(values)}
    return row.marked(score=made[over])
