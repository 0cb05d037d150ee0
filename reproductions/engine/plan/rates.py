"""Learning rates that a sweep found: read from its records, never copied into an experiment.

A sweep over several seeds is recorded by arm, so that papers share it: reproductions/tuning/<testbed>/<key of the arm
without its rate>.json: {"figures": {metric: {rate: {seed: figure on the validation split}}}}. The mean over the seeds
decides. Where an arm's best rate is the last of the grid, the grid grows by a factor of two for all arms of that paper
and scale, at most `widen` times. Rates whose means lie within `flat` of each other count as equally good: an edge that
is no better than that is none, and the grid does not grow for what is noise. With `floor: start` an arm that is
further below its own start at its best rate than `flat` is given lower rates, by a factor of four, whatever `widen`
says: what only breaks a student has not been tuned. A run that ends because the rate broke a model that its method
needs, such as a guide that is never right, is kept with what it said (`ended`, rate -> seed -> why) and counts as worse
than any figure. A sweep of one seed may be recorded by paper, as it was at first:
reproductions/tuning/<scale>/<paper>.json: {"tuning": {seed, learning_rates, metric, higher_is_better}, "figures": {arm:
{rate: figure}}}. Both are written by `kd tune`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json

ROOT = Path(__file__).resolve().parents[2] / "tuning"
STEP = 2.0  # by which a grid grows
DOWN = 4.0  # by which it goes down below a start
LEAST = 1e-9  # a rate that changes no student: below it no grid goes

Figures = Mapping[str, Mapping[str, float]]  # rate -> seed -> the metric


@dataclass(frozen=True)
class Tuning:
    """A declared sweep: the seeds, none of which is judged, the grid, the metric, how often the grid may grow."""

    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    metric: str
    widen: int
    by_arm: bool  # recorded by arm: `seeds`, not the one `seed` of the first sweeps
    flat: float = 0.0  # within so much of the metric two rates count as equally good
    cliff: float = 0.0  # a rate so much behind the best one ends the grid on its side; 0: none does
    floor: bool = False  # the grid goes down while an arm's best rate leaves it below its start


def tuning_of(scale: Any, testbed: Mapping[str, Any]) -> Tuning | None:
    """What a scale and its testbed declare; None where they declare no sweep. Raises KDError on what is no sweep."""
    told = {**testbed.get("defaults", {}).get("tuning", {}), **scale.settings.get("tuning", {})}
    if not told:
        return None
    own = scale.settings.get("tuning", {})
    several = "seeds" in own or ("seeds" in told and "seed" not in own)
    seeds = told.get("seeds") if several else [told.get("seed")]
    rates, metric = told.get("learning_rates"), told.get("metric")
    whole = isinstance(seeds, list) and seeds and all(type(seed) is int for seed in seeds)
    if not whole or not isinstance(rates, list) or not rates or not isinstance(metric, str):
        raise KDError(
            '"tuning" is {seeds: [100, 101, 102], learning_rates: [...], metric: ..., widen: 2} or has one "seed"'
        )
    points = {name: told.get(name, 0.0) for name in ("flat", "cliff")}
    for name, value in points.items():
        if not isinstance(value, int | float) or not value >= 0:
            raise KDError(
                f'"{name}" of "tuning" is a number of 0 or more, in the unit of {metric}, not {value!r}'
            )
    floor = told.get("floor")
    if floor not in (None, "start") or (floor and not several):
        raise KDError(f'"floor" of "tuning" is start, and its figures come of several "seeds"; not {floor!r}')
    grid = tuple(sorted(float(rate) for rate in rates))
    return Tuning(tuple(seeds), grid, metric, int(told.get("widen", 0)), several, **points, floor=bool(floor))  # type: ignore[arg-type]


def tuning_path(paper: str, scale: str, root: Path | None = None) -> Path:
    """Where the sweep of a paper at a scale is recorded, if it is recorded by paper."""
    return (root or ROOT) / scale / f"{paper}.json"


def arm_tuning_path(testbed: str, key: str, root: Path | None = None) -> Path:
    """Where the sweeps of an arm are recorded: `key` is that of its spec without a learning rate."""
    return (root or ROOT) / testbed / f"{key}.json"


def recorded_figures(testbed: str, key: str, metric: str, root: Path | None = None) -> tuple[Figures, bool]:
    """An arm's figures, rate -> seed -> metric, and whether more of it is better; {} where there are none.

    Of a run that ended so the figure is the worst there is, an infinite one.
    """
    path = arm_tuning_path(testbed, key, root)
    if not path.is_file():
        return {}, True
    record = _read(path, path.stat().st_mtime_ns)
    found = record.get("metrics", {}).get(metric, {})
    figures, higher = found.get("figures", {}), bool(found.get("higher_is_better", True))
    if "ended" not in found:
        return figures, higher
    worst = -math.inf if higher else math.inf
    ended = {rate: dict.fromkeys(seeds, worst) for rate, seeds in found["ended"].items()}
    rates = sorted({*figures, *ended}, key=float)
    return {rate: {**ended.get(rate, {}), **figures.get(rate, {})} for rate in rates}, higher


@dataclass(frozen=True)
class Sweep:
    """Where a sweep of some arms stands. `missing`: arm -> (rate, seed) still to be run before anything more is known.

    `best`: the best rate of each arm, where all of the grid is known; `edges`: arms whose best rate is the last of a
    grid that may grow no more. `starts`: the seeds of which a start's figure is still to be made, by arm.
    """

    grid: tuple[float, ...]
    missing: Mapping[str, tuple[tuple[float, int], ...]]
    best: Mapping[str, float]
    edges: tuple[str, ...]
    starts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def sweep_of(
    tuning: Tuning,
    figures: Mapping[str, Figures],
    higher_is_better: bool,
    starts: Mapping[str, Mapping[str, float]] | None = None,
) -> Sweep:
    """The grid as far as the figures let it grow, the same for all arms, and each arm's best rate in it.

    `starts`: of each arm that begins from a student that can be measured, its figure by seed; what a sweep with
    `floor: start` asks for. Figures outside of the grid count for nothing: another paper may have swept a shared arm
    more widely. Raises KDError for an arm of which no rate has a figure of every seed.
    """
    if tuning.floor and starts:
        unknown = {
            arm: tuple(seed for seed in tuning.seeds if str(seed) not in of_arm)
            for arm, of_arm in starts.items()
        }
        unknown = {arm: seeds for arm, seeds in unknown.items() if seeds}
        if unknown:
            return Sweep(tuning.learning_rates, {}, {}, (), unknown)
    grid, grown, sign = sorted(tuning.learning_rates), 0, 1 if higher_is_better else -1
    lower: dict[str, list[float]] = {}  # by arm, rates below the grid
    while True:
        tried = {
            arm: [*lower.get(arm, []), *_tried(tuning, grid, of_arm, sign)] for arm, of_arm in figures.items()
        }
        missing = {
            arm: tuple(
                (rate, seed)
                for rate in rates
                for seed in tuning.seeds
                if str(seed) not in figures[arm].get(rate_name(rate), {})
            )
            for arm, rates in tried.items()
        }
        missing = {arm: runs for arm, runs in missing.items() if runs}
        if missing:
            return Sweep(_all(grid, lower), missing, {}, ())
        means = {
            arm: {rate: _mean(figures[arm][rate_name(rate)], tuning.seeds) for rate in rates}
            for arm, rates in tried.items()
        }
        best = {
            arm: min(of_arm, key=lambda rate: (-sign * of_arm[rate], rate)) for arm, of_arm in means.items()
        }  # noqa: B023
        at_edge = [arm for arm in best if not _flat(means[arm], best[arm], grid, tuning.flat)]
        low = [arm for arm in at_edge if best[arm] == grid[0]]
        high = [arm for arm in at_edge if best[arm] == grid[-1]]
        if not (low or high) or grown == tuning.widen:
            below = [
                arm
                for arm, of_arm in (starts if tuning.floor and starts else {}).items()
                if sign * (means[arm][best[arm]] - _mean(of_arm, tuning.seeds)) < -tuning.flat
                and min(means[arm]) / DOWN >= LEAST
            ]
            if below:
                for arm in below:
                    lower[arm] = [_plain((lower.get(arm) or grid)[0] / DOWN), *lower.get(arm, [])]
                continue
            nowhere = [arm for arm in best if math.isinf(means[arm][best[arm]])]
            if nowhere:
                raise KDError(f"the sweep of {', '.join(nowhere)}: every rate broke a run")
            # Where every rate gives the same, as for a teacher that is measured as it is, none is an optimum.
            edges = [arm for arm in (*low, *high) if len(set(means[arm].values())) > 1]
            return Sweep(_all(grid, lower), {}, best, tuple(dict.fromkeys(edges)))
        grown += 1
        grid = [
            *([_plain(grid[0] / STEP)] if low else []),
            *grid,
            *([_plain(grid[-1] * STEP)] if high else []),
        ]


def _all(grid: Sequence[float], lower: Mapping[str, Sequence[float]]) -> tuple[float, ...]:
    return tuple(sorted({*grid, *(rate for rates in lower.values() for rate in rates)}))


def _tried(tuning: Tuning, grid: Sequence[float], figures: Figures, sign: int) -> list[float]:
    """The rates of a grid that an arm's sweep needs, as far as its figures say: all of them without a `cliff`.

    Rates of which a figure is missing are the outermost ones of their side.
    """
    if not tuning.cliff:
        return list(grid)

    def mean(rate: float) -> float | None:
        found = figures.get(rate_name(rate), {})
        return sign * _mean(found, tuning.seeds) if all(str(seed) in found for seed in tuning.seeds) else None

    low, high = (len(grid) - 1) // 2, len(grid) // 2
    while True:
        means = [mean(rate) for rate in grid[low : high + 1]]
        known = [value for value in means if value is not None]
        floor = max(known, default=0.0) - tuning.cliff
        before = low, high
        if low > 0 and means[0] is not None and means[0] >= floor:
            low -= 1
        if high < len(grid) - 1 and means[-1] is not None and means[-1] >= floor:
            high += 1
        if (low, high) == before:
            return list(grid[low : high + 1])


def _flat(means: Mapping[float, float], best: float, grid: Sequence[float], flat: float) -> bool:
    """Whether some rate inside the grid is as good as the best one, but for `flat`."""
    inner = [rate for rate in grid[1:-1] if rate in means]
    return flat > 0 and any(abs(means[rate] - means[best]) <= flat for rate in inner)


def best_rate(paper: str, scale: str, arm: str, root: Path | None = None) -> float:
    """The learning rate that was best for an arm in a sweep recorded by paper. Raises KDError where there is none."""
    path = tuning_path(paper, scale, root)
    if not path.is_file():
        raise KDError(f"{path}: no sweep of {paper} at scale {scale} is recorded; `kd tune {paper}` makes it")
    record = _read(path, path.stat().st_mtime_ns)
    figures = record["figures"].get(arm)
    if figures is None:
        raise KDError(f'{path}: no arm "{arm}"{nearest(arm, record["figures"])}; `kd tune {paper}` makes it')
    missing = [rate for rate in map(rate_name, record["tuning"]["learning_rates"]) if rate not in figures]
    if missing:
        raise KDError(f"{path}: arm {arm} lacks the rates {', '.join(missing)}; `kd tune {paper}` makes them")
    return best_rates({arm: figures}, record["tuning"].get("higher_is_better", True))[arm]


def best_rates(figures: Mapping[str, Mapping[str, float]], higher_is_better: bool) -> dict[str, float]:
    """Each arm's best learning rate; the smallest of equally good ones."""
    sign = 1 if higher_is_better else -1
    return {
        arm: min((float(rate) for rate in rates), key=lambda rate: (-sign * rates[rate_name(rate)], rate))
        for arm, rates in figures.items()
    }


def rate_name(rate: float) -> str:
    """A learning rate as the key of a JSON object."""
    return f"{rate:g}"


def _mean(by_seed: Mapping[str, float], seeds: Sequence[int]) -> float:
    return sum(by_seed[str(seed)] for seed in seeds) / len(seeds)


def _plain(rate: float) -> float:
    """Without the last bits that doubling leaves: the name of a rate is its value."""
    return float(rate_name(rate))


@lru_cache(maxsize=1024)
def _read(path: Path, changed: int) -> dict[str, Any]:
    return read_json(path)
