"""Making one run: train the arm, measure the student, give the record."""

from __future__ import annotations

import shutil
import time
from typing import Any

from reproductions.engine import metrics as metric_functions
from reproductions.engine.errors import KDError
from reproductions.engine.work.run import Run
from reproductions.engine.work.seeding import seed_everything


def execute(run: Run) -> dict[str, Any]:
    """Trains the arm, evaluates on the test split and returns the run's record for the results store.

    The figures depend on the spec and the seed only: not on the worker or on what it ran before.
    """
    from reproductions.engine.work.surroundings import train

    started, making = time.perf_counter(), run.shared.seconds
    try:
        seed_everything(run.seed)
        model = train(run)
        if model is None:
            raise KDError(f'arm "{run.arm}" made no student; its trainer must give the trained model')
        run.report_step("evaluation", 0, 0)
        examples = run.measure.examples(model)
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    budget = run.budget
    return {
        "seed": run.seed,
        # From the rounded columns: whoever recomputes a metric from the file gets this very number.
        "metrics": metric_functions.values(run.testbed.metrics, examples),
        "examples": examples,
        "curve": run.measure.curve,
        "seconds": {
            "train": round(budget.train_seconds, 3),
            "train_cpu": round(budget.train_cpu_seconds, 3),
            "evaluate": round(budget.evaluate_seconds, 3),
            "total": round(run.ahead + time.perf_counter() - started - (run.shared.seconds - making), 3),
        },
        "tokens": budget.tokens(),
        "rollouts": budget.rollouts(),
        "shared": run.shared.used,
    }
