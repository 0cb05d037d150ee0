"""How far a training is: step, loss, tokens a second, the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback

BETWEEN_EVENTS, BETWEEN_LINES = 0.25, 10.0  # seconds


class WatchCallback(TrainerCallback):
    """Reports (phase, step, steps in all, what is known) a few times a second at most.

    What is known: `loss` at its last look, `tokens_per_second` that all models together read or wrote since this
    process began, `seconds_left` at its pace so far.
    """

    def __init__(self, report: Callable[..., None], phase: str, trainer: Any) -> None:
        self._report, self._phase, self._trainer = report, phase, trainer
        self._last, self._begun, self._from, self._counted = 0.0, 0.0, 0, 0
        self.known: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._begun, self._from, self._counted = time.monotonic(), state.global_step, self._tokens()
        self._report(self._phase, state.global_step, state.max_steps, dict(self.known))

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if logs and "loss" in logs:
            self.known["loss"] = float(logs["loss"])
            took = max(time.monotonic() - self._begun, 1e-9)
            self.known["tokens_per_second"] = (self._tokens() - self._counted) / took

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.monotonic()
        if now - self._last >= BETWEEN_EVENTS or state.global_step >= state.max_steps:
            self._last = now
            pace = (now - self._begun) / max(1, state.global_step - self._from)
            self.known["seconds_left"] = pace * (state.max_steps - state.global_step)
            self._report(self._phase, state.global_step, state.max_steps, dict(self.known))

    def _tokens(self) -> int:
        return sum(getattr(self._trainer, "token_counts", {}).values())


class PlainLines:
    """Progress as lines of text, for a log file: one every ten seconds, and one at the end of a phase."""

    def __init__(self, write: Callable[[str], None], seconds: float = BETWEEN_LINES) -> None:
        self._write, self._seconds, self._said, self._phase = write, seconds, -seconds, ""

    def __call__(self, phase: str, step: int, total: int, known: Mapping[str, float] | None = None) -> None:
        now = time.monotonic()
        if phase == self._phase and step < total and now - self._said < self._seconds:
            return
        self._said, self._phase = now, phase
        text = f"{phase}: {step:,} of {total:,}" if total else phase
        self._write(f"{text}{told(known)}")


def told(known: Mapping[str, float] | None) -> str:
    """', loss 2.31, 1,240 tokens/s, about 3 min left' as far as it is known."""
    known = known or {}
    parts = [f"loss {known['loss']:.4g}"] if "loss" in known else []
    parts += [f"{known['tokens_per_second']:,.0f} tokens/s"] if known.get("tokens_per_second") else []
    parts += [f"about {duration(known['seconds_left'])} left"] if known.get("seconds_left") else []
    return "".join(f", {part}" for part in parts)


def duration(seconds: float) -> str:
    """'40 s', '12 min', '3.4 h'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
