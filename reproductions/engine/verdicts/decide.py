"""Verdicts, computed from recorded figures, claims and the gate of the testbed; nothing here can be typed in.

A claim is looked at when 5, 10, 20 and 40 seeds of all its arms are there, in the declared order of seeds, and decided
at the first look whose interval has a word for it. Seeds that came later, for other claims, change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.engine.store.arm import RunResults, features
from reproductions.engine.store.results import Results
from reproductions.engine.verdicts import statistics, words
from reproductions.engine.verdicts.claims import Claim, ClaimSet, Value
from reproductions.engine.verdicts.effects import smallest_effect
from reproductions.engine.verdicts.gates import Gate, lacks
from reproductions.engine.verdicts.statistics import Estimate
from reproductions.engine.verdicts.units import Units, units_of
from reproductions.engine.verdicts.words import VERDICTS

__all__ = ["PAPER_SCALE", "VERDICTS", "Decision", "ValueDecision", "decide", "decide_values"]

PAPER_SCALE = "paper"
MATCHED = "matched_"  # before a metric's name: each arm sampled at its own best temperature

Figures = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Decision:
    """A claim at a scale. The difference is the contrast's, turned so that + is what the paper claims.

    `interval` is at words.LEVEL and the one that decided, over the `seeds` of `look` (0: no look is complete yet);
    `next_look` is None where there is none left or none is needed. `p`: two-sided, of a difference equal to the claim's
    bound; for a claim of "within" of one as large as it, on either side of zero. `p_equal`: that it is as large as the
    smallest effect. `effect`: what size matters, in the metric's unit, and how it came about. `groups`: how many draws
    of the teacher or the task the seeds share, 0 where each seed stands for itself. `means`: each arm's own figure.
    `matched`: {verdict, difference, interval} of the same claim where each arm is sampled at its own best temperature.
    `equal_seconds`: {difference, interval, seconds, seeds}: two arms compared when the slower one is stopped at the
    seconds the faster one needed, from the learning curves, interval over seeds only; None where no run allows it.
    """

    claim: str
    scale: str
    verdict: str
    difference: float | None = None
    interval: tuple[float, float] | None = None
    standard_error: float | None = None
    degrees: float | None = None
    p: float | None = None
    p_equal: float | None = None
    seeds: int = 0
    look: int = 0
    next_look: int | None = None
    effect: float | None = None
    effect_from: str = ""
    groups: int = 0
    means: Mapping[str, float] = field(default_factory=dict)
    matched: Mapping[str, Any] | None = None
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


def decide(
    claims: ClaimSet, scale: str, results: Results | None, gate: Gate | None = None, *, cap: int | None = None
) -> list[Decision]:
    """Every claim at this scale, `not run` without results.

    `gate`: the record of the testbed's gate, None where there is none: claims then need one, but at scale `paper`.
    `cap`: how many seeds the scale declares, if more than `results` was asked for. Raises KDError where the runs of a
    claim cannot be compared.
    """
    return [_decide(claim, scale, results, gate, cap) for claim in claims.at(scale)]


def decide_values(claims: ClaimSet, scale: str, results: Results | None) -> list[ValueDecision]:
    """The paper's verified numbers beside ours: at scale `paper` only, an empty list elsewhere."""
    if scale != PAPER_SCALE:
        return []
    return [_decide_value(value, results) for value in claims.values if value.verified]


@dataclass(frozen=True)
class _Looked:
    """What a look at the first `seeds` seeds gave."""

    verdict: str
    estimate: Estimate
    seeds: int
    look: int
    next_look: int | None


def _decide(
    claim: Claim, scale: str, results: Results | None, gate: Gate | None, cap: int | None
) -> Decision:
    contrast, what = claim.contrast, f"claim {claim.id}"
    runs = _runs(claim, results, what)
    if results is None or runs is None:
        return Decision(claim.id, scale, words.NOT_RUN)
    metric = results.metric(claim.metric, runs, what)
    _check_measured(runs, claim.metric, what)
    within = contrast.relation == "within"
    effect = None if within else smallest_effect(claim, scale, gate.figures if gate is not None else {})
    instead = lacks(gate, scale, claim.needs)
    if not instead and not within and effect is None:
        instead = words.NEEDS_AN_EFFECT
    looks = words.looks(cap or len(results.seeds))
    seeds = [run.seed for run in next(iter(runs.values()))]
    units = units_of((results.arms[arm].spec for arm in runs), seeds)
    bound, size = contrast.bound, effect.size if effect else None

    def word(found: Estimate) -> str:
        return statistics.decide_at(found, bound=bound, smallest=size, within=within)

    def looked(metric: Metric) -> _Looked:
        return _look(_estimates(claim, runs, metric, units, what), word, looks, len(seeds), instead)

    found = looked(metric)
    matched, estimate = MATCHED + claim.metric, found.estimate
    has_matched = all(matched in run.metrics for chosen in runs.values() for run in chosen)
    chosen = {arm: of_arm[: found.seeds] for arm, of_arm in runs.items()}
    return Decision(
        claim=claim.id,
        scale=scale,
        verdict=found.verdict,
        difference=estimate.difference,
        interval=estimate.interval(),
        standard_error=estimate.standard_error,
        degrees=estimate.degrees,
        p=estimate.p_of_bound(bound) if within else estimate.p(bound),
        p_equal=estimate.p_outside(size, bound) if size else None,
        seeds=found.seeds,
        look=found.look,
        next_look=found.next_look,
        effect=size,
        effect_from=effect.how if effect else "",
        groups=units.first(found.seeds).shared,
        means={arm: _mean(of_arm, claim.metric) for arm, of_arm in chosen.items()},
        matched=_plain(looked(results.metric(matched, runs, what))) if has_matched else None,
        equal_seconds=None
        if within or contrast.pair is None
        else _equal_seconds(claim.metric, metric, *chosen.values()),
    )


def _runs(claim: Claim, results: Results | None, what: str) -> dict[str, list[RunResults]] | None:
    """Each arm's runs with the first seeds that all of the claim's arms have; None where there are none."""
    arms = list(claim.contrast.weights)
    found = {} if results is None else {arm: results.runs(arm) for arm in arms}
    if results is None or not all(found.values()):
        return None
    revisions = {results.arms[arm].data_revision for arm in arms}
    if len(revisions) > 1:
        raise KDError(f"{what}: its arms were measured on different data: {', '.join(sorted(revisions))}")
    seeds = list(takewhile(lambda seed: all(seed in runs for runs in found.values()), results.seeds))
    return {arm: [runs[seed] for seed in seeds] for arm, runs in found.items()} if seeds else None


def _estimates(
    claim: Claim,
    runs: Mapping[str, Sequence[RunResults]],
    metric: Metric,
    units: Units,
    what: str,
) -> Callable[[int], Estimate]:
    """The estimate over the first so many seeds."""
    arrays = [features(chosen, metric, what) for chosen in runs.values()]
    if len({array.shape for array in arrays}) != 1:
        raise KDError(f'{what}: its runs were not measured on the same examples ("{metric.title}")')

    def over(seeds: int) -> Estimate:
        return statistics.estimate(
            metric.kind,
            [array[:seeds] for array in arrays],
            list(claim.contrast.weights.values()),
            higher_is_better=metric.higher_is_better,
            against=claim.contrast.against,
            groups=units.groups[:seeds],
            own_examples=units.own_examples,
        )

    return over


def _look(
    estimate: Callable[[int], Estimate],
    word: Callable[[Estimate], str],
    looks: Sequence[int],
    there: int,
    instead: str,
) -> _Looked:
    """The first look that decides, else the last that is complete; before the first one whatever seeds are there.

    Where there is a reason why nothing may be decided, `instead`, the figures are those of all complete looks.
    """
    complete = [look for look in looks if look <= there]
    for look in complete[-1:] if instead else complete:
        found = estimate(look)
        verdict = instead or word(found)
        if verdict != words.OPEN or look == complete[-1]:
            ahead = [other for other in looks if other > look]
            return _Looked(verdict, found, look, look, ahead[0] if verdict == words.OPEN and ahead else None)
    return _Looked(instead or words.OPEN, estimate(there), there, 0, None if instead else looks[0])


def _plain(found: _Looked) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "difference": found.estimate.difference,
        "interval": found.estimate.interval(),
        "seeds": found.seeds,
    }


def _mean(runs: Sequence[RunResults], metric: str) -> float:
    return float(np.mean([run.metrics[metric] for run in runs]))


def _check_measured(chosen: Mapping[str, Sequence[RunResults]], metric: str, what: str) -> None:
    for arm, runs in chosen.items():
        for run in runs:
            if metric not in run.metrics:
                raise KDError(f'{what}: metric "{metric}" was not measured for arm {arm}, seed {run.seed}')


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
    found = statistics.over_seeds(differences)
    return {
        "difference": found.difference,
        "interval": found.interval(),
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
        return ValueDecision(value.id, value.value, value.tolerance, None, None, 0, words.NOT_RUN)
    what = f"value {value.id}"
    results.metric(value.metric, [value.arm], what)
    _check_measured({value.arm: list(runs.values())}, value.metric, what)
    found = statistics.over_seeds([run.metrics[value.metric] for run in runs.values()])
    interval = found.interval(words.DESCRIBED)
    low, high = value.value - value.tolerance, value.value + value.tolerance
    verdict = words.OPEN
    if interval is not None:
        if low <= found.difference <= high:
            verdict = words.REPRODUCED
        elif interval[1] < low or interval[0] > high:
            verdict = words.REVERSED
    return ValueDecision(
        value.id, value.value, value.tolerance, found.difference, interval, len(runs), verdict
    )
