"""Dials: what a file may declare, and the plan at one of their values."""

from __future__ import annotations

import pytest

from catalog.errors import CatalogError
from reproductions.engine.plan.dials import Point, own_value, plan_at, points

SCALE = "tiny: {testbed: line, seeds: 3,"


def turned(toy, dials, seeds="seeds: {looks: [5, 10]}"):
    toy.change(SCALE, f"tiny: {{testbed: line, {seeds}, dials: {dials},")
    return toy.plan()


def test_a_plan_at_a_value_has_the_first_looks_seeds_and_other_keys(toy):
    plan = turned(toy, "{points: [60, 240]}")
    found = {point.value: plan_at(plan, point) for point in points(plan.scale)}
    assert list(found) == [60, 240]
    for value, one in found.items():
        assert one.testbed["task"] == {"name": "toy-line", "points": value} and one.seeds == (0, 1, 2, 3, 4)
        assert one.scale.looks == (5,) and one.arms == plan.arms
        assert not set(one.keys.values()) & set(plan.keys.values())
        for arm, spec in one.specs.items():
            task = {**plan.specs[arm]["testbed"]["task"], "points": value}
            assert spec == {**plan.specs[arm], "testbed": {**plan.specs[arm]["testbed"], "task": task}}


def test_what_the_testbed_says_of_a_dial_is_its_own_value(toy):
    plan = turned(toy, "{points: [60]}")
    assert own_value(plan, "points") == 120, "the task's default"
    toy.change("{name: toy-line}", "{name: toy-line, points: 60}", "testbeds/line.yaml")
    assert own_value(toy.plan(), "points") == 60
    with pytest.raises(CatalogError, match=r"toy.yaml:\d+: points = 60 is the testbed's own"):
        plan_at(toy.plan(), Point("points", 60))


def test_a_dial_that_the_task_lacks_is_named_with_the_nearest(toy):
    plan = turned(toy, "{point: [60]}")
    with pytest.raises(CatalogError, match=r'toy.yaml:\d+: .*no setting "point" \(did you mean "points"'):
        plan_at(plan, next(points(plan.scale)))


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ("[points]", "a mapping"),
        ("{points: 60}", "a dial is a list"),
        ("{points: []}", "a dial is a list"),
        ("{points: [60, 60]}", "all different"),
    ],
)
def test_dials_that_are_none(toy, dials, message):
    with pytest.raises(CatalogError, match=rf"toy.yaml:\d+: .*{message}"):
        turned(toy, dials)
