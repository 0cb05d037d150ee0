"""Is there something to learn? The teacher is clearly better, the baseline neither at the floor nor at the ceiling.

And does the baseline learn it: one that loses what its start had would let every other method look good.
"""

from __future__ import annotations

from reproductions.engine.gate.checks.base import (
    BASELINE,
    START,
    Declared,
    Plain,
    Source,
    check,
    gates_teacher,
    number,
    start_arm,
    teacher_name,
)
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check
from reproductions.parts import PartError


@check("teacher-better")
class TeacherBetter(Plain):
    """The gate's teacher beats the baseline: the whole interval of the difference lies above `points`."""

    def __init__(self, points: float = 5.0) -> None:
        self.points = number(points, "points")

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The teacher alone."""
        return gates_teacher(declared, "better than the baseline")

    def decide(self, measured: Measured) -> Check:
        """The difference on the gate's metric."""
        teacher = teacher_name(str(measured.teacher))
        passed, said, figures = measured.above(teacher, BASELINE, self.points)
        levels = [measured.shown(measured.level_of(arm).difference) for arm in (teacher, BASELINE)]
        text = f"teacher {levels[0]}, baseline {levels[1]}: {said}; needed: all of it above {self.points:g}"
        return Check("teacher-better", passed, text, figures)


@check("baseline-learns")
class BaselineLearns(Plain):
    """The baseline beats the student that it starts from: the whole interval of the difference lies above `points`."""

    def __init__(self, points: float = 0.0) -> None:
        self.points = number(points, "points")

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The start, as it is."""
        return start_arm()

    def decide(self, measured: Measured) -> Check:
        """The difference on the gate's metric, seed by seed."""
        passed, said, figures = measured.above(BASELINE, START, self.points)
        levels = [measured.shown(measured.level_of(arm).difference) for arm in (BASELINE, START)]
        text = f"baseline {levels[0]}, its start {levels[1]}: {said}; needed: all of it above {self.points:g}"
        return Check("baseline-learns", passed, text, figures)


@check("baseline-between")
class BaselineBetween(Plain):
    """The baseline's figure, with the whole of its interval, lies between `low` and `high`."""

    def __init__(self, low: float = 30.0, high: float = 85.0) -> None:
        self.low, self.high = number(low, "low"), number(high, "high")
        if self.low >= self.high:
            raise PartError(f'"low" must be less than "high", {self.high:g}', "low")

    def decide(self, measured: Measured) -> Check:
        """The baseline's mean over all its seeds, as it is: no sign is turned."""
        found = measured.level_of(BASELINE)
        interval = found.interval(measured.level)
        passed = interval is not None and self.low < interval[0] and interval[1] < self.high
        said = (
            f"baseline {measured.shown(found.difference)} {measured.bounds(interval)}; "
            f"needed: all of it between {self.low:g} and {self.high:g}"
        )
        return Check("baseline-between", passed, said, measured.figures(found))
