"""Making one run: train the arm, measure the student, give the record."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from typing import Any

from reproductions.engine import metrics as metric_functions
from reproductions.engine.errors import KDError
from reproductions.engine.work.run import Run
from reproductions.engine.work.seeding import seed_everything


def execute(run: Run, keep: Callable[[Any, str], object] | None = None) -> dict[str, Any]:
    """Trains the arm, evaluates on the test split and returns the run's record for the results store.

    The figures depend on the spec and the seed only: not on the worker or on what it ran before. `keep` is called with
    the trained student before anything is measured on it.
    """
    from reproductions.engine.work.surroundings import train

    started, making = time.perf_counter(), run.shared.seconds
    try:
        seed_everything(run.seed)
        model = train(run)
        if model is None:
            raise KDError(f'arm "{run.arm}" made no student; its trainer must give the trained model')
        student = weights_digest(model)
        if keep is not None and student is not None:
            keep(model, student)
        run.report_step("evaluation", 0, 0)
        examples = run.measure.examples(model)
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    return _record(run, examples, student, started, making)


def measure(run: Run, model: Any) -> dict[str, Any]:
    """What `run.wanted` gives of a student that was trained before; the record of `execute`, with no training in it."""
    started, making = time.perf_counter(), run.shared.seconds
    try:
        model = model.to(run.device)
        run.report_step("evaluation", 0, 0)
        examples = run.measure.examples(model)
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    return _record(run, examples, weights_digest(model), started, making)


def weights_digest(model: Any) -> str | None:
    """The SHA-256, in hex, over a student's weights: names, kinds, shapes, bytes. None for what has none."""
    import torch

    if not isinstance(model, torch.nn.Module):
        return None
    hashed = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            plain = tensor.detach().cpu().contiguous()
            hashed.update(f"{name} {plain.dtype} {list(plain.shape)}\0".encode())
            hashed.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    return hashed.hexdigest()


def _record(
    run: Run, examples: dict[str, Any], student: str | None, started: float, making: float
) -> dict[str, Any]:
    budget = run.budget
    return {
        "seed": run.seed,
        # From the rounded columns: whoever recomputes a metric from the file gets this very number.
        "metrics": metric_functions.values(run.metrics, examples),
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
        "student": student,
    }
