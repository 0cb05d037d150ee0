"""The results file of a reproduction: assembled from finished runs, read strictly, never edited by hand."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from catalog.reader import nearest
from reproductions.engine import metrics as metric_functions
from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Experiment, config, config_hash, list_papers, paper_folder
from reproductions.engine.files import read_json, write_atomic
from reproductions.engine.metrics import Metric
from reproductions.engine.state import SCHEMA

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
_TIMES = ("train_seconds", "train_cpu_seconds", "evaluate_seconds", "seconds")


def results_path(paper: str, scale: str, papers_root: Path | None = None) -> Path:
    """Where a complete reproduction's results are committed."""
    return paper_folder(paper, papers_root) / "results" / f"{scale}.json"


def list_results(paper: str | None = None, papers_root: Path | None = None) -> list[tuple[str, str, Path]]:
    """(paper, scale, file) of every recorded result, of one paper or of all; files are not opened."""
    papers = [paper] if paper is not None else list_papers(papers_root)
    found = []
    for name in papers:
        folder = paper_folder(name, papers_root) / "results"
        found += [(name, file.stem, file) for file in sorted(folder.glob("*.json"))]
    return found


def assemble(
    experiment: Experiment,
    scale: str,
    setup: Mapping[str, Any],
    saved_runs: Iterable[Mapping[str, Any]],
    *,
    workers: int,
    wall_seconds: float,
) -> dict[str, Any]:
    """The results of these finished runs, in the order arms and seeds are declared in."""
    order = {name: place for place, name in enumerate(experiment.arms)}
    seeds = {seed: place for place, seed in enumerate(experiment.scale(scale).seeds)}
    runs = sorted(saved_runs, key=lambda run: (order[run["record"]["arm"]], seeds[run["record"]["seed"]]))
    metrics = setup["metrics"]
    if experiment.only_named_metrics:
        metrics = {
            name: metrics[name] for name in metrics if name in experiment.headline + experiment.metrics
        }
    shared: dict[str, Any] = {}
    for run in runs:
        shared |= run["record"].get("shared", {})
    return {
        "schema": SCHEMA,
        "paper": experiment.paper,
        "scale": scale,
        "testbed": experiment.scale(scale).testbed,
        "config_hash": config_hash(experiment, scale),
        "config": config(experiment, scale),
        "data_revision": setup["data_revision"],
        "environment": {
            **setup["environment"],
            "workers": workers,
            **_commit(),
            "started": min(run["started"] for run in runs),
            "finished": max(run["finished"] for run in runs),
            "wall_seconds": wall_seconds,
        },
        "metrics": metrics,
        "shared": dict(sorted(shared.items())),
        "runs": [_run(run["record"], metrics) for run in runs],
    }


def _run(record: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A run as the file keeps it; `made_for` names the paper whose reproduction made it, where that is another."""
    kept = {name: record[name] for name in _RUN_FIELDS}
    columns = {column for metric in metrics.values() for column in metric["columns"]}
    kept["examples"] = {name: column for name, column in record["examples"].items() if name in columns}
    kept["metrics"] = {name: value for name, value in record["metrics"].items() if name in metrics}
    kept["curve"] = [
        point | {"metrics": {name: value for name, value in point["metrics"].items() if name in metrics}}
        for point in record["curve"]
    ]
    return kept | ({"made_for": record["made_for"]} if "made_for" in record else {})


def dumps(results: Mapping[str, Any]) -> str:
    """JSON text for git: one line a run, so that a diff shows which run changed."""
    lines = [
        f" {json.dumps(name)}: {json.dumps(results[name], indent=1)}," for name in _FIELDS if name != "runs"
    ]
    runs = ",\n".join("  " + json.dumps(run, separators=(",", ":")) for run in results["runs"])
    return "{\n" + "\n".join(lines) + '\n "runs": [\n' + runs + "\n ]\n}\n"


def write_results(path: Path, results: Mapping[str, Any]) -> bool:
    """Writes the file; leaves it alone, and returns False, where it already holds the very same figures."""
    if path.exists():
        try:
            if figures(read_results(path)) == figures(results):
                return False
        except KDError:
            pass  # not readable as results: the caller has checked that it may be replaced
    write_atomic(path, dumps(results))
    return True


def read_results(path: Path) -> dict[str, Any]:
    """A results file. Raises KDError naming the file and what is wrong in it."""
    results = read_json(path)
    if not isinstance(results, dict):
        raise KDError(f"{path}: not a results file")
    if results.get("schema") != SCHEMA:
        raise KDError(f"{path}: schema {results.get('schema')!r}; this version reads schema {SCHEMA}")
    _fields(path, "", results, _FIELDS)
    metrics = {name: _metric(path, name, data) for name, data in results["metrics"].items()}
    seen = set()
    for place, run in enumerate(results["runs"]):
        where = f"runs[{place}]."
        if not isinstance(run, dict):
            raise KDError(f"{path}: {where[:-1]} is not an object")
        if not isinstance(run.get("made_for", ""), str):
            raise KDError(f"{path}: {where}made_for must be str, not {type(run['made_for']).__name__}")
        _fields(path, where, {name: run[name] for name in run if name != "made_for"}, _RUN_FIELDS)
        if (run["arm"], run["seed"]) in seen:
            raise KDError(f"{path}: {where[:-1]}: arm {run['arm']} with seed {run['seed']} stands twice")
        seen.add((run["arm"], run["seed"]))
        _check_figures(path, where, run, metrics)
    return results


def check_config(path: Path, results: Mapping[str, Any], experiment: Experiment) -> None:
    """Raises KDError when the file was made by another configuration than today's experiment.py."""
    scale = results["scale"]
    if results["paper"] != experiment.paper or scale != path.stem:
        raise KDError(f"{path}: holds results of {results['paper']} at scale {scale}")
    today = config_hash(experiment, scale)
    if results["config_hash"] != today:
        raise KDError(
            f"{path}: made with config {results['config_hash']}, the experiment is now {today}; "
            f"`make reproduce PAPER={experiment.paper} SCALE={scale} ARGS=--replace` makes it again"
        )
    _check_complete(path, results, experiment)


def _check_complete(path: Path, results: Mapping[str, Any], experiment: Experiment) -> None:
    """Every arm with every seed, and nothing else: a verdict must not change by leaving runs out."""
    scale = experiment.scale(results["scale"])
    declared = {(arm, seed) for arm in experiment.arms_at(results["scale"]) for seed in scale.seeds}
    found = {(run["arm"], run["seed"]) for run in results["runs"]}
    for these, what in (
        (declared - found, f"of the {len(declared)} declared runs, missing"),
        (found - declared, "beyond those that the experiment declares"),
    ):
        if these:
            arm = min(these)[0]
            seeds = ", ".join(str(seed) for name, seed in sorted(these) if name == arm)
            raise KDError(
                f"{path}: {what}: {len(these)}, among them arm {arm} with seed {seeds}; nothing is judged from part of "
                f"the runs, and `make reproduce PAPER={experiment.paper} SCALE={results['scale']} ARGS=--replace` "
                "makes them again"
            )


def metrics_of(results: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics recorded with the results."""
    return {name: _metric(Path("results"), name, data) for name, data in results["metrics"].items()}


def figures(results: Mapping[str, Any]) -> dict[str, Any]:
    """The results without what differs between two equal reproductions: times, dates, machine, commit."""
    kept = copy.deepcopy({name: results[name] for name in _FIELDS if name != "environment"})
    for run in kept["runs"]:
        del run["seconds"]
        run.pop("made_for", None)
        for point in run["curve"]:
            del point["train_seconds"]
    for artifact in kept["shared"].values():
        for name in _TIMES:
            artifact.pop(name, None)
    return kept


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


def _check_figures(path: Path, where: str, run: Mapping[str, Any], metrics: Mapping[str, Metric]) -> None:
    """The recorded metrics must be those of the recorded examples: a hand edit of either shows here."""
    for name, metric in metrics.items():
        try:
            recomputed = metric_functions.value(metric, run["examples"])
        except KDError as error:
            raise KDError(f"{path}: {where}examples: {error}") from error
        recorded = run["metrics"].get(name)
        if not isinstance(recorded, int | float) or not math.isclose(
            recorded, recomputed, rel_tol=1e-9, abs_tol=1e-12
        ):
            raise KDError(
                f"{path}: {where}metrics.{name} is {recorded}, its examples give {recomputed:.6g}; "
                "results are never edited by hand"
            )


def _commit() -> dict[str, Any]:
    """The commit of this checkout and whether files differ from it.

    Outside git (a copy on a machine without the history) KD_COMMIT may name the commit it was copied from.
    """
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],  # noqa: S607 - the user's own git
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD") or os.environ.get("KD_COMMIT"),
        "dirty": None if status is None else bool(status),
    }
