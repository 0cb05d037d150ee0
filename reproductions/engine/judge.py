"""Verdicts, computed from recorded figures and claims; nothing here can be typed in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.reader import nearest
from reproductions.engine import metrics as metric_functions
from reproductions.engine import statistics
from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Experiment, load_experiment, paper_folder
from reproductions.engine.metrics import Array, Metric
from reproductions.engine.results import check_config, metrics_of, read_results, results_path

if TYPE_CHECKING:
    from reproductions.engine.claims import Claim, ClaimSet, Value

PAPER_SCALE = "paper"


@dataclass(frozen=True)
class Judgement:
    """A claim at a scale. Differences are oriented: + is what the paper claims. `interval` is 95 %.

    `equal_seconds`: {difference, interval, seconds, seeds}: the same comparison when the slower arm is stopped at the
    seconds the faster one needed, from the learning curves, interval over seeds only; None where no run allows it.
    """

    claim: str
    scale: str
    better_mean: float | None
    worse_mean: float | None
    difference: float | None
    interval: tuple[float, float] | None
    p: float | None
    p_holm: float | None
    verdict: str
    seeds: int
    equal_seconds: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


@dataclass(frozen=True)
class ValueJudgement:
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


def judge(
    paper: str,
    scale: str,
    papers_root: Path | None = None,
    results: Mapping[str, Any] | None = None,
) -> list[Judgement]:
    """Every claim of a paper that names this scale, judged from its recorded results (`not run` without any).

    Raises KDError when the results are broken or belong to another configuration.
    """
    experiment, claims = _claims(paper, papers_root)
    experiment.scale(scale)
    if results is None:
        results = _recorded(experiment, scale, papers_root)
    return judge_claims(claims, scale, results)


def judge_values(claims: ClaimSet, scale: str, results: Mapping[str, Any] | None) -> list[ValueJudgement]:
    """The paper's verified numbers beside ours: at scale `paper` only, an empty list elsewhere."""
    if scale != PAPER_SCALE:
        return []
    return [_judge_value(value, results) for value in claims.values if value.verified]


def judge_claims(claims: ClaimSet, scale: str, results: Mapping[str, Any] | None) -> list[Judgement]:
    """Judges against given results; p values are Holm-corrected over all claims judged here."""
    compared = [_compare(claim, results) for claim in claims.at(scale)]
    places = [
        place for place, (comparison, _) in enumerate(compared) if comparison and comparison.p is not None
    ]
    corrected = statistics.holm([compared[place][0].p for place in places])  # type: ignore[union-attr, misc]
    p_holm = dict(zip(places, corrected, strict=True))
    judgements = []
    for place, (claim, (comparison, details)) in enumerate(zip(claims.at(scale), compared, strict=True)):
        if comparison is None:
            judgements.append(
                Judgement(claim.id, scale, None, None, None, None, None, None, "not run", 0, None)
            )
            continue
        judgements.append(
            Judgement(
                claim=claim.id,
                scale=scale,
                difference=comparison.difference,
                interval=comparison.interval,
                p=comparison.p,
                p_holm=p_holm.get(place),
                verdict=statistics.verdict(comparison, p_holm.get(place), claim.margin),
                **details,
            )
        )
    return judgements


def runs_by_seed(results: Mapping[str, Any], arm: str) -> dict[int, Mapping[str, Any]]:
    """The runs of an arm."""
    return {run["seed"]: run for run in results["runs"] if run["arm"] == arm}


def _claims(paper: str, papers_root: Path | None) -> tuple[Experiment, ClaimSet]:
    from reproductions.engine.claims import load_claims

    experiment = load_experiment(paper, papers_root)
    return experiment, load_claims(paper_folder(paper, papers_root) / "claims.yaml", experiment)


def _recorded(experiment: Experiment, scale: str, papers_root: Path | None) -> Mapping[str, Any] | None:
    path = results_path(experiment.paper, scale, papers_root)
    if not path.exists():
        return None
    results = read_results(path)
    check_config(path, results, experiment)
    return results


def _compare(
    claim: Claim, results: Mapping[str, Any] | None
) -> tuple[statistics.Comparison | None, dict[str, Any]]:
    """The paired comparison over the seeds that both arms have; (None, {}) where there is none."""
    if results is None:
        return None, {}
    metric = _metric(claim.metric, results, f"claim {claim.id}")
    better, worse = runs_by_seed(results, claim.better), runs_by_seed(results, claim.worse)
    seeds = [seed for seed in better if seed in worse]
    if not seeds:
        return None, {}
    comparison = statistics.paired_bootstrap(
        metric.kind,
        _features(metric, better, seeds, claim.id),
        _features(metric, worse, seeds, claim.id),
        higher_is_better=metric.higher_is_better,
        margin=claim.margin,
    )
    return comparison, {
        "better_mean": _mean(better, seeds, claim.metric),
        "worse_mean": _mean(worse, seeds, claim.metric),
        "seeds": len(seeds),
        "equal_seconds": _equal_seconds(claim, metric, better, worse, seeds),
    }


def _equal_seconds(
    claim: Claim,
    metric: Metric,
    better: Mapping[int, Mapping[str, Any]],
    worse: Mapping[int, Mapping[str, Any]],
    seeds: list[int],
) -> dict[str, Any] | None:
    """Each pair at the training seconds of its faster run, on the learning curves.

    Between two points of a curve the metric is interpolated: taking the earlier point instead would cost an arm that
    is slower by a millisecond a quarter of its training.
    """
    sign = 1.0 if metric.higher_is_better else -1.0
    differences, budgets = [], []
    for seed in seeds:
        pair = better[seed]["curve"], worse[seed]["curve"]
        if not all(pair):
            continue
        budget = min(curve[-1]["train_seconds"] for curve in pair)
        first, second = (_value_at(curve, budget, claim.metric) for curve in pair)
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


def _value_at(curve: list[Mapping[str, Any]], seconds: float, metric: str) -> float | None:
    """The metric after so many training seconds; None before the first point or where it was not measured."""
    if curve[0]["train_seconds"] > seconds or any(metric not in point["metrics"] for point in curve):
        return None
    times = [point["train_seconds"] for point in curve]
    return float(np.interp(seconds, times, [point["metrics"][metric] for point in curve]))


def _judge_value(value: Value, results: Mapping[str, Any] | None) -> ValueJudgement:
    runs = runs_by_seed(results, value.arm) if results is not None else {}
    if results is None or not runs:
        return ValueJudgement(value.id, value.value, value.tolerance, None, None, 0, "not run")
    _metric(value.metric, results, f"value {value.id}")
    summary = statistics.mean_over_seeds([run["metrics"][value.metric] for run in runs.values()])
    low, high = value.value - value.tolerance, value.value + value.tolerance
    verdict = "inconclusive"
    if summary.interval is not None:
        if low <= summary.difference <= high:
            verdict = "reproduced"
        elif summary.interval[1] < low or summary.interval[0] > high:
            verdict = "not reproduced"
    return ValueJudgement(
        value.id, value.value, value.tolerance, summary.difference, summary.interval, len(runs), verdict
    )


def _metric(name: str, results: Mapping[str, Any], what: str) -> Metric:
    metrics = metrics_of(results)
    if name not in metrics:
        raise KDError(
            f'{what}: metric "{name}" was not measured at scale {results["scale"]}{nearest(name, metrics)}'
        )
    return metrics[name]


def _features(metric: Metric, runs: Mapping[int, Mapping[str, Any]], seeds: list[int], claim: str) -> Array:
    arrays = [metric_functions.features(metric, runs[seed]["examples"]) for seed in seeds]
    if len({array.shape for array in arrays}) != 1:
        raise KDError(f'claim {claim}: its runs were not measured on the same examples ("{metric.title}")')
    return np.stack(arrays)


def _mean(runs: Mapping[int, Mapping[str, Any]], seeds: list[int], metric: str) -> float:
    return float(np.mean([runs[seed]["metrics"][metric] for seed in seeds]))
