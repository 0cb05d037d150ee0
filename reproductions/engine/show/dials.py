"""What was recorded at the values of a scale's dials: every claim's figures there, and the files they come from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproductions.engine.plan.dials import Point, own_value, plan_at, points
from reproductions.engine.plan.plan import Plan
from reproductions.engine.show.digits import pair, short
from reproductions.engine.show.view import DialRow
from reproductions.engine.store.results import Results, results_of
from reproductions.engine.verdicts.claims import ClaimSet
from reproductions.engine.verdicts.decide import Decision, decide


@dataclass(frozen=True)
class Turned:
    """A value of a dial at which all arms of a plan are recorded."""

    point: Point
    plan: Plan
    results: Results


def recorded(plan: Plan, root: Path) -> list[Turned]:
    """The values of a plan's dials whose first look is recorded whole under a root of results."""
    if plan.unswept:
        return []
    found = []
    for point in points(plan.scale):
        turned = plan_at(plan, point)
        results = results_at(turned, root)
        if not results.missing:
            found.append(Turned(point, turned, results))
    return found


def results_at(turned: Plan, root: Path) -> Results:
    """What is recorded of a plan at a value of a dial."""
    folder = root / turned.scale.testbed
    asked = {"looks": turned.scale.looks, "measures": turned.measures, "how": turned.how}
    return results_of(turned.keys, turned.scale.seeds, folder, **asked)


def rows(plan: Plan, claims: ClaimSet, judged: Results | None, turned: list[Turned]) -> Iterator[DialRow]:
    """By dial and claim a row a value, those of the testbed itself among them at their place.

    The testbed's own value has the first look's seeds too: unlike its verdict, which may have more.
    """
    own = {point.dial: own_value(plan, point.dial) for point in points(plan.scale)}
    for dial, here in own.items():
        values = {one.point.value: one.results for one in turned if one.point.dial == dial}
        if not values or judged is None:
            continue
        by_value = {value: _decided(plan, claims, results) for value, results in values.items()}
        by_value[here] = _decided(plan, claims, judged)
        for claim in claims.at(plan.scale.name):
            for value in _in_order(by_value):
                found = by_value[value].get(claim.id)
                if found is not None:
                    yield DialRow(
                        dial,
                        str(value),
                        claim.id,
                        short(found.better_mean),
                        short(found.worse_mean),
                        short(found.difference),
                        pair(found.interval),
                        found.seeds,
                        value == here,
                    )


def _decided(plan: Plan, claims: ClaimSet, results: Results) -> Mapping[str, Decision]:
    """Each claim's figures at the first look."""
    first = plan.scale.looks[0]
    seen = Results(results.arms, results.seeds[:first], (), (first,))
    found = decide(claims, plan.scale.name, seen)
    return {one.claim: one for one in found if one.difference is not None}


def _in_order(values: Mapping[Any, Any]) -> list[Any]:
    """Numbers by size, other values as they come."""
    numbers = all(isinstance(value, int | float) for value in values)
    return sorted(values) if numbers else list(values)
