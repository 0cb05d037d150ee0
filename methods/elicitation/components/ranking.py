"""Feedback on several texts at once: a teacher puts them in order, or says which of two is better, in both orders."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from methods.elicitation.components.asking import Rows, counted, groups
from methods.elicitation.prompting import read_prompt
from methods.elicitation.records.record import Record
from methods.elicitation.writers.protocol import Answer, Request
from methods.errors import MethodError
from methods.registry import component

_NUMBER = re.compile(r"\d+")
_BETTER = re.compile(r"\bbetter\W*(a|b|tie|both|neither)\b", re.I)


@component("elicitation", "rank")
def rank(
    rows: Sequence[Record],
    session: Any,
    *,
    prompt: str = "rank",
    window: int = 20,
    step: int = 10,
    max_tokens: int = 256,
) -> Rows:
    """Puts the completions of each prompt in order: the best gets the highest score, and rank 1 in the field `rank`.

    They come in the order that a search found them in. The teacher orders a window of them at a time, from the end to
    the beginning in steps, so that what is good anywhere rises; the first `window - step` places are then as if all had
    been compared. Numbers that its answer leaves out keep their order behind the others; an answer that is no order
    leaves the window as it was. Rows stay where they are.
    Source: RankGPT, arXiv 2304.09542 (permutations, window 20, step 10).
    """
    counted("step", step)
    if window < 2 or step >= window:
        raise MethodError(
            f"rank: a window of two or more, and a smaller step, not {window} and {step}: else none rises beyond it"
        )
    if session is None:
        raise MethodError("rank asks a teacher, and there is none")
    read, found = read_prompt(prompt), list(rows)
    orders = {asked: list(places) for asked, places in groups(rows).items() if len(places) > 1}
    ends = {asked: len(places) for asked, places in orders.items()}
    while ends:
        requests = []
        for asked, end in ends.items():
            shown = orders[asked][max(0, end - window) : end]
            listed = "\n".join(f"[{n}] {rows[place].completion}" for n, place in enumerate(shown, 1))
            fields = {"prompt": asked, "passages": listed, "count": str(len(shown))}
            requests.append(_request(rows[shown[0]], "rank", read.fill(fields), max_tokens))
        for (asked, end), request, answer in zip(
            list(ends.items()), requests, session.ask(requests), strict=True
        ):
            begin = max(0, end - window)
            order = permutation(_said(answer), end - begin)
            shown = orders[asked][begin:end]
            orders[asked][begin:end] = [shown[n] for n in order]
            for place in shown:
                found[place] = found[place].marked(answer, request, component="rank")
            if begin == 0:
                del ends[asked]
            else:
                ends[asked] = end - step
    for places in orders.values():
        for number, place in enumerate(places):
            score = (len(places) - 1 - number) / (len(places) - 1)
            found[place] = found[place].marked(score=score, fields={"rank": number + 1})
    return found


def permutation(text: str, count: int) -> list[int]:
    """The order of `count` items, from 0, that a text such as "[2] > [1]" names; what it leaves out comes behind."""
    named = [int(number) - 1 for number in _NUMBER.findall(text)]
    order = list(dict.fromkeys(n for n in named if 0 <= n < count))
    return [*order, *(n for n in range(count) if n not in order)]


@component("elicitation", "compare")
def compare(
    rows: Sequence[Record],
    session: Any,
    *,
    prompt: str = "compare",
    swap: bool = True,
    temperature: float = 0.0,
    max_tokens: int = 256,
) -> Rows:
    """Which of two completions of a prompt is better, for every pair; the score is the share of pairs that a row wins.

    A tie is half a win. With `swap` each pair is shown in both orders, and one that comes out differently is a tie: a
    judge prefers a place. The field `disagreed` counts those pairs of a row. An answer that names none is a tie.
    Source: PandaLM, arXiv 2306.05087 (conflicting orders are ties); "Large Language Models are not Fair Evaluators",
    arXiv 2305.17926 (the place decides).
    """
    if session is None:
        raise MethodError("compare asks a teacher, and there is none")
    read, found = read_prompt(prompt), list(rows)
    pairs = [pair for places in groups(rows).values() for pair in combinations(places, 2)]
    shown = [order for one, other in pairs for order in ((one, other), (other, one))[: 1 + swap]]
    requests = []
    for first, second in shown:
        fields = {
            "prompt": rows[first].prompt,
            "first": rows[first].completion,
            "second": rows[second].completion,
        }
        requests.append(_request(rows[first], "compare", read.fill(fields), max_tokens, temperature))
    answers = iter(zip(requests, session.ask(requests) if requests else [], strict=True))
    wins, disagreed = defaultdict[int, list[float]](list), defaultdict[int, int](int)
    for one, other in pairs:
        told = []
        for turned in (False, True)[: 1 + swap]:
            request, answer = next(answers)
            share = preferred(_said(answer))
            told.append(1 - share if turned else share)
            for place in (one, other):
                found[place] = found[place].marked(answer, request, component="compare")
        agreed = len(set(told)) == 1
        worth = told[0] if agreed else 0.5
        wins[one].append(worth)
        wins[other].append(1 - worth)
        for place in (one, other):
            disagreed[place] += not agreed
    for place, worths in wins.items():
        found[place] = found[place].marked(
            score=sum(worths) / len(worths), fields={"disagreed": disagreed[place]}
        )
    return found


def preferred(text: str) -> float:
    """1 where a text ends with the first being better ("Better: A"), 0 for the second, 0.5 for a tie or nothing."""
    said = _BETTER.findall(text)
    return {"a": 1.0, "b": 0.0}.get(said[-1].lower(), 0.5) if said else 0.5


def _request(row: Record, name: str, messages: Any, max_tokens: int, temperature: float = 0.0) -> Request:
    note = {**row.fields, "question": row.prompt, "component": name}
    return Request(messages, 1, temperature, max_tokens=max_tokens, seed=0, note=note)


def _said(answer: Answer) -> str:
    """Its text; "" where it failed. One that was cut says what it says."""
    return answer.texts[0] if answer.dropped() in (None, "truncated") else ""
