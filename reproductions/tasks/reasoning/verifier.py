"""What a solution says, and whether its steps are right: read word by word, nothing is evaluated as code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from methods.elicitation.checks.equations import solved
from reproductions.tasks.reasoning.language import AGAIN, ANSWER, CLOSE, PEOPLE, PRINT, SO, SOUGHT
from reproductions.tasks.reasoning.world import JOIN, NAMES, PRODUCTS, SUMS, Line, Problem, applied

FAULTS = {
    "unreadable": "no steps that can be read",
    "no such line": "a step that the problem does not tell",
    "wrong amount": "a step from an amount that nobody has at that point",
    "wrong result": "a step whose result is wrong",
    "no answer": "no answer behind the steps",
    "not reached": "an answer that the steps do not lead to",
}


def answer_of(text: str) -> int | None:
    """The answer that a text gives: behind the last "Answer:", printed by its program, or by its equations."""
    words = text.split()
    if ANSWER in words:
        place = len(words) - words[::-1].index(ANSWER)
        return _whole(words[place]) if place == len(words) - 1 else None
    if PRINT in words:
        return printed(text)
    if any(pair == (SOUGHT, "=") for pair in pairwise(words)):
        found = solved(" ; ".join(part.strip() for part in text.replace("\n", " ").split(";")))
        return int(found) if found is not None and found.denominator == 1 else None
    return None


def printed(text: str) -> int | None:
    """What a program of assignments prints, None where it is none or prints nothing; it cannot loop or fail."""
    known: dict[str, int] = {}
    *said, last = [part.split() for part in text.split(";")]
    for words in said:
        if len(words) < 3 or words[0] not in NAMES or words[1] != "=":
            return None
        value = _term(words[2:], known)
        if value is None:
            return None
        known[words[0]] = value
    return known.get(last[1]) if len(last) == 3 and (last[0], last[2]) == (PRINT, CLOSE) else None


def _term(words: Sequence[str], known: dict[str, int]) -> int | None:
    value = _whole(words[0]) if _whole(words[0]) is not None else known.get(words[0])
    rest = list(words[1:])
    while rest and value is not None:
        word = rest.pop(0)
        if word == JOIN:
            more = known.get(rest.pop(0)) if rest else None
            value = None if more is None else value + more
        else:
            value = applied(word, [value]) if word in (*SUMS, *PRODUCTS) else None
    return value


def fault_of(problem: Problem, text: str) -> str | None:
    """The first fault of a solution in steps, a key of FAULTS; None where each is right and they lead to the answer.

    Steps backward must be lines of the problem, steps forward must follow from those before; nothing needs to be said
    twice, and what is said again must have been said.
    """
    words = text.split()
    if words.count(ANSWER) != 1 or words.index(ANSWER) != len(words) - 2:
        return "no answer"
    body, value = words[: words.index(ANSWER)], _whole(words[-1])
    if body.count(SO) != 1:
        return "unreadable"
    place = body.index(SO)
    back, forth = _cut(body[:place], PEOPLE), _cut(body[place + 1 :], NAMES)
    if back is None or forth is None or not forth:
        return "unreadable"
    return _backward(problem, back) or _forward(problem, forth, value)


def _cut(words: Sequence[str], heads: Sequence[str] | dict[str, str]) -> list[list[str]] | None:
    """Sentences, each from a head on; one that is said again is dropped where it is the same, else None."""
    found, again = list[list[str]](), list[list[str]]()
    repeated = False
    for word in words:
        if word == AGAIN:
            repeated = True
        elif word in heads:
            (again if repeated else found).append([word])
            last = (again if repeated else found)[-1]
            if repeated:
                last.insert(0, str(len(found) - 1))
            repeated = False
        elif not found or repeated:
            return None
        else:
            last.append(word)
    if repeated or any(found[int(one[0])] != one[1:] for one in again):
        return None
    return found


def _backward(problem: Problem, sentences: Sequence[list[str]]) -> str | None:
    lines = list(problem.lines)
    for subject, *rest in sentences:
        here = [line for line in lines if line.subject == PEOPLE[subject] and _says(line, rest)]
        if not here:
            return "no such line"
        lines.remove(here[-1])
    return None


def _says(line: Line, rest: Sequence[str]) -> bool:
    own = [line.operation] if line.start or line.event else [*line.of, line.operation]
    return own == list(rest)


def _forward(problem: Problem, sentences: Sequence[list[str]], value: int | None) -> str | None:
    known: dict[str, int] = {}
    left: dict[str, list[Line]] = {name: [] for name in NAMES}
    for line in problem.lines:
        left[line.subject].append(line)
    for name, *rest in sentences:
        if not left[name]:
            return "no such line"
        line = left[name].pop(0)
        if len(rest) != (1 if line.start else 2 + len(line.of) if len(line.of) == 1 else 4):
            return "no such line"
        said = [_whole(word) for word in rest]
        if line.start:
            if said[0] != int(line.operation):
                return "wrong amount"
            known[name] = int(line.operation)
            continue
        if rest[1] != line.operation:
            return "no such line"
        values = [said[0], *([said[2]] if len(line.of) == 2 else [])]
        if any(other not in known or known[other] != one for other, one in zip(line.of, values, strict=True)):
            return "wrong amount"
        result = applied(line.operation, [known[other] for other in line.of])
        if said[-1] != result:
            return "wrong result"
        known[name] = result
    reached = problem.asked in known and not left[problem.asked]
    return None if reached and value == known[problem.asked] else "not reached"


def _whole(word: str) -> int | None:
    return int(word) if word.isascii() and word.isdigit() else None
