"""What a measurement is, and how a testbed's metrics follow from those that it names; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from reproductions.engine.metrics import Metric
from reproductions.parts import Parts

if TYPE_CHECKING:
    from reproductions.metrics.decoding.evaluation import Evaluation
    from reproductions.tasks.base import Task

MEASUREMENTS = Parts("measurement", "reproductions.metrics")
measurement = MEASUREMENTS.register

Columns = dict[str, tuple[np.ndarray, int]]  # figures of every example (N,), and the digits that are kept


class Measurement(Protocol):
    """Settings are the parameters of `__init__`; `teachers` names the testbed's teachers that it asks.

    One with `on_curves(task)` names the metrics that are cheap enough for a learning curve; else all are.
    """

    @property
    def teachers(self) -> tuple[str, ...]: ...
    def metrics(self, task: type[Task]) -> dict[str, Metric]: ...
    def columns(self, evaluation: Evaluation) -> Columns: ...


def make_measurements(tree: Mapping[str, Any]) -> list[Measurement]:
    """The measurements of a testbed's `metrics:`, in order."""
    return [MEASUREMENTS.find(name)(**(settings or {})) for name, settings in tree.items()]


def metrics_of(measurements: list[Measurement], task: type[Task]) -> dict[str, Metric]:
    """All their metrics, in order."""
    return {name: metric for one in measurements for name, metric in one.metrics(task).items()}


def rounded(columns: Columns) -> dict[str, list[float]]:
    """Plain lists from (figures, digits): what a result file keeps, so that metrics of both agree."""
    return {name: np.round(np.asarray(v, float), digits).tolist() for name, (v, digits) in columns.items()}
