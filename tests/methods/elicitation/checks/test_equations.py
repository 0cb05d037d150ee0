"""Equations: against solutions made up beforehand and a solver in floating point."""

import random
from fractions import Fraction

import numpy as np
import pytest

from methods.elicitation.checks import equations
from methods.elicitation.checks.equations import solved


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("answer = 2 + 2", 4),
        ("apples = 12\npears = apples / 4\nanswer = apples + 2 * pears", 18),
        ("x + y = 10; x - y = 4; answer = x", 7),
        ("Let us see.\n2x + 3 = 11", 4),
        ("2(x + 1) = 10", 4),
        ("cost = 1,250\nanswer = cost * 2", 2500),
        ("x = 1/3\ny = x + 0.5", Fraction(5, 6)),
        ("a = 3, b = a + 1", 4),
        ("price = $4\nanswer = 3 × price", 12),
        ("answer = -(3 - 5)", 2),
        ("x = 5\nx = 5", 5),
        ("x + y = 3", None),  # many solutions
        ("x = 1\nx = 2", None),  # none
        ("x * x = 4", None),
        ("x = 4 / 0", None),
        ("x = y ** 2\ny = 2", None),
        ("x = __import__('os').getcwd()", None),
        ("x = 99999999999999999999", None),
        ("x == 3", None),
        ("nothing", None),
        ("", None),
        ("y = 3\nanswer = x + 1", None),
        ("(" * 150 + "x = 1", None),
    ],
)
def test_by_hand(text, value):
    assert solved(text) == value


def test_systems_of_known_solution():
    draw = random.Random(0)
    for size in (1, 2, 3, 4):
        for _ in range(20):
            names = draw.sample("abcdefgh", size)
            values = {name: Fraction(draw.randint(-9, 9)) for name in names}
            matrix = [[draw.randint(-4, 4) for _ in names] for _ in range(size)]
            lines = []
            for row in matrix:
                right = sum(n * values[name] for n, name in zip(row, names, strict=True))
                lines.append(
                    " + ".join(f"{n}*{name}" for n, name in zip(row, names, strict=True)) + f" = {right}"
                )
            lines.append(f"answer = {names[0]}")
            draw.shuffle(lines)
            found = solved("\n".join(lines))
            if abs(np.linalg.det(np.array(matrix, dtype=float))) > 1e-9:
                assert found == values[names[0]]
            else:
                assert found in (None, values[names[0]])


def test_a_sign_that_is_wrong_would_be_seen(monkeypatch):
    right = equations._plus
    monkeypatch.setattr(equations, "_plus", lambda one, other, times: right(one, other, abs(times)))
    assert solved("x + y = 10; x - y = 4; answer = x") != 7
