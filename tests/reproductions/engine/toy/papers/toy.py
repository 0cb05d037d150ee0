"""What the toy paper has of its own: a line to learn, how far a student is from it, and gradient descent by hand.

A run takes a tenth of a second, and a worker needs torch alone. Two environment variables, which change no figure, let
a test slow it down (TOY_SECONDS_A_STEP) and make runs fail (TOY_FAULTS="raise baseline 1;kill ablation 2").
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from methods.registry import component
from reproductions.engine.metrics import Metric
from reproductions.metrics.base import measurement
from reproductions.tasks.base import Limits, Task, task

WIDTH = 48
REVISION = "revision-1"


class Points:
    """Rows by their numbers, as far as anybody asks."""

    column_names = ("prompt", "completion")

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, column: str) -> list[str]:
        return [str(place) for place in range(self.count)]


@task("toy-line")
class Line(Task):
    """The weights to be found, and points to try them on."""

    def __init__(self, *, points: int = 120) -> None:
        rows = {name: lambda: Points(points) for name in ("train", "validation", "test")}
        super().__init__(
            shelf="line",
            limits=Limits(1, 1),
            rows=rows,
            revision=lambda: REVISION,
            tokenizer=SimpleNamespace(eos_token_id=0),
        )


@measurement("toy-errors")
class Errors:
    """Sampled: what is drawn for it must not disturb training."""

    teachers = ()

    def __init__(self, spread: float = 0.1) -> None:
        self.spread = spread

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        return {
            "error": Metric("mean", ("error",), False, "Error"),
            "accuracy": Metric("mean", ("correct",), True, "Accuracy", "%"),
            "ece": Metric("ece", ("sure", "correct"), False, "Calibration error"),
        }

    def columns(self, evaluation: Any) -> dict[str, Any]:
        import torch

        inputs, truth = points(), line()
        error = (evaluation.model(inputs) - inputs @ truth).squeeze(1)[: len(evaluation.prompts)]
        noisy = error + self.spread * torch.randn_like(error)
        return {
            "error": (error.abs().numpy(), 6),
            "correct": ((noisy.abs() < 1.5).float().numpy(), 0),
            "sure": (torch.sigmoid(2 - error.abs()).numpy(), 6),
        }


@measurement("toy-size")
class Size:
    """What no claim and no headline asks for."""

    teachers = ()

    def __init__(self, twice: bool = False) -> None:
        self.factor = 2.0 if twice else 1.0

    def metrics(self, task: type[Task]) -> dict[str, Metric]:
        return {"size": Metric("mean", ("answer",), True, "Size of an answer")}

    def columns(self, evaluation: Any) -> dict[str, Any]:
        answers = self.factor * evaluation.model(points()).squeeze(1)[: len(evaluation.prompts)]
        return {"answer": (answers.abs().numpy(), 6)}


def line() -> Any:
    """The truth."""
    import torch

    return torch.randn(WIDTH, 1, generator=torch.Generator().manual_seed(0))


def points() -> Any:
    """Where it is measured."""
    import torch

    return torch.randn(120, WIDTH, generator=torch.Generator().manual_seed(1))


def untrained() -> Any:
    """A student that can be kept."""
    import torch
    from safetensors.torch import save_file

    class Student(torch.nn.Linear):
        def save_pretrained(self, folder: Path) -> None:
            save_file({"weight": self.weight.data}, str(folder / "model.safetensors"))

    return Student(WIDTH, 1, bias=False)


def read(folder: Path) -> Any:
    """A kept one."""
    from safetensors.torch import load_file

    model = untrained()
    model.load_state_dict(load_file(str(folder / "model.safetensors")))
    return model


def teacher(apart: Any) -> Any:
    """Nearly the truth; drawn, so that whoever makes it must draw the same."""
    import torch

    model = untrained()
    for _ in range(10):
        time.sleep(float(os.environ.get("TOY_SECONDS_A_STEP", 0)))
    with torch.no_grad():
        model.weight.copy_(line().T + 0.05 * torch.randn(1, WIDTH))
    return model


@component("trainer", "toy-fit")
class Fit:
    """Gradient descent by hand: importing torch.optim takes a worker longer than all runs here."""

    def __init__(self, surroundings: Any, method: Any, noise: float = 0.0, guided: bool = False) -> None:
        import torch

        self.guide = surroundings.keep_module("teacher", {"width": WIDTH}, teacher, read) if guided else None
        self.model, self.noise = untrained(), noise
        self.steps, self.rate = surroundings.training["steps"], surroundings.training["learning_rate"]
        self.seed, self.truth = surroundings.seed, line()
        self.token_counts = {"student": 0, "teacher": 0}
        self.draw = torch.randn

    def train(self) -> None:
        import torch

        fail(self.guide is not None, self.noise, self.seed)
        for _ in range(self.steps):
            inputs = self.draw(8, WIDTH)
            target = inputs @ self.truth + self.noise * self.draw(8, 1)
            if self.guide is not None:
                target = self.guide(inputs).detach()
                self.token_counts["teacher"] += 8
            loss = (self.model(inputs) - target).square().mean()
            (gradient,) = torch.autograd.grad(loss, [self.model.weight])
            self.model.weight.data -= self.rate * gradient
            self.token_counts["student"] += 8
            time.sleep(float(os.environ.get("TOY_SECONDS_A_STEP", 0)))


def fail(guided: bool, noise: float, seed: int) -> None:
    """As TOY_FAULTS says."""
    mine = f"{'method' if guided else 'baseline' if noise > 1 else 'ablation'} {seed}"
    for fault in filter(None, os.environ.get("TOY_FAULTS", "").split(";")):
        what, _, where = fault.partition(" ")
        if where == mine and what == "raise":
            raise RuntimeError("no such luck")
        if where == mine:
            os.kill(os.getpid(), signal.SIGKILL)
