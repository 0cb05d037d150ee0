"""What measurements do in the middle of a training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback


class AtStep(TrainerCallback):
    """Calls `act` with the model after the share `fraction` of the steps."""

    def __init__(self, fraction: float, act: Callable[[Any], None]) -> None:
        self.fraction, self.act = fraction, act

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == max(1, round(self.fraction * state.max_steps)):
            self.act(kwargs["model"])
