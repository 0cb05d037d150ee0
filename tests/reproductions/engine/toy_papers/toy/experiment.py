"""A toy paper for the engine's tests: a student of 48 parameters learns a line, from labels or a cached teacher."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from reproductions.engine.experiment import Arm, Experiment, Scale

from reproductions.engine.metrics import Metric

WIDTH = 48
SECONDS_A_STEP = 0.0


def _model() -> Any:
    import torch
    from safetensors.torch import save_file

    class Line(torch.nn.Linear):
        def save_pretrained(self, folder: Path) -> None:
            save_file({"weight": self.weight.data}, str(folder / "model.safetensors"))

    return Line(WIDTH, 1, bias=False)


def _load(folder: Path) -> Any:
    from safetensors.torch import load_file

    model = _model()
    model.load_state_dict(load_file(str(folder / "model.safetensors")))
    return model


class ToyTestbed:
    name = shelf = "line"
    revision = "revision-1"
    metrics = {
        "error": Metric("mean", ("error",), False, "Error"),
        "accuracy": Metric("mean", ("correct",), True, "Accuracy"),
        "ece": Metric("ece", ("confidence", "correct"), False, "Calibration error"),
    }

    def __init__(self) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        self.truth = torch.randn(WIDTH, 1, generator=generator)
        self.inputs = torch.randn(120, WIDTH, generator=generator)

    def teacher(self, run: Any) -> Any:
        def build() -> Any:
            import torch

            model = _model()
            with torch.no_grad():
                model.weight.copy_(self.truth.T + 0.05 * torch.randn(1, WIDTH))
            return model

        return run.cached_model("teacher", {"width": WIDTH}, build, load=_load)

    def evaluate(
        self, model: Any, run: Any, *, split: str = "test", limit: int | None = None
    ) -> dict[str, list[float]]:
        import torch

        inputs = self.inputs[:limit]
        error = (model(inputs) - inputs @ self.truth).squeeze(1)
        noisy = error + 0.1 * torch.randn_like(error)  # sampling at evaluation: must not disturb training
        return {
            "error": error.abs().tolist(),
            "correct": (noisy.abs() < 1.5).float().tolist(),
            "confidence": torch.sigmoid(2 - error.abs()).tolist(),
        }


def _train(run: Any, noise: float, teacher: bool) -> Any:
    import torch

    student = _model()
    guide = run.testbed.teacher(run) if teacher else None
    steps = run.settings["steps"]
    with run.training_clock():
        for step in range(1, steps + 1):
            inputs = torch.randn(8, WIDTH)
            target = inputs @ run.testbed.truth + noise * torch.randn(8, 1)
            if guide is not None:
                target = guide(inputs).detach()
            loss = (student(inputs) - target).square().mean()
            # By hand: importing torch.optim costs every worker four seconds, a run here costs a tenth of one.
            (gradient,) = torch.autograd.grad(loss, [student.weight])
            student.weight.data -= run.settings["learning_rate"] * gradient
            run.ledger.add_tokens({"student": 8, "teacher": 8 if teacher else 0})
            run.report_step("student", step, steps)
            if step % (steps // 2) == 0:
                run.evaluate_for_curve(student, step)
            time.sleep(SECONDS_A_STEP)
    return student


def train_method(run: Any) -> Any:
    return _train(run, noise=0.0, teacher=True)


def train_baseline(run: Any) -> Any:
    return _train(run, noise=4.0, teacher=False)


def train_ablation(run: Any) -> Any:
    return _train(run, noise=1.0, teacher=False)


EXPERIMENT = Experiment(
    paper="toy",
    title="A toy",
    arms={
        "baseline": Arm("Noisy labels", train_baseline, "baseline"),
        "method": Arm("A teacher's targets", train_method, "method"),
        "method-no-teacher": Arm("Labels with less noise", train_ablation, "ablation"),
    },
    scales={
        "tiny": Scale("line", (0, 1, 2), {"steps": 40, "learning_rate": 0.02, "device": "cpu"}, minutes=0.1),
        "paper": Scale("line", (0, 1), {"steps": 80, "learning_rate": 0.02, "device": "cpu"}),
    },
    headline=("error", "accuracy", "ece"),
    testbeds={"line": ToyTestbed},
)
