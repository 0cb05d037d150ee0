"""A training that is asked to stop ends with the step under way, and saves it."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class LastStepCallback(TrainerCallback):
    """After `ask` the step that is under way is the last, and its checkpoint is written."""

    def __init__(self) -> None:
        self.asked = False

    def ask(self) -> None:
        """From a signal's handler."""
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.asked:
            control.should_save = control.should_training_stop = True
