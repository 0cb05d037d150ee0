"""Metrics as functionals of per-example columns, so that an interval can say what each example contributes.

Every kind is a smooth function of *means of per-example features* (nearly everywhere): its gradient there times an
example's features is, to first order, what that example adds to the figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from catalog.reader import nearest
from reproductions.engine.errors import KDError

Array = npt.NDArray[np.float64]
ECE_BINS = 10


@dataclass(frozen=True)
class Kind:
    """`features`: (columns, examples) -> (examples, F); `finish`: their means (..., F) -> metric (...).

    `gradient`: means (..., F) -> derivatives of the metric by them (..., F); zero where `finish` is a constant.
    """

    columns: int
    features: Callable[[Array], Array]
    finish: Callable[[Array], Array]
    gradient: Callable[[Array], Array]


@dataclass(frozen=True)
class Metric:
    """A metric of a testbed: its kind, the columns of `evaluate` it reads, and how to show it."""

    kind: str
    columns: tuple[str, ...]
    higher_is_better: bool
    title: str
    unit: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise KDError(
                f'unknown metric kind "{self.kind}"{nearest(self.kind, KINDS)}; kinds are {", ".join(KINDS)}'
            )
        if len(self.columns) != KINDS[self.kind].columns:
            raise KDError(
                f'metric kind "{self.kind}" reads {KINDS[self.kind].columns} column(s), '
                f"not {len(self.columns)}"
            )

    def as_dict(self) -> dict[str, object]:
        """Plain JSON data."""
        return {
            "kind": self.kind,
            "columns": list(self.columns),
            "higher_is_better": self.higher_is_better,
            "title": self.title,
            "unit": self.unit,
        }


def features(metric: Metric, columns: Mapping[str, Sequence[float] | Array]) -> Array:
    """Per-example features, shape (examples, F), float64. Raises KDError on missing or unequal columns."""
    missing = [name for name in metric.columns if name not in columns]
    if missing:
        raise KDError(f'metric "{metric.title}" needs column "{missing[0]}"{nearest(missing[0], columns)}')
    arrays = [np.asarray(columns[name], dtype=np.float64) for name in metric.columns]
    if any(array.ndim != 1 or len(array) != len(arrays[0]) for array in arrays) or not len(arrays[0]):
        raise KDError(f'metric "{metric.title}": its columns must be equally long and not empty')
    if not all(np.isfinite(array).all() for array in arrays):
        raise KDError(f'metric "{metric.title}": a column holds a value that is not a finite number')
    return KINDS[metric.kind].features(np.stack(arrays))


def value(metric: Metric, columns: Mapping[str, Sequence[float] | Array]) -> float:
    """The metric on all examples."""
    return float(KINDS[metric.kind].finish(features(metric, columns).mean(axis=0)))


def values(metrics: Mapping[str, Metric], columns: Mapping[str, Sequence[float] | Array]) -> dict[str, float]:
    """Every metric on all examples."""
    return {name: value(metric, columns) for name, metric in metrics.items()}


def _mean_features(columns: Array) -> Array:
    return columns.T


def _mean_finish(means: Array) -> Array:
    return means[..., 0]


def _ece_features(columns: Array) -> Array:
    """(confidence - correct) of each example, in the column of its confidence bin (i/10, (i+1)/10]."""
    confidence, correct = columns
    bins = np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    table = np.zeros((confidence.size, ECE_BINS))
    table[np.arange(confidence.size), bins] = confidence - correct
    return table


def _ece_finish(means: Array) -> Array:
    return np.abs(means).sum(axis=-1)


def _ece_gradient(means: Array) -> Array:
    return np.sign(means)


def _ratio_finish(means: Array) -> Array:
    """sum a / sum b; zero where b is all zero."""
    a, b = means[..., 0], means[..., 1]
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def _ratio_gradient(means: Array) -> Array:
    """d(a/b) = da / b - a db / b^2 (the delta method)."""
    a, b = means[..., 0], means[..., 1]
    by_a = np.divide(1.0, b, out=np.zeros_like(b), where=b != 0)
    return np.stack([by_a, -a * by_a * by_a], axis=-1)


def _excess_ratio_finish(means: Array) -> Array:
    """100 * (sum a - sum b) / sum b; zero excess where b is all zero."""
    a, b = means[..., 0], means[..., 1]
    return 100.0 * np.divide(a - b, b, out=np.zeros_like(a), where=b != 0)


def _excess_ratio_gradient(means: Array) -> Array:
    return 100.0 * _ratio_gradient(means)


# mean: of one column.
# ece: expected calibration error of (confidence, correct), ten bins (Guo et al., arXiv 1706.04599, eq. 3).
# ratio: sum a / sum b, e.g. accepted of proposed tokens.
# excess_ratio: 100 (sum a - sum b) / sum b, the ExAccErr of MiniLLM (arXiv 2306.08543, section 3.3).
KINDS: dict[str, Kind] = {
    "mean": Kind(1, _mean_features, _mean_finish, np.ones_like),
    "ece": Kind(2, _ece_features, _ece_finish, _ece_gradient),
    "ratio": Kind(2, _mean_features, _ratio_finish, _ratio_gradient),
    "excess_ratio": Kind(2, _mean_features, _excess_ratio_finish, _excess_ratio_gradient),
}
