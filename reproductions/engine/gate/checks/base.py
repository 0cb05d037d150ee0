"""What a check is: settings in a gate's YAML, the arms that it needs, and what it makes of what they measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from reproductions.engine.gate.record import Check
from reproductions.parts import PartError, Parts

if TYPE_CHECKING:
    from reproductions.engine.gate.measured import Measured

CHECKS = Parts("check", "reproductions.engine.gate.checks")
check = CHECKS.register

BASELINE, AGAIN = "baseline", "baseline-again"  # the second is the same arm with the second set of seeds
START = "baseline-start"  # the student that the baseline begins with
Contrast = tuple[str, str]  # two arms, the better one first


@dataclass(frozen=True)
class Source:
    """An arm as an experiment would have it, and where in the gate's YAML it comes from."""

    tree: Mapping[str, Any]
    path: tuple[str | int, ...] = ()


@dataclass(frozen=True)
class Declared:
    """What a check may look at before anything has run: the gate's baseline and teacher, and the testbed's data."""

    baseline: Mapping[str, Any]
    teacher: str | None
    testbed: Mapping[str, Any]


class GateCheck(Protocol):
    """Settings are the parameters of `__init__`; see Parts. Raises PartError whose path leads to what is wrong.

    `contrast`: the two arms that differ by construction, which no claim may weigh; None where there are no such.
    `in_full`: arms beside the baseline and the teacher of which all metrics are measured.
    """

    contrast: ClassVar[Contrast | None]
    in_full: ClassVar[tuple[str, ...]]

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The arms that it needs beside the baseline."""

    def decide(self, measured: Measured) -> Check:
        """Whether it passes, and why."""


class Plain:
    """A check that needs no arm of its own and no contrast; `in_full`: arms that it wants all metrics of."""

    contrast: ClassVar[Contrast | None] = None
    in_full: ClassVar[tuple[str, ...]] = ()

    def arms(self, declared: Declared) -> dict[str, Source]:
        """None."""
        return {}


def start_arm() -> dict[str, Source]:
    """The start, as it is."""
    return {START: Source({"trainer": "teacher-alone", "teacher": "student"})}


def gates_teacher(declared: Declared, what: str) -> dict[str, Source]:
    """The gate's teacher alone. Raises PartError where there is none that could be `what`."""
    if declared.teacher is None:
        raise PartError(f"the testbed has no teacher that could be {what}")
    return teacher_arm(declared.teacher, declared)


def teacher_arm(name: str, declared: Declared, *path: str | int) -> dict[str, Source]:
    """A teacher to be measured as it is, as the arm `teacher-<name>`. Raises PartError with the nearest one."""
    from catalog.reader import nearest

    known = declared.testbed.get("teachers", {})
    if name not in known:
        has = f"; it has {', '.join(known)}" if known else "; it has none"
        raise PartError(
            f'the testbed has no teacher "{name}"{nearest(str(name), known)}{has}', *map(str, path)
        )
    return {teacher_name(name): Source({"trainer": "teacher-alone", "teacher": name}, path)}


def teacher_name(teacher: str) -> str:
    """The arm of a teacher."""
    return f"teacher-{teacher}"


def number(value: Any, name: str, *, least: float = 0.0) -> float:
    """A setting that must be a number. Raises PartError."""
    if not isinstance(value, int | float) or isinstance(value, bool) or value < least:
        raise PartError(f'"{name}" is a number of {least:g} or more, not {value!r}', name)
    return float(value)
