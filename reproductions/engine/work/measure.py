"""Measuring a student without disturbing it: per-example columns, metrics, learning curves."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from reproductions.engine import metrics as metric_functions
from reproductions.engine.files import significant
from reproductions.engine.metrics import Metric
from reproductions.engine.work.seeding import preserved_random_state, seed_everything

if TYPE_CHECKING:
    from reproductions.engine.work.run import Run

EXAMPLE_DIGITS = 5
#: The learning curve of an experiment that says nothing of it.
CURVE = {"points": 4, "examples": 200}


class Measure:
    """Evaluates on the testbed of a run; what is drawn for it, training goes on as if it had not been."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.curve: list[dict[str, Any]] = []

    def point(self, model: Any, step: int) -> None:
        """Adds a point to the learning curve; its seconds are not training seconds."""
        with self._run.clock.aside() as seconds:
            limit = int(self._run.spec.get("curve", CURVE).get("examples", CURVE["examples"]))
            metrics_here = self.curve_metrics()
            columns = self._timed(model, limit, list(metrics_here))
            values = metric_functions.values(metrics_here, columns)
            metrics = {name: significant(value, EXAMPLE_DIGITS) for name, value in values.items()}
            self.curve.append({"step": step, "train_seconds": round(seconds, 3), "metrics": metrics})

    def curve_metrics(self) -> dict[str, Metric]:
        """The metrics of a learning curve: the wanted ones that ask no teacher and nothing of the training."""
        cheap = getattr(self._run.testbed, "cheap", None)
        return {name: one for name, one in self._run.metrics.items() if cheap is None or name in cheap}

    def examples(self, model: Any, wanted: Collection[str] | None = None) -> dict[str, list[float | int]]:
        """The columns that a results file keeps: all test examples, or the first `test_examples` of the spec.

        `wanted`: the metrics to measure, where not the run's.
        """
        known = self._run.metrics if wanted is None else self._run.testbed.metrics
        chosen = {name: known[name] for name in known if wanted is None or name in wanted}
        columns = self._timed(model, self._run.spec.get("test_examples"), list(chosen))
        needed = {column for metric in chosen.values() for column in metric.columns}
        return {name: [_compact(n) for n in columns[name]] for name in sorted(needed) if name in columns}

    def _timed(self, model: Any, limit: int | None, wanted: Collection[str]) -> dict[str, list[float]]:
        """Columns; the seconds count as evaluation, without those of a teacher that was made on the way."""
        run = self._run
        wall, making = time.perf_counter(), run.shared.seconds
        found = self.columns(model, limit, wanted=wanted)
        run.budget.evaluate_seconds += time.perf_counter() - wall - (run.shared.seconds - making)
        return found

    def columns(
        self,
        model: Any,
        limit: int | None = None,
        *,
        split: str = "test",
        wanted: Collection[str] | None = None,
    ) -> dict[str, list[float]]:
        """`testbed.evaluate` with random numbers of its own and the modes of every module put back."""
        import torch

        modes = [(module, module.training) for module in model.modules()] if hasattr(model, "modules") else []
        try:
            with preserved_random_state(), torch.no_grad():
                seed_everything(self._run.seed)
                if hasattr(model, "eval"):
                    model.eval()
                more = {} if (reader := self._reader()) is None else {"reader": reader}
                return self._run.testbed.evaluate(
                    model, self._run, split=split, limit=limit, wanted=wanted, **more
                )
        finally:
            for module, training in modes:
                module.training = training

    def _reader(self) -> str | None:
        """The teacher's name where the arm is a teacher that is asked in words: it has tokens of its own."""
        method = self._run.spec.get("method", {})
        if method.get("trainer", {}).get("name") != "teacher-alone":
            return None
        name = method["teachers"][0]
        models = getattr(self._run.testbed, "models", None)
        return name if models is not None and models.prompted(name) is not None else None


def _compact(number: float) -> float | int:
    """Five significant digits; whole numbers without ".0": most columns are zeros and ones."""
    rounded = significant(float(number), EXAMPLE_DIGITS)
    return int(rounded) if rounded.is_integer() else rounded
