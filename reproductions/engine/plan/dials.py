"""Dials of a scale: other values of a setting of the task at which the same arms are run, and judged nowhere.

    scales:
      tiny: {testbed: navigate, ..., dials: {demonstrations: [100, 400, 800]}}

A testbed is one setting of its task, the one that passed its gate. Whether a claim holds there only is what a dial
tells: the arms with the seeds of the first look at each value, at the rates that were swept at the testbed's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.plan.experiment import Scale
from reproductions.engine.plan.plan import Plan
from reproductions.engine.plan.spec import key_of, spec_of
from reproductions.parts import PartError
from reproductions.tasks.base import TASKS
from reproductions.testbeds import changed


@dataclass(frozen=True)
class Point:
    """A value of a dial."""

    dial: str
    value: Any

    def __str__(self) -> str:
        return f"{self.dial} = {self.value}"


def points(scale: Scale) -> Iterator[Point]:
    """Every value of every dial of a scale, in order."""
    for dial, values in scale.settings.get("dials", {}).items():
        for value in values:
            yield Point(dial, value)


def own_value(plan: Plan, dial: str) -> Any:
    """The value at which the claims are judged. Raises CatalogError for what is no setting of the task."""
    task = plan.testbed["task"]
    name, given = task["name"], {key: value for key, value in task.items() if key != "name"}
    try:
        TASKS.settings(name, {dial: None, **given})
    except PartError as error:
        raise plan.experiment.error(str(error), "scales", plan.scale.name, "dials", dial) from None
    return given.get(dial, TASKS.default(name, dial))


def plan_at(plan: Plan, point: Point) -> Plan:
    """The plan's arms at a value of a dial, with the seeds of the first look.

    Raises KDError where the rates are still to be swept, CatalogError for a dial that the task does not have and for
    its own value.
    """
    if plan.unswept:
        raise KDError(plan.unswept)
    if own_value(plan, point.dial) == point.value:
        what = f"{point} is the testbed's own: there the claims are judged"
        raise plan.experiment.error(what, "scales", plan.scale.name, "dials", point.dial)
    bed = changed(plan.testbed, {"task": {point.dial: point.value}})
    specs = {
        arm: spec_of(
            plan.experiment,
            plan.scale.name,
            arm,
            bed,
            learning_rate=plan.specs[arm]["training"].get("learning_rate"),
        )
        for arm in plan.arms
    }
    first = plan.scale.looks[0]
    return replace(
        plan,
        scale=replace(plan.scale, seeds=plan.scale.seeds[:first], looks=(first,)),
        seeds=plan.scale.seeds[:first],
        more={},
        testbed=bed,
        specs=specs,
        keys={arm: key_of(spec) for arm, spec in specs.items()},
    )
