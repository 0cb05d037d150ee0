"""What was added to an arm later, in a pair of files of its own: new seeds, and more measures of recorded ones.

    {"schema", "key", "testbed", "metrics": those not defined before, "claims": frozen with the new runs,
     "made_with", "shared", "runs": the new ones, as in the first file,
     "more": [{"seed", "of", "metrics", "digest"} and "curve", "made", "timed" where there is any]}

An entry of `more` holds only what its run lacked; `of` says of which training (`training_of`), `digest` is over what it
adds. Joining is a union, whatever the order: two additions that were made on two branches stand side by side once one
of them has the next number. What both hold has to be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.files import digest
from reproductions.engine.metrics import Array, Metric
from reproductions.engine.store.arm import (
    ArmResults,
    RunResults,
    check_run,
    digest_of,
    run_digest,
    same_measure,
)
from reproductions.engine.store.form import (
    SCHEMA,
    Columns,
    Lines,
    as_parquet,
    as_text,
    check_fields,
    entries_of,
    metrics_of,
    read_columns,
    read_object,
    runs_of,
)
from reproductions.engine.store.joined import joined
from reproductions.engine.store.layout import table_of

_FIELDS = {
    "schema": int,
    "key": str,
    "testbed": str,
    "metrics": dict,
    "claims": dict,
    "made_with": dict,
    "shared": dict,
    "runs": list,
    "more": list,
}
_MORE = {"seed": int, "of": str, "metrics": dict, "digest": str}
_MORE_OPTIONAL = {"curve": list, "made": list, "timed": dict}


@dataclass(frozen=True, eq=False)
class More:
    """What a recorded run lacked. `of`: its training; `curve`: {step, metrics} a point, only what is new of each."""

    seed: int
    of: str
    metrics: Mapping[str, float]
    columns: Mapping[str, Array]
    curve: Sequence[Mapping[str, Any]] = ()
    made: Sequence[Mapping[str, Any]] = ()
    timed: Mapping[str, Any] | None = None

    @property
    def digest(self) -> str:
        """Over what it adds and of which training: `run_digest` with nothing spent, `of` in the student's place."""
        parts = self.metrics, self.columns, self.curve
        return run_digest(self.seed, *parts, {}, {}, {}, self.timed, self.of)


@dataclass(frozen=True, eq=False)
class Addition:
    """What one pair of files adds to an arm."""

    metrics: Mapping[str, Metric]
    claims: Mapping[str, Mapping[str, str]]
    runs: Mapping[int, RunResults]
    more: Mapping[int, More]


def training_of(run: RunResults) -> str:
    """16 hex digits that tell a run's training from any other, whatever is measured of it later."""
    return digest([run.seed, run.student, run.seconds, run.tokens, run.rollouts], 16)


def difference(before: ArmResults, after: ArmResults) -> Addition | None:
    """What an arm has now and had not before; None where no run has more."""
    runs = {seed: run for seed, run in after.runs.items() if seed not in before.runs}
    more = {
        seed: _lacked(old, after.runs[seed])
        for seed, old in before.runs.items()
        if seed in after.runs and after.runs[seed].digest != old.digest
    }
    if not runs and not more:
        return None
    return Addition(
        metrics={name: metric for name, metric in after.metrics.items() if name not in before.metrics},
        claims={name: frozen for name, frozen in after.claims.items() if name not in before.claims},
        runs=runs,
        more=more,
    )


def _lacked(before: RunResults, after: RunResults) -> More:
    def new(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in now.items() if name not in then}

    points = [
        {"step": mine["step"], "metrics": new(mine["metrics"], theirs["metrics"])}
        for mine, theirs in zip(before.curve, after.curve, strict=True)
    ]
    return More(
        before.seed,
        training_of(before),
        new(before.metrics, after.metrics),
        new(before.columns, after.columns),
        points if any(point["metrics"] for point in points) else (),
        list(after.made or ())[len(before.made or ()) :],
        new(before.timed or {}, after.timed or {}) or None,
    )


def with_addition(where: str, arm: ArmResults, added: Addition) -> ArmResults:
    """An arm with what was added to it; every run that changes is checked.

    Raises KDError that begins with `where`: the file, then the run.
    """
    for name, metric in added.metrics.items():
        if not same_measure(metric, arm.metrics.get(name, metric)):
            raise KDError(f'{where}: metric "{name}" has another meaning than before')
    new = {name: metric for name, metric in added.metrics.items() if name not in arm.metrics}
    metrics = {**arm.metrics, **new}
    runs = dict(arm.runs)
    for seed, run in added.runs.items():
        check_run(f"{where}: seed {seed}", run, metrics)
        runs[seed] = joined(f"{where}: seed {seed}", runs[seed], run) if seed in runs else run
    for seed, more in added.more.items():
        if seed not in runs:
            raise KDError(f"{where}: more of seed {seed}, of which no run is recorded")
        runs[seed] = _with_more(f"{where}: seed {seed}", runs[seed], more, metrics)
        check_run(f"{where}: seed {seed}", runs[seed], metrics)
    return replace(arm, metrics=metrics, runs=runs, claims={**added.claims, **arm.claims})


def _with_more(where: str, run: RunResults, more: More, metrics: Mapping[str, Metric]) -> RunResults:
    """A run with what it lacked. Raises KDError where that is of another training, or differs from what is there."""
    if training_of(run) != more.of:
        raise KDError(f"{where}: adds to another training than the recorded one")
    for name, value in more.metrics.items():
        if run.metrics.get(name, value) != value:
            raise KDError(f"{where}: metric {name} is recorded as {run.metrics[name]}, here as {value}")
    for name, column in more.columns.items():
        if name in run.columns and not np.array_equal(run.columns[name], column):
            raise KDError(f'{where}: column "{name}" is recorded with other figures')
    if more.curve and [point.get("step") for point in more.curve] != [point["step"] for point in run.curve]:
        raise KDError(f"{where}: its curve has other steps than the recorded one")
    points = [
        {**mine, "metrics": {**theirs["metrics"], **mine["metrics"]}}
        for mine, theirs in zip(run.curve, more.curve or run.curve, strict=True)
    ]
    known = [*(run.made or ())]
    defined = {name: metrics[name] for name in more.metrics if name in metrics}
    whole = replace(
        run,
        metrics={**run.metrics, **more.metrics},
        columns={**more.columns, **run.columns},
        definitions={**defined, **run.definitions},
        curve=points,
        made=[*known, *(part for part in more.made if part not in known)] or None,
        timed={**(more.timed or {}), **(run.timed or {})} or None,
    )
    return replace(whole, digest=digest_of(whole))


def contents(arm: ArmResults, added: Addition) -> tuple[str, bytes]:
    """The two files of an addition to an arm, JSON and Parquet."""
    lines = Lines()
    runs = [lines.run(run) for run in added.runs.values()]
    more = [_line(lines, one) for one in added.more.values()]
    head = {
        "schema": SCHEMA,
        "key": arm.key,
        "testbed": arm.testbed,
        "metrics": {name: metric.as_dict() for name, metric in added.metrics.items()},
        "claims": added.claims,
        "made_with": lines.made_with,
        "shared": lines.shared,
    }
    columns = {seed: run.columns for seed, run in added.runs.items()}
    columns |= {seed: one.columns for seed, one in added.more.items()}
    return as_text(head, {"runs": runs, "more": more}), as_parquet(columns)


def _line(lines: Lines, more: More) -> dict[str, Any]:
    line = {"seed": more.seed, "of": more.of, "metrics": more.metrics}
    if more.curve:
        line["curve"] = list(more.curve)
    if more.made:
        line["made"] = lines.entries(more.made)
    if more.timed:
        line["timed"] = more.timed
    return line | {"digest": more.digest}


def read_addition(path: Path, arm: ArmResults) -> Addition:
    """One addition to an arm from its two files. Raises KDError naming the file and the run."""
    data = read_object(path, _FIELDS)
    if (data["key"], data["testbed"]) != (arm.key, arm.testbed):
        raise KDError(f"{path}: holds results of {data['key']} on testbed {data['testbed']}")
    metrics = metrics_of(path, data)
    columns: Columns = read_columns(table_of(path))
    runs = runs_of(path, data, {**metrics, **arm.metrics}, columns)
    more: dict[int, More] = {}
    for place, item in enumerate(data["more"]):
        one = _more(path, f"more[{place}]", item, data, columns)
        if one.seed in more or one.seed in runs:
            raise KDError(f"{path}: more[{place}]: seed {one.seed} stands twice")
        more[one.seed] = one
    if not runs and not more:
        raise KDError(f"{path}: adds nothing")
    if unlisted := sorted(columns.keys() - runs.keys() - more.keys()):
        raise KDError(
            f"{table_of(path)}: has examples of seed {unlisted[0]}, which {path.name} does not list"
        )
    return Addition(metrics, data["claims"], runs, more)


def _more(path: Path, where: str, item: Any, data: Mapping[str, Any], columns: Columns) -> More:
    if not isinstance(item, dict):
        raise KDError(f"{path}: {where} is not an object")
    there = {name: kind for name, kind in _MORE_OPTIONAL.items() if name in item}
    check_fields(path, f"{where}.", item, _MORE | there, [*_MORE, *_MORE_OPTIONAL])
    seed, curve = item["seed"], item.get("curve", ())
    if any(not isinstance(point, dict) or set(point) != {"step", "metrics"} for point in curve):
        raise KDError(f"{path}: seed {seed}: a point of a later curve must hold metrics, step")
    more = More(
        seed,
        item["of"],
        item["metrics"],
        columns.get(seed, {}),
        curve,
        entries_of(f"{path}: seed {seed}", item.get("made", ()), data),
        item.get("timed"),
    )
    if more.digest != item["digest"]:
        found = item["digest"][:12]
        raise KDError(
            f"{path}: seed {seed}: its figures do not give its digest {found}; results are never edited by hand"
        )
    return more
