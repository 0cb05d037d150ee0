"""Teachers good enough to learn from, and of several strengths, for claims about the capacity gap."""

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


def _names(teachers: Sequence[str], least: int, what: str) -> list[str]:
    names = list(teachers) if isinstance(teachers, list | tuple) else []
    if len(names) < least or len(set(names)) != len(names):
        raise PartError(f'"teachers" is a list of {what}', "teachers")
    return names


@check("teachers-reach")
class TeachersReach(Plain):
    """Each of the `teachers` reaches the `level` on the gate's metric, with the whole of its interval."""

    def __init__(self, teachers: Sequence[str], level: float) -> None:
        self.teachers = _names(teachers, 1, "teachers")
        self.level = number(level, "level")

    def arms(self, declared: Declared) -> dict[str, Source]:
        """Every one of them alone."""
        return _alone(self.teachers, declared)

    def decide(self, measured: Measured) -> Check:
        """Their own figures; one that is too low fails it."""
        parts, figures, passed = [], {}, True
        for name in self.teachers:
            found = measured.level_of(teacher_name(name))
            interval = found.interval(measured.level)
            parts.append(f"{name} {measured.shown(found.difference)} {measured.bounds(interval)}")
            figures[name] = measured.figures(found)
            passed = passed and interval is not None and interval[0] >= self.level
        said = f"{'; '.join(parts)}; needed: all of each {self.level:g} or more"
        return Check("teachers-reach", passed, said, figures)


def _alone(teachers: Sequence[str], declared: Declared) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for place, name in enumerate(teachers):
        found |= teacher_arm(name, declared, "teachers", place)
    return found


@check("ladder")
class Ladder(Plain):
    """Each of the `teachers`, from the weakest on, beats the one before: the whole interval lies above `points`."""

    def __init__(self, teachers: Sequence[str], points: float = 5.0) -> None:
        self.teachers = _names(teachers, 2, "two or more teachers, the weakest first")
        self.points = number(points, "points")

    def arms(self, declared: Declared) -> dict[str, Source]:
        """Every rung alone."""
        return _alone(self.teachers, declared)

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
