"""One (arm, seed): the surroundings in which a method trains a student, and what is recorded of it."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.engine.work.artifacts import Artifacts
from reproductions.engine.work.budget import Budget
from reproductions.engine.work.clock import Clock
from reproductions.engine.work.measure import CURVE, Measure
from reproductions.engine.work.shared import Shared

if TYPE_CHECKING:
    import torch
    import transformers

    from reproductions.testbeds import Testbed

Events = Callable[[dict[str, Any]], None]
PRECISIONS = ("fp32", "bf16-autocast")


class Run:
    """What everybody who works on a run is handed: its spec and seed, and four things that keep what becomes of it.

    `budget` counts tokens and seconds, `clock` tells training from the rest, `shared` makes and finds what runs have in
    common, `measure` evaluates. `settings` is the spec: training, sft_start, precision, curve and so on. `wanted`: the
    metrics that are measured, all of the testbed's where nobody says.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        seed: int,
        *,
        testbed: Testbed,
        device: torch.device,
        artifacts: Artifacts,
        arm: str = "",
        scratch: Path | None = None,
        events: Events | None = None,
        building: bool = False,
        drawn_for: int | None = None,
        wanted: Collection[str] | None = None,
    ) -> None:
        self.spec, self.seed, self.arm = spec, seed, arm
        self.wanted = None if wanted is None else tuple(wanted)
        # Whose draw of a teacher is asked: the run's own seed, also while something is made for it with another one.
        self.drawn_for = seed if drawn_for is None else drawn_for
        self.testbed, self.device = testbed, device
        self.scratch = scratch if scratch is not None else Path(tempfile.mkdtemp(prefix="kd-atlas-"))
        self.building = building
        self._events, self.artifacts = events, artifacts
        self.begin_again()

    def begin_again(self) -> None:
        """Nothing is trained, counted or measured."""
        self.budget = Budget()
        self.clock = Clock(self.device, self.budget)
        self.shared = Shared(self.artifacts, self)
        self.measure = Measure(self)
        self.sides: dict[str, Any] = {}  # teachers with what they answer in this run, kept by the testbed
        # Where others of its arm were trained with it: the student, the seconds until it was there, how many they were.
        self.trained: Any = None
        self.ahead, self.cohort = 0.0, 1

    @property
    def settings(self) -> Mapping[str, Any]:
        """The spec, under the name that testbeds read it by."""
        return self.spec

    @property
    def metrics(self) -> dict[str, Metric]:
        """The metrics that are measured, by name, in the testbed's order."""
        known = self.testbed.metrics
        return {name: known[name] for name in known if self.wanted is None or name in self.wanted}

    def apart(self, seed: int) -> Run:
        """A run for making something shared: a seed, budget and clock of its own, no curve, nothing of the arm's."""
        spec = {name: value for name, value in self.spec.items() if name not in ("training", "method")}
        return Run(
            spec,
            seed,
            testbed=self.testbed,
            device=self.device,
            artifacts=self.artifacts,
            arm=self.arm,
            scratch=self.scratch,
            events=self._events,
            building=True,
            drawn_for=self.drawn_for,
        )

    def train(self, trainer: transformers.Trainer, *, phase: str = "student") -> Any:
        """Trains and returns the bare model; adds progress, curve, seconds, tokens and rollout counts.

        The curve has the start and so many equally spaced steps, on the first test examples (`curve` of the spec). Its
        seconds are not training seconds. A paper's own trainer that takes no callbacks has neither progress nor curve.
        """
        if hasattr(trainer, "add_callback"):
            for callback in self.callbacks(trainer, phase):
                trainer.add_callback(callback)
        with self.clock.training():
            trainer.train()
        self.budget.add_tokens(getattr(trainer, "token_counts", {}))
        self.budget.add_rollouts(getattr(trainer, "rollout_counts", {}))
        wrapped = getattr(trainer, "accelerator", None)
        return trainer.model if wrapped is None else wrapped.unwrap_model(trainer.model)

    def callbacks(self, trainer: transformers.Trainer, phase: str) -> list[transformers.TrainerCallback]:
        """Progress, and for the arm's own training what the testbed looks at and the curve."""
        from reproductions.engine.work.callbacks import CurveCallback, ProgressCallback

        found: list[Any] = [ProgressCallback(self.report_step, phase)]
        points = int(self.spec.get("curve", CURVE).get("points", CURVE["points"]))
        if not self.building:
            found += self.testbed.callbacks(self)
            if points > 0:
                found.append(CurveCallback(self.measure, trainer, points))
        return found

    def arguments(self, config_class: type, **overrides: Any) -> Any:
        """A TrainingArguments subclass: the engine's defaults, then the spec's training, then `overrides`.

        While something shared is made there is no training of the arm's. Raises KDError on a name that the class does
        not have.
        """
        precision = self.spec.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise KDError(
                f'precision "{precision}"{nearest(precision, PRECISIONS)}; known: {", ".join(PRECISIONS)}'
            )
        known = {item.name for item in dataclasses.fields(config_class) if item.init}
        defaults = {
            "output_dir": str(self.scratch / "trainer"),
            "seed": self.seed,
            "data_seed": self.seed,
            "use_cpu": self.device.type == "cpu",
            "bf16": precision == "bf16-autocast",
            "fp16": False,
            "report_to": "none",
            "save_strategy": "no",
            "logging_strategy": "no",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "dataloader_pin_memory": self.device.type != "cpu",
        }
        chosen = {**self.spec.get("training", {}), **overrides}
        for name in chosen:
            if name not in known:
                raise KDError(f'{config_class.__name__} has no field "{name}"{nearest(name, known)}')
        return config_class(**{name: value for name, value in defaults.items() if name in known} | chosen)

    def report_step(self, phase: str, step: int, total: int) -> None:
        """Tells the progress display where the run is."""
        self.tell({"event": "step", "phase": phase, "step": step, "total": total})

    def tell(self, event: dict[str, Any]) -> None:
        """Something for the progress display."""
        if self._events is not None:
            self._events({"arm": self.arm, "seed": self.seed, **event})
