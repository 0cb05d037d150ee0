"""The loss of a training: what it was at the start and at the end, and a stop where it is a number no more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from methods.errors import MethodError

LOGS, PARTS = 100, 10  # the loss is read so often at most; start and end are a tenth of the steps each


class Diverged(MethodError):
    """A loss, a gradient or weights that are no numbers any more."""


def logging_steps(steps: int) -> int:
    """How many steps lie between two looks at the loss, each of which waits for the device."""
    return math.ceil(steps / LOGS)


class LossCallback(TrainerCallback):
    """Looks at the loss at every log and before every save; there is no checkpoint at the last step.

    A training that went on from one there would make a step too many: the student itself is saved next.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        last = state.global_step >= state.max_steps
        control.should_log |= control.should_save or last
        control.should_save &= not last

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        logs = logs or {}
        for name, what in (("loss", "loss"), ("grad_norm", "gradient")):
            if not math.isfinite(logs.get(name, 0.0)):
                before = [log["step"] for log in state.log_history if "loss" in log]
                begin = max((step for step in before if step < state.global_step), default=0) + 1
                raise Diverged(_sentence(f"{what} is {logs[name]}", begin, state.global_step, args))
        if "loss" in logs and (control.should_save or state.global_step >= state.max_steps):
            check_weights(model, state.global_step, args)


def check_weights(model: Any, step: int, args: Any) -> None:
    """Raises Diverged where a weight that is trained is no finite number: a last step may do that after its loss."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and not bool(torch.isfinite(parameter).all()):
            raise Diverged(_sentence(f"weight {name} is not finite", step, step, args))


def _sentence(what: str, begin: int, end: int, args: Any) -> str:
    steps = f"step {end}" if begin >= end else f"steps {begin} to {end}"
    advice = "" if not args.bf16 else ", or take precision: fp32"
    return (
        f"the {what} at {steps}, so there is no student to save; lower the learning_rate "
        f"({args.learning_rate:g}), raise warmup_steps{advice}"
    )


def start_and_end(history: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any] | None:
    """Mean loss over the first and over the last tenth of the steps, as far as it was read at their borders."""
    logs = [(log["step"], log["loss"]) for log in history if "loss" in log]
    if not logs:
        return None
    begins = [0, *(step for step, _ in logs)]
    parts = [(begin, end, loss) for begin, (end, loss) in zip(begins, logs, strict=False)]
    share = max(1, steps // PARTS)
    first = [part for part in parts if part[1] <= share] or parts[:1]
    last = [part for part in parts if part[0] >= steps - share] or parts[-1:]
    return {"start": _mean(first), "end": _mean(last), "steps": [first[-1][1], last[0][0] + 1]}


def _mean(parts: Sequence[tuple[int, int, float]]) -> float:
    total = sum((end - begin) * loss for begin, end, loss in parts)
    return float(f"{total / sum(end - begin for begin, end, _ in parts):.6g}")
