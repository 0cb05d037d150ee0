"""Verdicts, computed from recorded figures and claims; nothing here can be typed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.engine.store.arm import RunResults, features
from reproductions.engine.store.results import Results
from reproductions.engine.verdicts import statistics
from reproductions.engine.verdicts.claims import Claim, ClaimSet, Value

PAPER_SCALE = "paper"
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "not run")


@dataclass(frozen=True)
class Decision:
    """A claim at a scale. The difference is the contrast's, turned so that + is what the paper claims.

    `interval` is 95 %; `means`: each arm's own figure. `p` and `p_holm` are None for a claim of "within", which the
    interval alone decides. `equal_seconds`: {difference, interval, seconds, seeds}: two arms compared when the slower
    one is stopped at the seconds the faster one needed, from the learning curves, interval over seeds only; None where
    no run allows it.
    """

    claim: str
    scale: str
    verdict: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    p: float | None = None
    p_holm: float | None = None
    seeds: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    equal_seconds: Mapping[str, Any] | None = None

    @property
    def better_mean(self) -> float | None:
        """The first arm's figure, where the claim weighs two arms."""
        return list(self.means.values())[0] if len(self.means) == 2 else None

    @property
    def worse_mean(self) -> float | None:
        """The second arm's figure, where the claim weighs two arms."""
        return list(self.means.values())[1] if len(self.means) == 2 else None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class ValueDecision:
    """A number of the paper beside ours at scale `paper`."""

    value: str
    paper: float
    tolerance: float
    mean: float | None
    interval: tuple[float, float] | None
    seeds: int
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def decide(claims: ClaimSet, scale: str, results: Results | None) -> list[Decision]:
    """Every claim at this scale (`not run` without results); p values are Holm-corrected over those claims.

    Raises KDError where the runs of a claim cannot be compared.
    """
    compared = [(claim, _compare(claim, results)) for claim in claims.at(scale)]
    tested = [found for _, found in compared if found is not None and found.comparison.p is not None]
    corrected = statistics.holm([found.comparison.p for found in tested if found.comparison.p is not None])
    p_holm = {id(found): p for found, p in zip(tested, corrected, strict=True)}
    return [
        Decision(claim.id, scale, "not run")
        if found is None
        else _decision(claim, scale, found, p_holm.get(id(found)))
        for claim, found in compared
    ]


def decide_values(claims: ClaimSet, scale: str, results: Results | None) -> list[ValueDecision]:
    """The paper's verified numbers beside ours: at scale `paper` only, an empty list elsewhere."""
    if scale != PAPER_SCALE:
        return []
    return [_decide_value(value, results) for value in claims.values if value.verified]


@dataclass(frozen=True)
class _Compared:
    comparison: statistics.Comparison
    means: dict[str, float]
    seeds: int
    equal_seconds: dict[str, Any] | None


def _decision(claim: Claim, scale: str, found: _Compared, p_holm: float | None) -> Decision:
    comparison, contrast = found.comparison, claim.contrast
    if contrast.relation == "within":
        verdict = statistics.verdict_within(comparison, contrast.bound)
    else:
        verdict = statistics.verdict(comparison, p_holm, contrast.bound)
    return Decision(
        claim=claim.id,
        scale=scale,
        verdict=verdict,
        difference=comparison.difference,
        interval=comparison.interval,
        p=comparison.p,
        p_holm=p_holm,
        seeds=found.seeds,
        means=found.means,
        equal_seconds=found.equal_seconds,
    )


def _compare(claim: Claim, results: Results | None) -> _Compared | None:
    """The contrast over the seeds that its arms share; None where an arm has no run or they share no seed."""
    contrast, what = claim.contrast, f"claim {claim.id}"
    arms = list(contrast.weights)
    runs = {} if results is None else {arm: results.runs(arm) for arm in arms}
    if results is None or not all(runs.values()):
        return None
    metric = results.metric(claim.metric, arms, what)
    revisions = {results.arms[arm].data_revision for arm in arms}
    if len(revisions) > 1:
        raise KDError(f"{what}: its arms were measured on different data: {', '.join(sorted(revisions))}")
    seeds = _shared_seeds(runs, what)
    if not seeds:
        return None
    chosen = {arm: [runs[arm][seed] for seed in seeds] for arm in arms}
    _check_measured(chosen, claim.metric, what)
    within = contrast.relation == "within"
    found = statistics.contrast_bootstrap(
        metric.kind,
        _aligned([features(chosen[arm], metric, what) for arm in arms], metric, what),
        list(contrast.weights.values()),
        higher_is_better=metric.higher_is_better,
        against=contrast.against,
        margin=0.0 if within else contrast.bound,
    )
    return _Compared(
        statistics.Comparison(found.difference, found.interval, None) if within else found,
        {arm: float(np.mean([run.metrics[claim.metric] for run in chosen[arm]])) for arm in arms},
        len(seeds),
        None if within or contrast.pair is None else _equal_seconds(claim.metric, metric, *chosen.values()),
    )


def _shared_seeds(runs: Mapping[str, Mapping[int, RunResults]], what: str) -> list[int]:
    """The seeds of two arms that both have; more arms than two must all have the same, or the sum means nothing."""
    first, *others = runs.values()
    if len(runs) > 2 and any(set(other) != set(first) for other in others):
        each = "; ".join(f"{arm}: {', '.join(map(str, sorted(seeds)))}" for arm, seeds in runs.items())
        raise KDError(f"{what}: its arms must have the same seeds; they have {each}")
    return [seed for seed in first if all(seed in other for other in others)]


def _check_measured(chosen: Mapping[str, Sequence[RunResults]], metric: str, what: str) -> None:
    for arm, runs in chosen.items():
        for run in runs:
            if metric not in run.metrics:
                raise KDError(f'{what}: metric "{metric}" was not measured for arm {arm}, seed {run.seed}')


def _aligned(arrays: list[np.ndarray[Any, Any]], metric: Metric, what: str) -> list[np.ndarray[Any, Any]]:
    if len({array.shape for array in arrays}) != 1:
        raise KDError(f'{what}: its runs were not measured on the same examples ("{metric.title}")')
    return arrays


def _equal_seconds(
    name: str, metric: Metric, better: Sequence[RunResults], worse: Sequence[RunResults]
) -> dict[str, Any] | None:
    """Each pair at the training seconds of its faster run, on the learning curves.

    Between two points of a curve the metric is interpolated: taking the earlier point instead would cost an arm that
    is slower by a millisecond a quarter of its training.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    differences, budgets = [], []
    for one, other in zip(better, worse, strict=True):
        if not one.curve or not other.curve:
            continue
        budget = min(run.curve[-1]["train_seconds"] for run in (one, other))
        first, second = (_value_at(run.curve, budget, name) for run in (one, other))
        if first is not None and second is not None:
            differences.append(sign * (first - second))
            budgets.append(budget)
    if not differences:
        return None
    comparison = statistics.mean_over_seeds(differences)
    return {
        "difference": comparison.difference,
        "interval": comparison.interval,
        "seconds": round(float(np.mean(budgets)), 3),
        "seeds": len(differences),
    }


def _value_at(curve: Sequence[Mapping[str, Any]], seconds: float, metric: str) -> float | None:
    """The metric after so many training seconds; None before the first point or where it was not measured."""
    if curve[0]["train_seconds"] > seconds or any(metric not in point["metrics"] for point in curve):
        return None
    times = [point["train_seconds"] for point in curve]
    return float(np.interp(seconds, times, [point["metrics"][metric] for point in curve]))


def _decide_value(value: Value, results: Results | None) -> ValueDecision:
    runs = results.runs(value.arm) if results is not None else {}
    if results is None or not runs:
        return ValueDecision(value.id, value.value, value.tolerance, None, None, 0, "not run")
    what = f"value {value.id}"
    results.metric(value.metric, [value.arm], what)
    _check_measured({value.arm: list(runs.values())}, value.metric, what)
    summary = statistics.mean_over_seeds([run.metrics[value.metric] for run in runs.values()])
    low, high = value.value - value.tolerance, value.value + value.tolerance
    verdict = "inconclusive"
    if summary.interval is not None:
        if low <= summary.difference <= high:
            verdict = "reproduced"
        elif summary.interval[1] < low or summary.interval[0] > high:
            verdict = "not reproduced"
    return ValueDecision(
        value.id, value.value, value.tolerance, summary.difference, summary.interval, len(runs), verdict
    )
