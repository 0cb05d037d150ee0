"""An arm's two files: <key>.json says what was run and what came out, <key>.parquet holds the per-example figures.

The JSON has one line a run; environments, shared artifacts and metrics stand once and runs name them. The Parquet
(zstd) has a row for each run and example: `seed`, `example`, then a column for each per-example figure, null where a
run did not measure it: all of a column, or what comes after the first examples. Whole numbers are small integers,
others float32 where that is exact, else float64: what is read back equals what was measured. Append-only: a recorded
figure never changes (`add_runs`).
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json, digest, read_json, write_atomic
from reproductions.engine.metrics import Array, Metric
from reproductions.engine.store.arm import (
    ArmResults,
    RunResults,
    check_run,
    same_measure,
)
from reproductions.engine.store.joined import joined

SCHEMA = 2
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
_RUN_FIELDS = {
    "seed": int,
    "metrics": dict,
    "curve": list,
    "seconds": dict,
    "tokens": dict,
    "rollouts": dict,
    "shared": list,
    "made_with": str,
    "digest": str,
}
_RUN_MORE = {
    "started": str,
    "finished": str,
    "made_for": dict,
    "migrated": dict,
    "timed": dict,
    "student": str,
    "made": list,
}
_PLAIN = ("seed", "metrics", "curve", "seconds", "tokens", "rollouts", "digest")
_MADE = {"metrics": dict, "environment": str, "date": str}


def arm_path(folder: Path, key: str) -> Path:
    """The JSON of an arm in the results folder of its testbed; the Parquet stands beside it."""
    return folder / f"{key}.json"


def read_arm(path: Path) -> ArmResults:
    """An arm's results, checked: metrics recomputed from the columns, digests from the figures.

    Rows of a run that the JSON does not list are an interrupted write's and do not count. Raises KDError naming the
    file and the run.
    """
    data = read_json(path)
    if not isinstance(data, dict):
        raise KDError(f"{path}: not the results of an arm")
    if data.get("schema") != SCHEMA:
        raise KDError(f"{path}: schema {data.get('schema')!r}; this version reads schema {SCHEMA}")
    _fields(path, "", data, _FIELDS)
    if data["key"] != path.stem or data["testbed"] != path.parent.name:
        raise KDError(f"{path}: holds results of {data['key']} on testbed {data['testbed']}")
    metrics = {name: _metric(path, name, item) for name, item in data["metrics"].items()}
    columns = _read_columns(path.with_suffix(".parquet"))
    runs: dict[int, RunResults] = {}
    for place, item in enumerate(data["runs"]):
        run = _run(path, f"runs[{place}]", item, data, metrics, columns)
        if run.seed in runs:
            raise KDError(f"{path}: runs[{place}]: seed {run.seed} stands twice")
        check_run(f"{path}: seed {run.seed}", run, metrics)
        runs[run.seed] = run
    if not runs:
        raise KDError(f"{path}: no runs")
    return ArmResults(
        data["key"], data["spec"], data["testbed"], data["data_revision"], metrics, runs, data["claims"]
    )


def write_arm(path: Path, arm: ArmResults) -> None:
    """Writes both files, the Parquet first: until the JSON is there, its new rows do not count."""
    if arm.key != path.stem or arm.testbed != path.parent.name or not arm.runs:
        raise KDError(f"{path}: cannot hold {len(arm.runs)} runs of {arm.key} on testbed {arm.testbed}")
    for run in arm.runs.values():
        check_run(f"{path}: seed {run.seed}", run, arm.metrics)
    write_atomic(path.with_suffix(".parquet"), _parquet(arm))
    write_atomic(path, _dumps(arm))


def add_runs(path: Path, made: ArmResults) -> list[int]:
    """Adds what is new in `made` to an arm's files, making them where there are none; returns the seeds added.

    A recorded seed is left alone where the figures are equal, whatever the times; measures that it lacks are added,
    also those of a second training on another kind of processor (see `joined`). Raises KDError where a figure differs,
    or spec, data or the meaning of a metric do: a key is never rewritten.
    Claims are frozen with the first run made for a paper and scale; a paper that adds no run changes nothing here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sole_writer(path.parent):
        if not path.exists():
            write_arm(path, made)
            return list(made.runs)
        arm = read_arm(path)
        merged, added = merge(path, arm, made)
        if merged is not arm:
            write_arm(path, merged)
        return added


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


def _run(
    path: Path,
    where: str,
    item: Any,
    data: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    columns: Mapping[int, Mapping[str, Array]],
) -> RunResults:
    if not isinstance(item, dict):
        raise KDError(f"{path}: {where} is not an object")
    more = {name: kind for name, kind in _RUN_MORE.items() if name in item}
    _fields(path, f"{where}.", item, _RUN_FIELDS | more, [*_RUN_FIELDS, *_RUN_MORE])
    seed = item["seed"]
    if seed not in columns:
        raise KDError(f"{path.with_suffix('.parquet')}: no examples of seed {seed}, which {path.name} lists")
    for name in item["shared"]:
        if name not in data["shared"]:
            raise KDError(
                f'{path}: seed {seed}: shared "{name}" stands nowhere{nearest(str(name), data["shared"])}'
            )
    if item["made_with"] not in data["made_with"]:
        raise KDError(f'{path}: seed {seed}: made_with "{item["made_with"]}" stands nowhere')
    plain: dict[str, Any] = {name: item[name] for name in (*_PLAIN, *more)}
    if "made" in more:
        plain["made"] = _made(f"{path}: seed {seed}", item["made"], data)
    return RunResults(
        **plain,
        columns=columns[seed],
        definitions={name: metrics[name] for name in item["metrics"] if name in metrics},
        made_with=data["made_with"][item["made_with"]],
        shared={name: data["shared"][name] for name in item["shared"]},
    )


def _made(where: str, entries: list[Any], data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Who measured what, with the environments that the file names."""
    found = []
    for entry in entries:
        if not isinstance(entry, dict) or any(not isinstance(entry.get(n), k) for n, k in _MADE.items()):
            raise KDError(f"{where}: an entry of made holds {', '.join(_MADE)}")
        if entry["environment"] not in data["made_with"]:
            raise KDError(f'{where}: made with "{entry["environment"]}", which stands nowhere')
        found.append({**entry, "environment": data["made_with"][entry["environment"]]})
    return found


def _dumps(arm: ArmResults) -> str:
    """JSON text for git: one line a run, so that a diff shows which run was added."""
    made_with: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    runs = []
    for run in arm.runs.values():
        name = digest(run.made_with, 8)
        made_with[name] = run.made_with
        shared |= run.shared
        line = {
            "seed": run.seed,
            "metrics": run.metrics,
            "curve": list(run.curve),
            "seconds": run.seconds,
            "tokens": run.tokens,
            "rollouts": run.rollouts,
            "shared": sorted(run.shared),
            "made_with": name,
            "digest": run.digest,
        }
        more = {name: getattr(run, name) for name in _RUN_MORE if getattr(run, name) is not None}
        if "made" in more:
            for part in more["made"]:
                made_with.setdefault(digest(part["environment"], 8), part["environment"])
            more["made"] = [{**part, "environment": digest(part["environment"], 8)} for part in more["made"]]
        runs.append(line | more)
    head = {
        "schema": SCHEMA,
        "key": arm.key,
        "spec": arm.spec,
        "testbed": arm.testbed,
        "data_revision": arm.data_revision,
        "metrics": {name: metric.as_dict() for name, metric in arm.metrics.items()},
        "claims": arm.claims,
        "made_with": made_with,
        "shared": dict(sorted(shared.items())),
    }
    lines = [f" {json.dumps(name)}: {_value(value)}," for name, value in head.items()]
    return (
        "{\n"
        + "\n".join(lines)
        + '\n "runs": [\n'
        + ",\n".join(f"  {_compact(run)}" for run in runs)
        + "\n ]\n}\n"
    )


def _value(value: Any) -> str:
    """A mapping with one entry a line, anything else on one."""
    if not isinstance(value, Mapping) or not value:
        return _compact(value)
    return (
        "{\n" + ",\n".join(f"  {json.dumps(name)}: {_compact(item)}" for name, item in value.items()) + "\n }"
    )


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), default=dict, allow_nan=False)


def _parquet(arm: ArmResults) -> bytes:
    import pyarrow
    import pyarrow.parquet

    runs = list(arm.runs.values())
    sizes = [max(map(len, run.columns.values())) for run in runs]
    table = {
        "seed": _small(np.repeat([run.seed for run in runs], sizes).astype(np.float64)),
        "example": _small(np.concatenate([np.arange(size) for size in sizes]).astype(np.float64)),
    }
    for name in sorted({name for run in runs for name in run.columns}):
        found = [run.columns.get(name, np.empty(0)) for run in runs]
        # A dear metric is measured on the first examples only: the rest of its column is as absent as a whole one.
        whole = [np.pad(part, (0, size - len(part))) for part, size in zip(found, sizes, strict=True)]
        absent = np.concatenate(
            [np.arange(size) >= len(part) for part, size in zip(found, sizes, strict=True)]
        )
        kept = _small(np.concatenate(whole))
        table[name] = pyarrow.array(kept, mask=absent) if absent.any() else kept
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(
        pyarrow.table(table),
        buffer,
        compression="zstd",
        compression_level=19,
        use_dictionary=[name for name in table if name != "example"],
        column_encoding={"example": "DELTA_BINARY_PACKED"},
        write_statistics=False,
        store_schema=False,
    )
    return buffer.getvalue()


def _small(column: Array) -> np.ndarray[Any, Any]:
    """The numbers in the smallest type that holds them exactly."""
    if np.array_equal(column, np.round(column)):
        for kind in (np.int8, np.int16, np.int32):
            if np.abs(column).max(initial=0) <= np.iinfo(kind).max:
                return column.astype(kind)
    single = column.astype(np.float32)
    return single if np.array_equal(single.astype(np.float64), column) else column


def _read_columns(path: Path) -> dict[int, dict[str, Array]]:
    """Per-example figures by seed; a run's columns are those that it measured."""
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(io.BytesIO(path.read_bytes()))
    except OSError as error:
        raise KDError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pyarrow.ArrowException as error:
        raise KDError(f"{path}: not Parquet: {' '.join(str(error).split())}") from error
    for name in ("seed", "example"):
        if name not in table.column_names or table[name].null_count or not _is_integer(table[name]):
            raise KDError(f'{path}: needs a column "{name}" of whole numbers')
    seeds, examples = (table[name].to_numpy() for name in ("seed", "example"))
    found: dict[int, dict[str, Array]] = {}
    for seed in dict.fromkeys(seeds.tolist()):
        rows = np.flatnonzero(seeds == seed)
        if not np.array_equal(examples[rows], np.arange(len(rows))):
            raise KDError(f"{path}: the examples of seed {seed} are not 0, 1, 2, ... in order")
        found[seed] = {}
        for name in table.column_names:
            if name in ("seed", "example"):
                continue
            column = table[name].take(pyarrow.array(rows))
            size = len(rows) - column.null_count  # of the first examples only, or of none
            if not size:
                continue
            if column.slice(0, size).null_count:
                raise KDError(f'{path}: column "{name}" of seed {seed} has gaps')
            found[seed][name] = column.slice(0, size).to_numpy().astype(np.float64)
    return found


def _is_integer(column: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_integer(column.type))


@contextlib.contextmanager
def _sole_writer(folder: Path) -> Iterator[None]:
    """One writer a folder at a time; the kernel drops the lock when its holder dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fields(
    path: Path, where: str, data: Mapping[str, Any], expected: Mapping[str, type], known: Any = None
) -> None:
    for name in data:
        if name not in (known or expected):
            raise KDError(f"{path}: unknown field {where}{name}{nearest(name, known or expected)}")
    for name, kind in expected.items():
        if name not in data:
            raise KDError(f"{path}: {where}{name} is missing")
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            raise KDError(f"{path}: {where}{name} must be {kind.__name__}, not {type(data[name]).__name__}")


def _metric(path: Path, name: str, data: Any) -> Metric:
    try:
        return Metric(**{**data, "columns": tuple(data["columns"])})
    except (TypeError, KeyError, KDError) as error:
        raise KDError(f'{path}: metric "{name}": {error}') from error
