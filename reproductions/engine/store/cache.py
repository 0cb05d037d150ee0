"""Finished runs of this machine, $KD_CACHE/runs/<key>/seed<k>-<where>.json: nothing is computed twice.

A file holds one run with everything it measured, what it was made with, and a digest over all of it. A run counts for
another session only where all that can change its figures (DECISIVE) is the same; else it is made again, and both are
kept, so that a laptop and a GPU may share one cache.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json, digest, read_json, write_atomic
from reproductions.engine.metrics import Metric
from reproductions.engine.store.arm import RunResults, check_run, run_digest

SCHEMA = 2
DECISIVE = (
    "data_revision",
    "device_type",
    "python",
    "torch",
    "transformers",
    "trl",
    "datasets",
    "fingerprints",
)
_MEASURED = ("seed", "metrics", "curve", "seconds", "tokens", "rollouts")


def keep_run(
    root: Path,
    key: str,
    record: Mapping[str, Any],
    *,
    made_with: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    started: str,
    finished: str,
    how: Mapping[str, str] | None = None,
    testbed: str = "",
) -> Path:
    """Keeps a finished run, whole or not at all; returns its file. `root`: the cache's root.

    `record`: {seed, metrics, examples, curve, seconds, tokens, rollouts, shared}, and `student` where it is known.
    `how` each metric was measured, on which testbed: one key may be measured on several, which share its students.
    Raises KDError where its metrics are not those of its examples.
    """
    entry = _entry(record, made_with, finished, how or {})
    return _keep(root, key, record, [entry], made_with, metrics, started, finished, testbed)


def add_measures(
    root: Path,
    key: str,
    record: Mapping[str, Any],
    *,
    made_with: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    date: str,
    how: Mapping[str, str],
    testbed: str,
    again: bool = False,
) -> Path:
    """Adds metrics of `record` to the run that is kept there, none of whose figures change.

    `again`: the student was trained once more for it. Raises KDError where no run is kept, or it had other weights.
    """
    for kept in _kept(root, key, record["seed"]):
        if differences(kept["made_with"], made_with) or kept.get("testbed", "") != testbed:
            continue
        before = _still(kept["record"], kept["metrics"], how)
        if before.get("student") != record.get("student"):
            raise KDError(f"run {key}, seed {record['seed']}: metrics of another student cannot be added")
        new = {name: value for name, value in record["metrics"].items() if name not in before["metrics"]}
        entry = _entry({**record, "metrics": new}, made_with, date, how)
        joined = {
            **before,
            "metrics": {**before["metrics"], **new},
            "examples": {**record["examples"], **before["examples"]},
            "shared": {**record["shared"], **before["shared"]},
        }
        known = {name: _metric(item) for name, item in kept["metrics"].items()} | dict(metrics)
        made = [*before["made"], {**entry, "again": True} if again else entry]
        about = (kept["made_with"], known, kept["started"], kept["finished"], testbed)
        return _keep(root, key, joined, made, *about)
    raise KDError(f"run {key}, seed {record['seed']}: nothing is kept that metrics could be added to")


def _entry(
    record: Mapping[str, Any], made_with: Mapping[str, Any], date: str, how: Mapping[str, str]
) -> dict[str, Any]:
    measured = {name: how.get(name, "") for name in record["metrics"]}
    entry = {"metrics": measured, "environment": dict(made_with), "date": date}
    return entry | ({"student": record["student"]} if record.get("student") else {})


def _keep(
    root: Path,
    key: str,
    record: Mapping[str, Any],
    made: list[dict[str, Any]],
    made_with: Mapping[str, Any],
    metrics: Mapping[str, Metric],
    started: str,
    finished: str,
    testbed: str,
) -> Path:
    measured = {name: record[name] for name in _MEASURED}
    student = record.get("student")
    kept = {
        "schema": SCHEMA,
        "key": key,
        "record": {
            **measured,
            "examples": record["examples"],
            "shared": record["shared"],
            "student": student,
            "made": made,
            "digest": run_digest(columns=record["examples"], student=student, **measured),
        },
        "testbed": testbed,
        "made_with": dict(made_with),
        "metrics": {name: metric.as_dict() for name, metric in metrics.items() if name in record["metrics"]},
        "started": started,
        "finished": finished,
    }
    place = digest([_decisive(made_with), testbed] if testbed else _decisive(made_with), 8)
    path = _folder(root, key) / f"seed{record['seed']}-{place}.json"
    _results(kept, f"run {key}, seed {record['seed']}")
    write_atomic(path, json.dumps({**kept, "file_digest": _file_digest(kept)}, allow_nan=False) + "\n")
    return path


def read_run(
    root: Path,
    key: str,
    seed: int,
    made_with: Mapping[str, Any],
    *,
    how: Mapping[str, str] | None = None,
    testbed: str = "",
) -> RunResults | None:
    """A finished run that was made with this; a field of DECISIVE that is None or absent may be anything.

    Files that are not whole are set aside as .broken, and the run is made again. `how`: metrics that were measured in
    another way are left out.
    """
    for kept in _kept(root, key, seed):
        if not differences(kept["made_with"], made_with) and kept.get("testbed", "") == testbed:
            if how is not None:
                record = _still(kept["record"], kept["metrics"], how)
                used = {name: kept["metrics"][name] for name in record["metrics"]}
                measured = {name: record[name] for name in _MEASURED}
                figures = {"columns": record["examples"], "student": record.get("student")}
                record["digest"] = run_digest(**figures, **measured)
                kept = {**kept, "record": record, "metrics": used}
            return _results(kept, f"run {key}, seed {seed}")
    return None


def _still(record: Mapping[str, Any], metrics: Mapping[str, Any], how: Mapping[str, str]) -> dict[str, Any]:
    """A kept record without what was measured otherwise than `how` says."""
    made = list(record.get("made") or ())
    then = {name: way for part in made for name, way in part["metrics"].items()}
    good = [
        name for name in record["metrics"] if not then.get(name) or then[name] == how.get(name, then[name])
    ]
    columns = {column for name in good for column in metrics[name]["columns"]}
    kept = [{**p, "metrics": {n: way for n, way in p["metrics"].items() if n in good}} for p in made]
    return {
        **record,
        "metrics": {name: record["metrics"][name] for name in good},
        "examples": {name: record["examples"][name] for name in record["examples"] if name in columns},
        "made": [part for part in kept if part["metrics"]],
    }


def why_not(root: Path, key: str, seed: int, made_with: Mapping[str, Any]) -> str | None:
    """Why a finished run does not count here, e.g. "torch 2.12.0, now 2.13.0"; None where there is none or it does."""
    found = [differences(kept["made_with"], made_with) for kept in _kept(root, key, seed)]
    return "; ".join(found[0]) if found and all(found) else None


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of DECISIVE was another when a run was made."""
    found = []
    for name in DECISIVE:
        if now.get(name) is None or then.get(name) == now[name]:
            continue
        if isinstance(now[name], Mapping) and isinstance(then.get(name), Mapping):
            changed = sorted(part for part, value in now[name].items() if then[name].get(part) != value)
            changed += sorted(part for part in then[name] if part not in now[name])
            found.append(f"other {name}: {', '.join(changed)}")
        else:
            found.append(f"{name} {then.get(name)}, now {now[name]}")
    return found


def forget_run(root: Path, key: str, seed: int) -> None:
    """Removes a run, whatever it was made with."""
    for path in _paths(root, key, seed):
        path.unlink(missing_ok=True)


def _kept(root: Path, key: str, seed: int) -> Iterator[dict[str, Any]]:
    """The whole files of a run, the newest first; the others are set aside."""
    for path in _paths(root, key, seed):
        try:
            kept = read_json(path)
            whole = kept["schema"] == SCHEMA and kept["key"] == key and kept["record"]["seed"] == seed
            whole = whole and kept.pop("file_digest") == _file_digest(kept)
            if whole:
                _results(kept, str(path))
        except (KDError, KeyError, TypeError, ValueError, AttributeError):
            whole = False
        if whole:
            yield kept
        else:
            path.replace(path.with_suffix(".broken"))


def _paths(root: Path, key: str, seed: int) -> list[Path]:
    found = _folder(root, key).glob(f"seed{seed}-*.json")
    return sorted(found, key=lambda path: (-path.stat().st_mtime_ns, path.name))


def _folder(root: Path, key: str) -> Path:
    return root / "runs" / key


def _results(kept: Mapping[str, Any], where: str) -> RunResults:
    """The run in a file. Raises KDError where its figures do not belong together."""
    record = kept["record"]
    metrics = {name: _metric(item) for name, item in kept["metrics"].items()}
    run = RunResults(
        **{name: record[name] for name in (*_MEASURED, "digest", "shared")},
        columns={name: np.asarray(column, dtype=np.float64) for name, column in record["examples"].items()},
        definitions=metrics,
        made_with=kept["made_with"],
        started=kept["started"],
        finished=kept["finished"],
        student=record.get("student"),
        made=record.get("made"),
    )
    check_run(where, run, metrics)
    return run


def _metric(item: Mapping[str, Any]) -> Metric:
    return Metric(**{**item, "columns": tuple(item["columns"])})


def _decisive(made_with: Mapping[str, Any]) -> dict[str, Any]:
    return {name: made_with.get(name) for name in DECISIVE}


def _file_digest(kept: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(kept).encode()).hexdigest()
