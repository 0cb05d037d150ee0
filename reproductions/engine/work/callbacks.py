"""What the engine hangs on a Trainer: progress, a clock, and a learning curve that leaves training as it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from reproductions.engine.files import read_json, write_atomic

if TYPE_CHECKING:
    from reproductions.engine.work.measure import Measure

_SECONDS_BETWEEN_EVENTS = 0.25


class ProgressCallback(TrainerCallback):
    """Reports (phase, step, steps in all), a few times a second at most."""

    def __init__(self, report: Callable[[str, int, int], None], phase: str) -> None:
        self._report, self._phase, self._last = report, phase, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._report(self._phase, state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._last >= _SECONDS_BETWEEN_EVENTS or state.global_step >= state.max_steps:
            self._last = now
            self._report(self._phase, state.global_step, state.max_steps)


class ClockCallback(TrainerCallback):
    """Seconds of training, those of an interrupted one up to its last checkpoint among them; `file` keeps them."""

    def __init__(self, file: Path) -> None:
        self._file, self._before = file, read_json(file)["seconds"] if file.is_file() else 0.0
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Until now."""
        return self._before + time.perf_counter() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        write_atomic(self._file, json.dumps({"seconds": self.seconds}))


class CurveCallback(TrainerCallback):
    """Evaluates at the start and at equally spaced steps including the last, off the training clock."""

    def __init__(self, measure: Measure, trainer: Any, points: int) -> None:
        self._measure, self._trainer, self._points = measure, trainer, points
        self._first_step = measure.curve[-1]["step"] if measure.curve else 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._measure.curve:
            self._evaluate(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = {max(1, round(state.max_steps * point / self._points)) for point in range(1, self._points + 1)}
        if state.global_step in due:
            self._evaluate(state.global_step)

    def _evaluate(self, step: int) -> None:
        model = self._trainer.accelerator.unwrap_model(self._trainer.model)
        self._measure.point(model, self._first_step + step)
