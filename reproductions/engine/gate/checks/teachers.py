"""Teachers of several strengths, for claims about the capacity gap."""

from __future__ import annotations

from collections.abc import Sequence

from reproductions.engine.gate.checks.base import (
    Declared,
    Plain,
    Source,
    check,
    number,
    teacher_arm,
    teacher_name,
)
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check
from reproductions.parts import PartError


@check("ladder")
class Ladder(Plain):
    """Each of the `teachers`, from the weakest on, beats the one before: the whole interval lies above `points`."""

    def __init__(self, teachers: Sequence[str], points: float = 5.0) -> None:
        names = list(teachers) if isinstance(teachers, list | tuple) else []
        if len(names) < 2 or len(set(names)) != len(names):
            raise PartError('"teachers" is a list of two or more teachers, the weakest first', "teachers")
        self.teachers, self.points = names, number(points, "points")

    def arms(self, declared: Declared) -> dict[str, Source]:
        """Every rung alone."""
        found: dict[str, Source] = {}
        for place, name in enumerate(self.teachers):
            found |= teacher_arm(name, declared, "teachers", place)
        return found

    def decide(self, measured: Measured) -> Check:
        """All steps of the ladder; one that is too small fails it."""
        levels = ", ".join(
            f"{name} {measured.shown(measured.level_of(teacher_name(name)).difference)}"
            for name in self.teachers
        )
        parts, figures, passed = [], {}, True
        for weaker, stronger in zip(self.teachers, self.teachers[1:], strict=False):
            good, said, found = measured.above(teacher_name(stronger), teacher_name(weaker), self.points)
            parts.append(f"{stronger} above {weaker}: {said}")
            figures[f"{stronger} - {weaker}"] = found
            passed = passed and good
        text = f"{levels}; {'; '.join(parts)}; needed: all of every step above {self.points:g}"
        return Check("ladder", passed, text, figures)
