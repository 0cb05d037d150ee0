"""What a text says, out of a text: each parser gives a string, or None where it finds none, and never guesses."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

from methods.errors import MethodError
from methods.registry import near

_NUMBER = r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|-?\.\d+"
_FINAL = re.compile(r"(?:####|\bfinal answer(?: is)?:?|\banswer(?: is)?:|\banswer is)\s*", re.I)
_FENCE = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:\n[ \t]*```|\Z)", re.S)
_FENCED_JSON = re.compile(r"```(?:json)?\s*(\{.*\})\s*```", re.S)
_ITEM = re.compile(r"^[ \t]*(?:\(?\d{1,3}[.):]|[-*•])[ \t]+(.+?)[ \t]*$", re.M)


def whole(text: str) -> str | None:
    """The text itself, without blanks around it."""
    return text.strip() or None


def final(text: str) -> str | None:
    """What stands behind the last `####`, "answer:" or "answer is", to the end of the line, without a last full stop.

    What a box holds, as in \\boxed{7}, counts where nothing else says that it is the answer.
    """
    found = list(_FINAL.finditer(text))
    if not found:
        return boxed(text)
    said = text[found[-1].end() :].split("\n", 1)[0].strip()
    said = boxed(said) or said
    return said.strip("*$ ").removesuffix(".").strip() or None


def reasons(text: str) -> str | None:
    """What stands before the last `####`, "answer:" or "answer is": a rationale without its answer.

    None where no answer is marked so, and where nothing stands before it.
    """
    found = list(_FINAL.finditer(text))
    return (text[: found[-1].start()].strip() or None) if found else None


def boxed(text: str) -> str | None:
    """The inside of the last \\boxed{...}, braces within it counted."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place].strip() or None
    return None


def number(text: str) -> str | None:
    """The number of the final answer in one spelling, or the last number where no answer is marked.

    1,000 and 1000.0 are 1000; 1/2 and .5 are 1/2.
    """
    said = final(text)
    found = re.findall(_NUMBER, said if said is not None else text)
    if not found:
        return None
    return spelling(found[0] if said is not None else found[-1])


def spelling(text: str) -> str | None:
    """A number in one spelling, exact: a whole number or a fraction."""
    try:
        value = Fraction(text.replace(",", "").replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        return None
    return str(value)


def choice(text: str) -> str | None:
    """The letter of a choice: (B), "B." or "B" as the final answer, or alone; capital."""
    said = final(text) or text.strip()
    found = re.match(r"\W*(?:option\s+)?\(?([A-Ja-j])\)?(?![A-Za-z'])", said)
    return found[1].upper() if found else None


def yes_no(text: str) -> str | None:
    """`yes` or `no`: what the final answer, or else the text, begins with."""
    found = re.match(r"\W*(yes|no|true|false)\b", final(text) or text.strip(), re.I)
    return {"yes": "yes", "true": "yes", "no": "no", "false": "no"}[found[1].lower()] if found else None


def program(text: str) -> str | None:
    """The last block between fences, or the text itself where it has no fence and reads as Python."""
    found = _FENCE.findall(text)
    said = found[-1] if found else text
    try:
        ast.parse(said)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return said.strip("\n") or None


def items(text: str) -> str | None:
    """The items of a numbered or dotted list, a line each; an item's own later lines are no part of it."""
    return "\n".join(found.strip() for found in _ITEM.findall(text)) or None


def verdict(text: str) -> str | None:
    """A whole number of 1 to 10 behind "score:", "rating:" or "[[": a judge's."""
    found = re.findall(r"(?:\bscore|\brating)\W{0,4}?\s*(10|[1-9])\b(?!\.\d)|\[\[(10|[1-9])\]\]", text, re.I)
    return next((one or other for one, other in reversed(found)), None)


PARSERS: Mapping[str, Callable[[str], str | None]] = {
    "text": whole,
    "final": final,
    "reasons": reasons,
    "boxed": boxed,
    "number": number,
    "choice": choice,
    "yes-no": yes_no,
    "program": program,
    "items": items,
    "verdict": verdict,
}


def parser(name: str) -> Callable[[str], str | None]:
    """The parser of that name, or `field:NAME`: a field of an answer in JSON. Raises MethodError with the nearest."""
    if name.startswith("field:"):
        return lambda text: field(text, name.removeprefix("field:"))
    if name not in PARSERS:
        known = [*PARSERS, "field:NAME"]
        raise MethodError(f'no parser "{name}"{near(name, known)}; known: {", ".join(known)}')
    return PARSERS[name]


def field(text: str, name: str) -> str | None:
    """A field of a JSON object; texts as they are, all else as JSON writes it."""
    found = _FENCED_JSON.search(text)
    try:
        said = json.loads(found[1] if found else text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get(name) is None:
        return None
    value = said[name]
    return (value.strip() or None) if isinstance(value, str) else json.dumps(value, sort_keys=True)
