"""Results of arms that no training made."""

from __future__ import annotations

import numpy as np

from reproductions.engine.metrics import Metric, values
from reproductions.engine.store.arm import ArmResults, RunResults, run_digest

METRICS = {
    "error": Metric("mean", ("error",), higher_is_better=False, title="error", unit=""),
    "accuracy": Metric("mean", ("correct",), higher_is_better=True, title="accuracy", unit="%"),
    "ece": Metric("ece", ("sure", "correct"), higher_is_better=False, title="calibration"),
}
MADE_WITH = {
    "data_revision": "revision-1",
    "python": "3.11",
    "torch": "2.13.0",
    "cpu": "some, family 1, model 2",
    "fingerprints": {"divergence/forward-kl": "ab12"},
}


def made_run(seed, errors, *, curve=(), metrics=METRICS, train=2.0, **more):
    """A run with these per-example errors; every answer is right where the error is below 1."""
    error = np.asarray(errors, dtype=np.float64)
    columns = {"error": error, "correct": 100.0 * (error < 1), "sure": np.full(len(error), 0.3)}
    used = {column for metric in metrics.values() for column in metric.columns}
    columns = {name: column for name, column in columns.items() if name in used}
    figures = {
        "metrics": values(metrics, columns),
        "curve": list(curve),
        "seconds": {"train": train, "train_cpu": train, "evaluate": 0.5, "total": 3.0},
        "tokens": {"student": 10, "teacher": 0, "generated": 0},
        "rollouts": {"completions": 0, "truncated": 0, "empty": 0},
    }
    digest = run_digest(seed, columns=columns, **figures)
    return RunResults(
        seed=seed,
        columns=columns,
        digest=digest,
        definitions=metrics,
        **{"made_with": MADE_WITH, **more},
        **figures,
    )


def made_arm(rows, *, key="0123456789abcdef", metrics=METRICS, testbed="line", curve=(), **more):
    """An arm whose seeds have these per-example errors: (seeds, examples), or seed -> row."""
    rows = rows if isinstance(rows, dict) else dict(enumerate(rows))
    runs = {seed: made_run(seed, row, metrics=metrics, curve=curve) for seed, row in rows.items()}
    return ArmResults(key, {"recipe": key}, testbed, "revision-1", metrics, runs, **more)


def levels(*means):
    """Rows of 20 examples around these means, one row a seed; the examples differ, the seeds little."""
    return [
        [mean + 0.01 * (place % 5) + 0.003 * seed for place in range(20)] for seed, mean in enumerate(means)
    ]
