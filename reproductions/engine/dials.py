"""The arms of a plan at every value of its scale's dials: made, recorded, and shown beside what is judged."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from reproductions.engine.errors import KDError
from reproductions.engine.plan.dials import Point, plan_at, points
from reproductions.engine.plan.plan import Plan
from reproductions.engine.reproduce import BAD, DONE, INTERRUPTED, arms_made
from reproductions.engine.show import files, gather
from reproductions.engine.show.view import DialRow
from reproductions.engine.store.pair import add_all
from reproductions.engine.work.sessions.executors.base import Executor
from reproductions.engine.work.sessions.progress import Reporter, default_reporter
from reproductions.engine.work.sessions.session import Made, Workshop


def turn(
    plan: Plan,
    *,
    workers: int | None = None,
    record: bool = False,
    fresh: bool = False,
    reporter: Reporter | None = None,
    quiet: bool = False,
    results_root: Path | None = None,
    executor: Executor | None = None,
) -> int:
    """Makes what is missing of the first look at every value of the dials; 0, 2 where a run failed, 130 interrupted.

    `record` adds the runs to the results of the checkout, value by value as they are whole. Nothing is judged. Raises
    KDError for a scale without dials, and whatever `plan_at` raises.
    """
    turned = [(point, plan_at(plan, point)) for point in points(plan.scale)]
    if not turned:
        raise KDError(f"{plan.paper} has no dials at scale {plan.scale.name}")
    if record and plan.arms != plan.scale.arms:
        raise KDError("--record is for all arms of a scale: leave out --arms")
    root = results_root or gather.RESULTS
    shown = reporter or default_reporter(as_json=quiet)
    kept = root if record and not fresh else None
    for point, one in turned:
        print(f"{plan.paper} at scale {plan.scale.name}, {point}", file=sys.stderr, flush=True)
        with Workshop([one], workers, shown, recorded=kept, executor=executor) as shop:
            if fresh:
                shop.forget()
            made = shop.make(one)
        if made.interrupted:
            return INTERRUPTED
        if made.failures or len(made.runs) < len(one.runs):
            _say_failed(point, made)
            return BAD
        if record:
            _record(one, made, root)
    if record and root == gather.RESULTS:
        files.write(gather.gather(plan.paper))
    return DONE


def told(rows: Sequence[DialRow]) -> list[str]:
    """The rows of a scale as lines, a claim and a dial at a time."""
    lines, before = [], ("", "")
    for row in rows:
        if (row.dial, row.claim) != before:
            lines.append(f"{row.claim}, by {row.dial}")
            before = row.dial, row.claim
        low, high = row.interval if row.interval is not None else (float("nan"),) * 2
        own = "  (judged here)" if row.own else ""
        lines.append(f"  {row.value:>8}  {row.difference or 0:+8.4g}  [{low:.4g}, {high:.4g}]{own}")
    return lines


def _record(plan: Plan, made: Made, root: Path) -> None:
    """Adds the runs of one value."""
    claims = gather.claims_of(plan.experiment)
    add_all(root / plan.scale.testbed, (results for _, results in arms_made(plan, made, claims)))


def _say_failed(point: Point, made: Made) -> None:
    where = ", ".join(failure.file or failure.message for failure in made.failures)
    print(f"{point}: {len(made.failures)} runs failed; tracebacks: {where}", file=sys.stderr, flush=True)
