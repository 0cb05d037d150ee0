"""The results of an arm, in memory: all its runs with their figures as arrays, and what digest and equality mean."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from catalog.reader import nearest
from reproductions.engine import metrics as metric_functions
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json
from reproductions.engine.metrics import Array, Metric

TOLERANCE = {"rel_tol": 1e-9, "abs_tol": 1e-12}
_CURVE = {"step", "train_seconds", "metrics"}


@dataclass(frozen=True, eq=False)
class RunResults:
    """What one run measured, and what it was made with.

    `columns`: per-example figures, float64, one array a column. `definitions`: what its metrics are. `made_with`: data
    revision, packages, machine, fingerprints of the components. `shared`: the teachers and starts it used, by id.
    `made_for`: the paper and scale it was made for; `migrated`: the first-edition file it was taken from, if it was.
    `timed`: "<paper>/<scale>" -> {seconds, train_seconds of the curve}, where the first edition trained the very same
    run again for another paper: seconds compare within one paper's session only. `student`: the SHA-256 of the trained
    weights; `made`: what was measured when, [{metrics: {name: how, as a digest}, environment, date, student}], where a
    later entry added metrics to the same student (`again`: which was trained anew for it) or, `retrained`, of the one
    that the same training gave on another kind of processor.
    """

    seed: int
    metrics: Mapping[str, float]
    columns: Mapping[str, Array]
    curve: Sequence[Mapping[str, Any]]
    seconds: Mapping[str, float]
    tokens: Mapping[str, int]
    rollouts: Mapping[str, int]
    digest: str
    definitions: Mapping[str, Metric] = field(default_factory=dict)
    made_with: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    started: str | None = None
    finished: str | None = None
    made_for: Mapping[str, str] | None = None
    migrated: Mapping[str, str] | None = None
    timed: Mapping[str, Mapping[str, Any]] | None = None
    student: str | None = None
    made: Sequence[Mapping[str, Any]] | None = None

    @property
    def how(self) -> dict[str, str]:
        """How each metric was measured, where the run says so."""
        return {name: how for part in self.made or () for name, how in part["metrics"].items() if how}

    @property
    def fingerprints(self) -> Mapping[str, str]:
        """The behaviour of each component when the run was made."""
        return self.made_with.get("fingerprints", {})


@dataclass(frozen=True, eq=False)
class ArmResults:
    """All recorded runs of one spec. `claims`: "<paper>/<scale>" -> claim -> digest, frozen with its first run."""

    key: str
    spec: Mapping[str, Any]
    testbed: str
    data_revision: str
    metrics: Mapping[str, Metric]
    runs: Mapping[int, RunResults]
    claims: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def arm_of(
    key: str,
    spec: Mapping[str, Any],
    testbed: str,
    runs: Iterable[RunResults],
    *,
    made_for: tuple[str, str] | None = None,
    claims: Mapping[str, str] | None = None,
) -> ArmResults | None:
    """Runs of one spec as an arm's results, None where there are none.

    `made_for`: the (paper, scale) that they were made for; `claims`: what to freeze for it (ClaimSet.digests). Raises
    KDError where the runs were made on different data.
    """
    chosen = {run.seed: run for run in runs}
    revisions = sorted({str(run.made_with.get("data_revision")) for run in chosen.values()})
    if len(revisions) > 1:
        raise KDError(f"runs of {key} were made on different data: {', '.join(revisions)}")
    if not chosen:
        return None
    metrics: dict[str, Metric] = {}
    for run in chosen.values():
        metrics |= run.definitions
    frozen: dict[str, Mapping[str, str]] = {}
    if made_for is not None:
        paper, scale = made_for
        frozen = {f"{paper}/{scale}": dict(claims or {})}
        chosen = {
            seed: replace(run, made_for=run.made_for or {"paper": paper, "scale": scale})
            for seed, run in chosen.items()
        }
    return ArmResults(key, spec, testbed, revisions[0], metrics, chosen, frozen)


def run_digest(
    seed: int,
    metrics: Mapping[str, float],
    columns: Mapping[str, Sequence[float] | Array],
    curve: Sequence[Mapping[str, Any]],
    seconds: Mapping[str, float],
    tokens: Mapping[str, int],
    rollouts: Mapping[str, int],
    timed: Mapping[str, Any] | None = None,
    student: str | None = None,
) -> str:
    """The SHA-256, in hex, over everything that a run measured; made when the run ends, recomputed whenever it is read.

    Hashed: the canonical JSON (sorted keys, no spaces) of {curve, metrics, rollouts, seconds, seed, tokens} and of
    `timed` and `student` where there is one; then for each column, by name: its name in UTF-8, a zero byte, its
    numbers as little-endian float64 (no negative zero).
    """
    rest = {
        "curve": [dict(point) for point in curve],
        "metrics": dict(metrics),
        "rollouts": dict(rollouts),
        "seconds": dict(seconds),
        "seed": seed,
        "tokens": dict(tokens),
    }
    if timed:
        rest["timed"] = timed
    if student:
        rest["student"] = student
    hashed = hashlib.sha256(canonical_json(rest).encode())
    for name in sorted(columns):
        hashed.update(name.encode() + b"\0" + (np.asarray(columns[name], dtype="<f8") + 0.0).tobytes())
    return hashed.hexdigest()


def digest_of(run: RunResults) -> str:
    """The digest that a run's figures give now."""
    return run_digest(
        run.seed,
        run.metrics,
        run.columns,
        run.curve,
        run.seconds,
        run.tokens,
        run.rollouts,
        run.timed,
        run.student,
    )


def as_timed(run: RunResults, name: str) -> RunResults:
    """The run with the seconds that it took for "<paper>/<scale>", where they were recorded apart."""
    if not run.timed or name not in run.timed:
        return run
    own = run.timed[name]
    curve = [
        {**point, "train_seconds": seconds}
        for point, seconds in zip(run.curve, own["train_seconds"], strict=True)
    ]
    again = replace(run, seconds=own["seconds"], curve=curve, timed=None)
    return replace(again, digest=digest_of(again))


def with_only(run: RunResults, metrics: Collection[str]) -> RunResults:
    """The run with these of its metrics and no column that none of them reads; the run itself where that is all."""
    if set(run.metrics) <= set(metrics):
        return run
    columns = {
        name for metric in metrics if metric in run.metrics for name in run.definitions[metric].columns
    }
    kept = [
        {**part, "metrics": {name: how for name, how in part["metrics"].items() if name in metrics}}
        for part in run.made or ()
    ]
    less = replace(
        run,
        metrics={name: value for name, value in run.metrics.items() if name in metrics},
        columns={name: column for name, column in run.columns.items() if name in columns},
        definitions={name: metric for name, metric in run.definitions.items() if name in metrics},
        made=None if run.made is None else [part for part in kept if part["metrics"]],
    )
    return replace(less, digest=digest_of(less))


def same_figures(one: RunResults, other: RunResults) -> bool:
    """Whether two runs measured the same, whenever and wherever they ran: all but times."""
    if one.metrics != other.metrics or set(one.columns) != set(other.columns):
        return False
    return same_training(one, other) and all(
        np.array_equal(column, other.columns[name]) for name, column in one.columns.items()
    )


def same_training(one: RunResults, other: RunResults) -> bool:
    """Whether two runs were the same training, as far as both measured it: student, tokens, shared figures, curves.

    Runs that both say what their students' weights were need no figure in common, the others do. A curve that only one
    of them has is no difference.
    """
    if (one.tokens, one.rollouts) != (other.tokens, other.rollouts):
        return False
    told = one.student is not None and other.student is not None
    if told and one.student != other.student:
        return False
    if one.curve and other.curve and not _same_curve(one.curve, other.curve):
        return False
    columns = set(one.columns) & set(other.columns)
    if not columns and not told:
        return False
    return all(np.array_equal(one.columns[name], other.columns[name]) for name in columns)


def _same_curve(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> bool:
    """Whether what two curves have in common is the same."""
    if len(one) != len(other):
        return False
    for mine, theirs in zip(one, other, strict=True):
        common = set(mine["metrics"]) & set(theirs["metrics"])
        if mine["step"] != theirs["step"] or any(
            mine["metrics"][name] != theirs["metrics"][name] for name in common
        ):
            return False
    return True


def same_measure(one: Metric, other: Metric) -> bool:
    """Whether two definitions give the same figures; titles and units may differ."""
    return (one.kind, one.columns, one.higher_is_better) == (
        other.kind,
        other.columns,
        other.higher_is_better,
    )


def check_run(where: str, run: RunResults, metrics: Mapping[str, Metric]) -> None:
    """The metrics must be those of the columns, the digest that of the figures: an edit of either shows here.

    Raises KDError that begins with `where`: the file and the run.
    """
    used = set()
    for name in run.metrics:
        if name not in metrics:
            raise KDError(f'{where}: metric "{name}" has no definition{nearest(name, metrics)}')
        used |= set(metrics[name].columns)
        try:
            recomputed = metric_functions.value(metrics[name], run.columns)
        except KDError as error:
            raise KDError(f"{where}: {error}") from error
        recorded = run.metrics[name]
        if not _is_number(recorded) or not math.isclose(recorded, recomputed, **TOLERANCE):
            raise KDError(
                f"{where}: metrics.{name} is {recorded}, its examples give {recomputed:.6g}; "
                "results are never edited by hand"
            )
    for name in sorted(set(run.columns) - used):
        raise KDError(f'{where}: no metric reads the column "{name}"')
    for point in run.curve:
        if set(point) != _CURVE or not isinstance(point["metrics"], dict):
            raise KDError(f"{where}: a point of the curve must hold {', '.join(sorted(_CURVE))}")
    if digest_of(run) != run.digest:
        raise KDError(
            f"{where}: its figures do not give its digest {run.digest[:12]}; results are never edited by hand"
        )


def features(runs: Sequence[RunResults], metric: Metric, what: str) -> Array:
    """Per-example features of runs, (seeds, examples, F). Raises KDError where their examples differ in number."""
    arrays = [metric_functions.features(metric, run.columns) for run in runs]
    if len({array.shape for array in arrays}) != 1:
        raise KDError(f'{what}: its runs were not measured on the same examples ("{metric.title}")')
    return np.stack(arrays)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
