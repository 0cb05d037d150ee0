"""An arm's recorded results, read, written and added to. Append-only by file: what is written once is never changed.

An arm's first runs are a pair of files, what was added to them later other pairs (`layout.py`: where; `form.py`: how
figures stand in them; `addition.py`: what an addition holds). `read_arm` joins them into what the arm has now.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json, write_atomic
from reproductions.engine.store.addition import contents, difference, read_addition, with_addition
from reproductions.engine.store.arm import (
    ArmResults,
    check_run,
    same_measure,
)
from reproductions.engine.store.form import (
    SCHEMA,
    Lines,
    as_parquet,
    as_text,
    metrics_of,
    read_columns,
    read_object,
    runs_of,
)
from reproductions.engine.store.joined import joined
from reproductions.engine.store.layout import additions, arm_path, next_addition, table_of

__all__ = ["add_all", "add_runs", "arm_path", "change_arm", "merge", "read_arm", "write_arm"]

_FIELDS = {
    "schema": int,
    "key": str,
    "spec": dict,
    "testbed": str,
    "data_revision": str,
    "metrics": dict,
    "claims": dict,
    "made_with": dict,
    "shared": dict,
    "runs": list,
}


def read_arm(path: Path) -> ArmResults:
    """An arm's results with all additions, checked: metrics recomputed from columns, digests from figures.

    `path`: the JSON of its first runs. Rows of a run that this does not list do not count. Raises KDError naming the
    file, also where an addition is missing before another, and the run.
    """
    arm = _read_first(path)
    for more in additions(path):
        arm = with_addition(str(more), arm, read_addition(more, arm))
    return arm


def _read_first(path: Path) -> ArmResults:
    data = read_object(path, _FIELDS)
    if data["key"] != path.stem or data["testbed"] != path.parent.name:
        raise KDError(f"{path}: holds results of {data['key']} on testbed {data['testbed']}")
    metrics = metrics_of(path, data)
    runs = runs_of(path, data, metrics, read_columns(table_of(path)))
    for seed, run in runs.items():
        check_run(f"{path}: seed {seed}", run, metrics)
    if not runs:
        raise KDError(f"{path}: no runs")
    return ArmResults(
        data["key"], data["spec"], data["testbed"], data["data_revision"], metrics, runs, data["claims"]
    )


def write_arm(path: Path, arm: ArmResults) -> None:
    """Writes the first pair of an arm, the Parquet first: it does not count until the JSON is there.

    Raises KDError where the arm is recorded already, or is not what its name says.
    """
    if arm.key != path.stem or arm.testbed != path.parent.name or not arm.runs:
        raise KDError(f"{path}: cannot hold {len(arm.runs)} runs of {arm.key} on testbed {arm.testbed}")
    for run in arm.runs.values():
        check_run(f"{path}: seed {run.seed}", run, arm.metrics)
    if path.exists() or additions(path):
        raise KDError(f"{path}: is recorded; a file of results is never written again")
    lines = Lines()
    runs = [lines.run(run) for run in arm.runs.values()]
    head = {
        "schema": SCHEMA,
        "key": arm.key,
        "spec": arm.spec,
        "testbed": arm.testbed,
        "data_revision": arm.data_revision,
        "metrics": {name: metric.as_dict() for name, metric in arm.metrics.items()},
        "claims": arm.claims,
        "made_with": lines.made_with,
        "shared": lines.shared,
    }
    columns = {seed: run.columns for seed, run in arm.runs.items()}
    _write_pair(path, as_text(head, {"runs": runs}), as_parquet(columns))


def add_runs(path: Path, made: ArmResults) -> list[int]:
    """Records what is new in `made` in files of its own; returns the seeds added.

    A recorded seed is left alone where the figures are equal, whatever the times; measures that it lacks are added,
    also those of a second training on another kind of processor (see `joined`). Raises KDError where a figure differs,
    or spec, data or the meaning of a metric do: a key is never rewritten.
    Claims are frozen with the first run made for a paper and scale; a paper that adds no run changes nothing here.
    """
    added: list[int] = []

    def more(arm: ArmResults | None) -> ArmResults:
        if arm is None:
            added.extend(made.runs)
            return made
        merged, new = merge(path, arm, made)
        added.extend(new)
        return merged

    change_arm(path, more)
    return added


def add_all(folder: Path, arms: Iterable[ArmResults]) -> int:
    """`add_runs` of several arms of a testbed, all checked before the first is written; how many runs were added.

    Raises KDError as `add_runs` does, with nothing written.
    """
    arms = list(arms)
    for made in arms:
        path = arm_path(folder, made.key)
        if path.exists():
            merge(path, read_arm(path), made)
    return sum(len(add_runs(arm_path(folder, made.key), made)) for made in arms)


def change_arm(path: Path, change: Callable[[ArmResults | None], ArmResults | None]) -> None:
    """Records what `change` makes of an arm, None where nothing is recorded of it: only what is new is written.

    One process at a time does so in a folder. Raises KDError where what is recorded would not stand.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sole_writer(path.parent):
        before = read_arm(path) if path.exists() else None
        after = change(before)
        if before is None:
            if after is not None:
                write_arm(path, after)
            return
        added = None if after is None or after is before else difference(before, after)
        if after is None or added is None:
            return
        again = with_addition(str(path), before, added)
        if _digests(again) != _digests(after):
            raise KDError(f"{path}: what is recorded would change; it is only added to")
        _write_pair(next_addition(path), *contents(after, added))


def _digests(arm: ArmResults) -> dict[int, str]:
    return {seed: run.digest for seed, run in arm.runs.items()}


def _write_pair(path: Path, text: str, table: bytes) -> None:
    write_atomic(table_of(path), table)
    write_atomic(path, text)


def merge(path: Path, arm: ArmResults, made: ArmResults) -> tuple[ArmResults, list[int]]:
    """`arm` with what is new in `made`, and the seeds that are new. Raises KDError as `add_runs` does."""
    for name in ("key", "testbed", "data_revision", "spec"):
        if canonical_json(getattr(arm, name)) != canonical_json(getattr(made, name)):
            raise KDError(f"{path}: recorded with another {name.replace('_', ' ')}; a key is never rewritten")
    for name, metric in made.metrics.items():
        known = arm.metrics.get(name, metric)
        if not same_measure(metric, known):
            raise KDError(
                f'{path}: metric "{name}" was recorded with another meaning; a key is never rewritten'
            )
    runs, added = dict(arm.runs), []
    for seed, run in made.runs.items():
        if seed not in runs:
            runs[seed] = run
            added.append(seed)
        else:
            runs[seed] = joined(f"{path}: seed {seed}", runs[seed], run)
    claims = {**made.claims, **arm.claims} if added else arm.claims
    metrics = {
        **arm.metrics,
        **{name: metric for name, metric in made.metrics.items() if name not in arm.metrics},
    }
    if (claims, runs, metrics) == (arm.claims, arm.runs, arm.metrics):
        return arm, []
    return replace(arm, runs=runs, metrics=metrics, claims=claims), added


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """One writer a folder at a time; the kernel drops the lock when its holder dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
