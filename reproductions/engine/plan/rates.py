"""Learning rates that a sweep found: read from its record, never copied into an experiment.

reproductions/tuning/<scale>/<paper>.json: {"tuning": {seed, learning_rates, metric, higher_is_better}, "figures": {arm:
{rate: metric on the validation split}}}, written by `kd tune`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json

ROOT = Path(__file__).resolve().parents[2] / "tuning"


def tuning_path(paper: str, scale: str, root: Path | None = None) -> Path:
    """Where the sweep of a paper at a scale is recorded."""
    return (root or ROOT) / scale / f"{paper}.json"


def best_rate(paper: str, scale: str, arm: str, root: Path | None = None) -> float:
    """The learning rate that was best for an arm. Raises KDError where no sweep is recorded, or not all of it."""
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


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> dict[str, Any]:
    return read_json(path)
