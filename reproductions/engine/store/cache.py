"""Finished runs of this machine, $KD_CACHE/runs/<key>/seed<k>-<environment>.json: nothing is computed twice.

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
) -> Path:
    """Keeps a finished run, whole or not at all; returns its file. `root`: the cache's root.

    `record`: {seed, metrics, examples, curve, seconds, tokens, rollouts, shared}. Raises KDError where its metrics are
    not those of its examples.
    """
    measured = {name: record[name] for name in _MEASURED}
    kept = {
        "schema": SCHEMA,
        "key": key,
        "record": {
            **measured,
            "examples": record["examples"],
            "shared": record["shared"],
            "digest": run_digest(columns=record["examples"], **measured),
        },
        "made_with": dict(made_with),
        "metrics": {name: metric.as_dict() for name, metric in metrics.items() if name in record["metrics"]},
        "started": started,
        "finished": finished,
    }
    path = _folder(root, key) / f"seed{record['seed']}-{digest(_decisive(made_with), 8)}.json"
    _results(kept, f"run {key}, seed {record['seed']}")
    write_atomic(path, json.dumps({**kept, "file_digest": _file_digest(kept)}, allow_nan=False) + "\n")
    return path


def read_run(root: Path, key: str, seed: int, made_with: Mapping[str, Any]) -> RunResults | None:
    """A finished run that was made with this; a field of DECISIVE that is None or absent may be anything.

    Files that are not whole are set aside as .broken, and the run is made again.
    """
    for kept in _kept(root, key, seed):
        if not differences(kept["made_with"], made_with):
            return _results(kept, f"run {key}, seed {seed}")
    return None


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
    metrics = {
        name: Metric(**{**item, "columns": tuple(item["columns"])}) for name, item in kept["metrics"].items()
    }
    run = RunResults(
        **{name: record[name] for name in (*_MEASURED, "digest", "shared")},
        columns={name: np.asarray(column, dtype=np.float64) for name, column in record["examples"].items()},
        definitions=metrics,
        made_with=kept["made_with"],
        started=kept["started"],
        finished=kept["finished"],
    )
    check_run(where, run, metrics)
    return run


def _decisive(made_with: Mapping[str, Any]) -> dict[str, Any]:
    return {name: made_with.get(name) for name in DECISIVE}


def _file_digest(kept: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(kept).encode()).hexdigest()
