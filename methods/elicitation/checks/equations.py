"""Systems of linear equations, solved exactly: what a text of equations says that the answer is."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from methods.elicitation.filters import parsers

LINES, LENGTH, DIGITS = 60, 200, 12  # more of a text is not read: nobody's equations are so long
Line = Mapping[str, Fraction]  # what each unknown is multiplied by; "" is the constant
ANSWER = ("answer", "ans", "result")


class NotLinear(ValueError):
    """An equation that this cannot solve."""


class NoEquation(NotLinear):
    """Words, or anything else that only has a sign in it."""


def equations(text: str, gold: str) -> bool | None:
    """The equations of a text have one solution and its answer is the right one; None where they have none or many.

    What EoTD (arXiv 2401.11864) keeps: equations whose solution is right.
    """
    said, right = solved(text), parsers.number(gold)
    return None if said is None or right is None else str(said) == right


def solved(text: str) -> Fraction | None:
    """The value of `answer` (or ans, result), or else of what the last equation is about, where the system fixes it.

    An equation stands on a line of its own, or between commas and semicolons; words are passed over. Numbers
    with + - * / and brackets, unknowns with +, - and numbers before them or behind a stroke.
    """
    read: list[Line] = []
    wanted = ""
    for part in re.split(r"[\n;]|,(?!\d{3})", text)[:LINES]:
        sides = part.strip().strip("`$. ").split("=")
        if len(sides) != 2 or len(part) > LENGTH:
            continue
        try:
            left, right = (_line(side) for side in sides)
        except NoEquation:
            continue
        except NotLinear:
            return None
        read.append(_plus(left, right, Fraction(-1)))
        alone = [name for name in left if name] or [name for name in right if name]
        wanted = alone[0] if alone else wanted
    names = {name for line in read for name in line if name}
    wanted = next((name for name in ANSWER if name in names), wanted)
    return _value(read, wanted) if wanted else None


def _line(side: str) -> Line:
    side = re.sub(r"(?<=\d)\s*(?=[A-Za-z_(])|(?<=\))\s*(?=[A-Za-z_(])", "*", side.strip())
    side = re.sub(r"(?<=\d),(?=\d{3}\b)", "", side.replace("×", "*").replace("÷", "/").replace("$", ""))  # noqa: RUF001
    if re.search(rf"\d{{{DIGITS + 1},}}", side):
        raise NotLinear
    try:
        tree = ast.parse(side, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise NoEquation from None
    return _read(tree)


def _read(node: ast.expr) -> Line:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return {"": Fraction(str(node.value))}
    if isinstance(node, ast.Name):
        return {node.id.lower(): Fraction(1)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        return _plus({}, _read(node.operand), Fraction(-1 if isinstance(node.op, ast.USub) else 1))
    if not isinstance(node, ast.BinOp):
        raise NotLinear
    left, right = _read(node.left), _read(node.right)
    if isinstance(node.op, ast.Add | ast.Sub):
        return _plus(left, right, Fraction(1 if isinstance(node.op, ast.Add) else -1))
    if isinstance(node.op, ast.Mult):
        if not set(left) <= {""}:
            left, right = right, left
        if set(left) <= {""}:
            return _plus({}, right, left.get("", Fraction(0)))
    if isinstance(node.op, ast.Div) and set(right) == {""} and right[""]:
        return _plus({}, left, 1 / right[""])
    raise NotLinear


def _plus(one: Line, other: Line, times: Fraction) -> Line:
    made = {
        name: one.get(name, Fraction(0)) + times * other.get(name, Fraction(0)) for name in {**one, **other}
    }
    return {name: value for name, value in made.items() if value}


def _value(read: Sequence[Line], wanted: str) -> Fraction | None:
    """Gauss and Jordan: the unknown's value where the equations leave it one and contradict each other nowhere."""
    left, solved_for = list(read), dict[str, Line]()
    while left:
        line = left.pop()
        for name, known in solved_for.items():
            if name in line:
                line = _plus(line, known, -line[name])
        free = sorted(name for name in line if name)
        if not free:
            if line:
                return None  # 0 = 1
            continue
        line = _plus({}, line, 1 / line[free[0]])
        for name, known in solved_for.items():
            if free[0] in known:
                solved_for[name] = _plus(known, line, -known[free[0]])
        solved_for[free[0]] = line
    line = solved_for.get(wanted, {})
    return -line.get("", Fraction(0)) if set(line) <= {wanted, ""} and wanted in line else None
