"""Whether results were only added to: whatever was recorded at a commit stands unchanged in what is recorded now.

A later measure of a recorded run changes its arm's files, its line and its digest, and no figure that was there.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.store.arm import ArmResults, RunResults, same_measure
from reproductions.engine.store.pair import read_arm

WHERE = "reproductions/results"
PLAIN = (
    "seconds",
    "tokens",
    "rollouts",
    "student",
    "made_with",
    "started",
    "finished",
    "made_for",
    "migrated",
)


def lost_since(commit: str, root: Path) -> tuple[int, list[str]]:
    """How many runs were recorded at a commit in the arms that changed since, and what of them does not stand now.

    Raises KDError for a commit that git does not know.
    """
    changed = _git(root, "diff", "--name-only", "--no-renames", commit, "--", WHERE).decode().split("\n")
    stems = {name.rpartition(".")[0] for name in changed if name.endswith((".json", ".parquet"))}
    there = set(_git(root, "ls-tree", "-r", "--name-only", commit, "--", WHERE).decode().split("\n"))
    names = sorted(stem for stem in stems if f"{stem}.json" in there)
    lost, runs = [], 0
    with tempfile.TemporaryDirectory() as folder:
        if names:
            wanted = [f"{name}.{end}" for name in names for end in ("json", "parquet")]
            with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", commit, "--", *wanted))) as archive:
                archive.extractall(folder, filter="data")
        for name in names:
            then = read_arm(Path(folder) / f"{name}.json")
            runs += len(then.runs)
            now = root / f"{name}.json"
            found = _lost(then, read_arm(now)) if now.is_file() else iter(["the whole arm is gone"])
            lost += [f"{name}.json: {what}" for what in found]
    return runs, lost


def _lost(then: ArmResults, now: ArmResults) -> Iterator[str]:
    for field in ("spec", "data_revision"):
        if getattr(then, field) != getattr(now, field):
            yield f"its {field.replace('_', ' ')} is another"
    yield from (f"claims frozen for {name} changed" for name in _differing(then.claims, now.claims))
    for name, metric in then.metrics.items():
        if name not in now.metrics or not same_measure(metric, now.metrics[name]):
            yield f"metric {name} means something else, or is gone"
    for seed, run in then.runs.items():
        if seed not in now.runs:
            yield f"seed {seed} is gone"
            continue
        yield from (f"seed {seed}: {what}" for what in _lost_of(run, now.runs[seed]))


def _lost_of(then: RunResults, now: RunResults) -> Iterator[str]:
    yield from (f"metric {name} changed" for name in _differing(then.metrics, now.metrics))
    for name, column in then.columns.items():
        if name not in now.columns or not np.array_equal(column, now.columns[name], equal_nan=True):
            yield f"column {name} changed"
    yield from (f"{name} changed" for name in PLAIN if getattr(then, name) != getattr(now, name))
    if list(then.made or ()) != list(now.made or ())[: len(then.made or ())]:
        yield "who measured what changed"
    curves = then.curve, now.curve
    if len(curves[0]) != len(curves[1]) or any(
        one["step"] != other["step"] or _differing(one["metrics"], other["metrics"])
        for one, other in zip(*curves, strict=True)
    ):
        yield "the curve changed"


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names whose value is another one now, or gone."""
    return [name for name, value in then.items() if name not in now or now[name] != value]


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)  # noqa: S607
    if done.returncode:
        raise KDError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
