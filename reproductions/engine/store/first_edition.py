"""Results files of the first edition (one JSON a paper and scale, schema 1): the only place that reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json
from reproductions.engine.metrics import Metric
from reproductions.engine.store.arm import ArmResults, RunResults, check_run, digest_of, run_digest
from reproductions.engine.store.pair import arm_path, change_arm, merge
from reproductions.engine.store.results import Results, gather

SCHEMA = 1
_FIELDS = {
    "schema": int,
    "paper": str,
    "scale": str,
    "testbed": str,
    "config_hash": str,
    "config": dict,
    "data_revision": str,
    "environment": dict,
    "metrics": dict,
    "shared": dict,
    "runs": list,
}
_RUN_FIELDS = {
    "arm": str,
    "seed": int,
    "metrics": dict,
    "examples": dict,
    "curve": list,
    "seconds": dict,
    "tokens": dict,
    "rollouts": dict,
}


@dataclass(frozen=True)
class FirstEdition:
    """A file of the first edition; `arms` hold its runs under the paper's own names, without spec and key."""

    paper: str
    scale: str
    testbed: str
    config_hash: str
    config: Mapping[str, Any]
    arms: Mapping[str, ArmResults]

    @property
    def results(self) -> Results:
        """What it says about the arms and seeds that it declares itself."""
        return gather(self.arms, self.config["arms"], self.config["seeds"])


def read_first_edition(path: Path) -> FirstEdition:
    """A results file of the first edition. Raises KDError naming the file and what is wrong in it."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise KDError(f"{path}: not a results file")
    if data.get("schema") != SCHEMA:
        raise KDError(
            f"{path}: schema {data.get('schema')!r}; a results file of the first edition has schema {SCHEMA}"
        )
    _fields(path, "", data, _FIELDS)
    for name, kind in (("arms", dict), ("seeds", list)):
        if not isinstance(data["config"].get(name), kind):
            raise KDError(f"{path}: config.{name} must be {kind.__name__}")
    metrics = {name: _metric(path, name, item) for name, item in data["metrics"].items()}
    runs: dict[str, dict[int, RunResults]] = {}
    for place, item in enumerate(data["runs"]):
        run = _run(path, f"runs[{place}]", item, metrics, data)
        if run.seed in runs.setdefault(item["arm"], {}):
            raise KDError(f"{path}: runs[{place}]: arm {item['arm']} with seed {run.seed} stands twice")
        runs[item["arm"]][run.seed] = run
    arms = {
        arm: ArmResults("", {}, data["testbed"], data["data_revision"], metrics, by_seed)
        for arm, by_seed in runs.items()
    }
    return FirstEdition(
        data["paper"], data["scale"], data["testbed"], data["config_hash"], data["config"], arms
    )


@dataclass(frozen=True)
class Migration:
    """What became of a file's runs, each "<arm> seed <k>": new, equal to a recorded one, equal but for its times.

    Such times are kept beside the recorded ones. `refused` maps runs whose recorded figures differ to why; the recorded
    ones stay.
    """

    added: tuple[str, ...]
    merged: tuple[str, ...]
    retimed: tuple[str, ...]
    refused: Mapping[str, str]


def migrate(
    first: FirstEdition,
    keys: Mapping[str, tuple[str, Mapping[str, Any]]],
    folder: Path,
    *,
    data_revision: str | None = None,
    fingerprints: Mapping[str, Mapping[str, str]] | None = None,
    claims: Mapping[str, Mapping[str, str]] | None = None,
) -> Migration:
    """Adds a file's runs to the arm files in `folder`, results/<testbed>; the first paper's runs stay where equal.

    `keys`: arm -> (key, spec). `data_revision`: where the testbed's is another now. `fingerprints`, `claims`: by arm,
    what to note of today's components and what ClaimSet.digests says.
    """
    told: dict[str, list[str]] = {"added": [], "merged": [], "retimed": []}
    refused: dict[str, str] = {}
    for arm, old in first.arms.items():
        key, spec = keys[arm]
        revision = data_revision or old.data_revision
        more = {"data_revision": revision, "fingerprints": dict((fingerprints or {}).get(arm, {}))}
        made = replace(
            old,
            key=key,
            spec=spec,
            testbed=folder.name,
            data_revision=revision,
            runs={seed: replace(run, made_with={**run.made_with, **more}) for seed, run in old.runs.items()},
            claims={f"{first.paper}/{first.scale}": dict((claims or {}).get(arm, {}))},
        )
        for seed, what in _add(arm_path(folder, key), made, f"{first.paper}/{first.scale}").items():
            name = f"{arm} seed {seed}"
            if what in told:
                told[what].append(name)
            else:
                refused[name] = what
    return Migration(tuple(told["added"]), tuple(told["merged"]), tuple(told["retimed"]), refused)


def _add(path: Path, made: ArmResults, name: str) -> dict[int, str]:
    """Adds an arm's runs in one go; by seed: "added", "merged", "retimed" or why it is refused."""
    told: dict[int, str] = {}

    def change(arm: ArmResults | None) -> ArmResults | None:
        for seed, run in made.runs.items():
            try:
                arm, told[seed] = _with_run(path, arm, replace(made, runs={seed: run}), run, name)
            except KDError as error:
                told[seed] = str(error)
        return arm

    change_arm(path, change)
    return told


def _with_run(
    path: Path, arm: ArmResults | None, made: ArmResults, run: RunResults, name: str
) -> tuple[ArmResults, str]:
    """An arm with one run more, or with its seconds where it was made once more for another paper and took others."""
    if arm is None:
        return made, "added"
    merged, added = merge(path, arm, made)
    kept = merged.runs[run.seed]
    if added or (kept.seconds == run.seconds and _times(kept) == _times(run)):
        return merged, "added" if added else "merged"
    times = {"seconds": run.seconds, "train_seconds": _times(run)}
    timed = replace(kept, timed={**(kept.timed or {}), name: times})
    timed = replace(timed, digest=digest_of(timed))
    return replace(merged, runs={**merged.runs, run.seed: timed}), "retimed"


def _times(run: RunResults) -> list[float]:
    return [point["train_seconds"] for point in run.curve]


def _run(
    path: Path, where: str, item: Any, metrics: Mapping[str, Metric], data: Mapping[str, Any]
) -> RunResults:
    if not isinstance(item, dict):
        raise KDError(f"{path}: {where} is not an object")
    made_for = item.get("made_for", data["paper"])
    if not isinstance(made_for, str):
        raise KDError(f"{path}: {where}.made_for must be str, not {type(made_for).__name__}")
    _fields(path, f"{where}.", {name: item[name] for name in item if name != "made_for"}, _RUN_FIELDS)
    try:
        columns = {name: np.asarray(column, dtype=np.float64) for name, column in item["examples"].items()}
    except (TypeError, ValueError) as error:
        raise KDError(f"{path}: {where}.examples: {error}") from error
    figures = {name: item[name] for name in ("metrics", "curve", "seconds", "tokens", "rollouts")}
    run = RunResults(
        seed=item["seed"],
        columns=columns,
        **figures,
        digest=run_digest(seed=item["seed"], columns=columns, **figures),
        definitions=metrics,
        made_with={**data["environment"], "data_revision": data["data_revision"], "fingerprints": {}},
        shared=_shared(data["shared"], item["seed"]),
        made_for={"paper": made_for, "scale": data["scale"]},
        migrated={"paper": data["paper"], "scale": data["scale"], "config_hash": data["config_hash"]},
    )
    missing = [name for name in metrics if name not in run.metrics]
    if missing:
        raise KDError(f"{path}: {where}.metrics.{missing[0]} is missing")
    check_run(f"{path}: {where}", run, metrics)
    return run


def _shared(shared: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What a run may have used. The file lists artifacts for all its runs at once.

    Where there is one of a kind for each of several seeds (starts), it is that of the run's seed; else (teachers,
    their answers) every run is given it.
    """
    seeds: dict[str, set[Any]] = {}
    for artifact in shared.values():
        seeds.setdefault(artifact["kind"], set()).add(artifact["key"].get("seed"))
    return {
        name: _compact(artifact)
        for name, artifact in shared.items()
        if len(seeds[artifact["kind"]]) == 1 or artifact["key"].get("seed") == seed
    }


def _compact(artifact: Mapping[str, Any]) -> dict[str, Any]:
    """An artifact without counts of zero, and without the testbed and data revision that its run names too."""
    key = {name: value for name, value in artifact["key"].items() if name not in ("testbed", "data_revision")}
    return {name: value for name, value in artifact.items() if value != 0} | {"key": key}


def _fields(path: Path, where: str, data: Mapping[str, Any], expected: Mapping[str, type]) -> None:
    for name, kind in expected.items():
        if name not in data:
            raise KDError(f"{path}: {where}{name} is missing")
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            raise KDError(f"{path}: {where}{name} must be {kind.__name__}, not {type(data[name]).__name__}")
    for name in data:
        if name not in expected:
            raise KDError(f"{path}: unknown field {where}{name}{nearest(name, expected)}")


def _metric(path: Path, name: str, data: Any) -> Metric:
    try:
        return Metric(**{**data, "columns": tuple(data["columns"])})
    except (TypeError, KeyError, KDError) as error:
        raise KDError(f'{path}: metric "{name}": {error}') from error
