"""One (arm, seed): what an arm's train function receives, and what is recorded of it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from reproductions.engine import metrics as metric_functions
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, significant, write_atomic
from reproductions.engine.work.artifacts import Artifacts, save_model
from reproductions.engine.work.seeding import preserved_random_state, seed_everything

if TYPE_CHECKING:
    import torch
    import transformers

    from reproductions.engine.experiment import Experiment
    from reproductions.testbeds.base import Testbed

Events = Callable[[dict[str, Any]], None]
EXAMPLE_DIGITS = 5
PRECISIONS = ("fp32", "bf16-autocast")


@dataclass
class Ledger:
    """The budget a run used. Times in seconds: of the clock on the wall, but training on one CPU thread counts that
    thread's own time, so that a busy machine does not change the comparison at equal seconds. `train_cpu_seconds` is
    processor time of the same span in any case."""

    student_tokens: int = 0
    teacher_tokens: int = 0
    generated_tokens: int = 0
    train_seconds: float = 0.0
    train_cpu_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    completions: int = 0
    truncated: int = 0
    empty: int = 0

    def as_dict(self) -> dict[str, float]:
        """Plain JSON data."""
        return {name: round(value, 4) for name, value in dataclasses.asdict(self).items()}

    def add_tokens(self, counts: Mapping[str, int]) -> None:
        """Adds counts under the keys student, teacher, generated. Raises KDError on another key."""
        self._add(
            counts,
            {"student": "student_tokens", "teacher": "teacher_tokens", "generated": "generated_tokens"},
        )

    def add_rollouts(self, counts: Mapping[str, int]) -> None:
        """Adds counts under the keys completions, truncated, empty. Raises KDError on another key."""
        self._add(counts, {"completions": "completions", "truncated": "truncated", "empty": "empty"})

    def _add(self, counts: Mapping[str, int], fields: Mapping[str, str]) -> None:
        for name, count in counts.items():
            if name not in fields:
                raise KDError(
                    f'no budget is kept for "{name}"{nearest(name, fields)}; known: {", ".join(fields)}'
                )
            setattr(self, fields[name], getattr(self, fields[name]) + int(count))


@dataclass
class Run:
    """What an arm's `train` function receives; it returns the trained student."""

    paper: str
    arm: str
    seed: int
    scale: str
    settings: Mapping[str, Any]
    device: torch.device
    testbed: Testbed
    artifacts: Artifacts
    scratch: Path
    ledger: Ledger = field(default_factory=Ledger)
    events: Events | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    shared: dict[str, dict[str, Any]] = field(default_factory=dict)
    _build_seed: int | None = None  # set while a shared artifact is being made: that work is nobody's own run
    _shared_seconds: float = 0.0  # spent making shared artifacts, or waiting for another run that does
    _off_clock: float = 0.0
    _off_clock_cpu: float = 0.0
    _train_began: tuple[float, float] = (0.0, 0.0)

    def train(self, trainer: transformers.Trainer, *, phase: str = "student") -> Any:
        """Trains and returns the bare model; adds progress, curve, seconds, tokens and rollout counts.

        The curve has the start and settings["curve_points"] (default 4) equally spaced steps, on the first
        settings["curve_examples"] (default 200) test examples. Its seconds are not training seconds.
        """
        from reproductions.engine.callbacks import CurveCallback, ProgressCallback

        trainer.add_callback(ProgressCallback(self.report_step, phase))
        points = int(self.settings.get("curve_points", 4))
        if self._build_seed is None and points > 0:
            trainer.add_callback(CurveCallback(self, trainer, points))
        with self.training_clock():
            trainer.train()
        self.ledger.add_tokens(getattr(trainer, "token_counts", {}))
        self.ledger.add_rollouts(getattr(trainer, "rollout_counts", {}))
        return trainer.accelerator.unwrap_model(trainer.model)

    def arguments(self, config_class: type, **overrides: Any) -> Any:
        """A TrainingArguments subclass: the engine's defaults, then settings["training"], then `overrides`.

        While a shared artifact is being made settings["training"] is left out: its key does not hold it.
        Raises KDError on a name the class does not have.
        """
        precision = self.settings.get("precision", "fp32")
        if precision not in PRECISIONS:
            raise KDError(
                f'precision "{precision}"{nearest(precision, PRECISIONS)}; known: {", ".join(PRECISIONS)}'
            )
        known = {item.name for item in dataclasses.fields(config_class) if item.init}
        defaults = {
            "output_dir": str(self.scratch / "trainer"),
            "seed": self.training_seed,
            "data_seed": self.training_seed,
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
        shared = {} if self._build_seed is not None else dict(self.settings.get("training", {}))
        chosen = {**shared, **overrides}
        for name in chosen:
            if name not in known:
                raise KDError(f'{config_class.__name__} has no field "{name}"{nearest(name, known)}')
        return config_class(**{name: value for name, value in defaults.items() if name in known} | chosen)

    @property
    def training_seed(self) -> int:
        """The run's seed; while a shared artifact is being made, the seed its key names, else 0."""
        return self.seed if self._build_seed is None else self._build_seed

    def cached_model(
        self,
        kind: str,
        key: Mapping[str, Any],
        build: Callable[[], Any],
        load: Callable[[Path], Any] | None = None,
    ) -> Any:
        """A model made once per key (and data revision) and read back from safetensors, on the CPU.

        Building uses random numbers seeded by key["seed"] (default 0), not the run's: whoever needs the model
        first makes the same one, and the run goes on as if it had found it. Its budget stands under "shared".
        """

        def write(folder: Path) -> None:
            save_model(build(), folder)

        folder = self._obtain(kind, key, write)
        if load is not None:
            return load(folder)
        from transformers import AutoModelForCausalLM

        with preserved_random_state():
            return AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", local_files_only=True, trust_remote_code=False
            )

    def cached_json(self, kind: str, key: Mapping[str, Any], build: Callable[[], Any]) -> Any:
        """Plain data made once per key (and data revision), e.g. what a teacher wrote for SeqKD."""

        def write(folder: Path) -> None:
            write_atomic(folder / "data.json", json.dumps(build(), ensure_ascii=False, allow_nan=False))

        return read_json(self._obtain(kind, key, write) / "data.json")

    def evaluate_for_curve(self, model: Any, step: int) -> None:
        """Adds a point to the learning curve; training afterwards goes on as if nothing had happened."""
        self._synchronise()
        wall, clock, cpu = time.perf_counter(), self._clock(), time.process_time()
        seconds = self.ledger.train_seconds + clock - self._train_began[0] - self._off_clock
        limit = int(self.settings.get("curve_examples", 200))
        columns = self._columns(model, limit)
        values = metric_functions.values(self.testbed.metrics, columns)
        metrics = {name: significant(value, EXAMPLE_DIGITS) for name, value in values.items()}
        self.curve.append({"step": step, "train_seconds": round(max(seconds, 0.0), 3), "metrics": metrics})
        self._synchronise()
        self._off_clock += self._clock() - clock
        self._off_clock_cpu += time.process_time() - cpu
        self.ledger.evaluate_seconds += time.perf_counter() - wall

    def report_step(self, phase: str, step: int, total: int) -> None:
        """Tells the progress display where the run is."""
        self._tell({"event": "step", "phase": phase, "step": step, "total": total})

    def _obtain(self, kind: str, key: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        full_key = {**key, "testbed": self.testbed.name, "data_revision": self.testbed.revision}

        def build(folder: Path) -> dict[str, Any]:
            return self._build_shared(folder, int(key.get("seed", 0)), write)

        def waiting() -> None:
            self._tell({"event": "waiting", "phase": kind})

        began = time.perf_counter()
        folder, meta = self.artifacts.obtain(kind, full_key, build, waiting)
        if self._build_seed is None:
            self._shared_seconds += time.perf_counter() - began
        budget = dict(meta["budget"])
        self.shared.update(budget.pop("made_from"))
        self.shared[folder.name] = {"kind": kind, "key": meta["key"], "seconds": meta["seconds"], **budget}
        return folder

    def _build_shared(self, folder: Path, seed: int, write: Callable[[Path], None]) -> dict[str, Any]:
        """Runs `write` with its own ledger, clock and random numbers; returns the budget it used."""
        import torch

        outer = (self.ledger, self.shared, self._build_seed)
        clock = (self._off_clock, self._off_clock_cpu, self._train_began)
        self.ledger, self.shared, self._build_seed = Ledger(), {}, seed
        try:
            # Somebody may ask for a teacher in the middle of an evaluation, where gradients are off.
            with preserved_random_state(), torch.enable_grad():
                seed_everything(seed)
                write(folder)
            return {**self.ledger.as_dict(), "made_from": self.shared}
        finally:
            self.ledger, self.shared, self._build_seed = outer
            self._off_clock, self._off_clock_cpu, self._train_began = clock

    def _columns(self, model: Any, limit: int | None) -> dict[str, list[float]]:
        """`testbed.evaluate` with random numbers of its own and the modes of every module put back."""
        import torch

        modes = [(module, module.training) for module in model.modules()] if hasattr(model, "modules") else []
        try:
            with preserved_random_state(), torch.no_grad():
                seed_everything(self.seed)
                if hasattr(model, "eval"):
                    model.eval()
                return self.testbed.evaluate(model, self, limit=limit)
        finally:
            for module, training in modes:
                module.training = training

    @contextlib.contextmanager
    def training_clock(self) -> Iterator[None]:
        """What happens inside counts as training seconds; `train` does this for a Trainer."""
        self._off_clock = self._off_clock_cpu = 0.0
        self._synchronise()
        self._train_began = self._clock(), time.process_time()
        yield
        self._synchronise()
        clock, cpu = self._train_began
        self.ledger.train_seconds += self._clock() - clock - self._off_clock
        self.ledger.train_cpu_seconds += time.process_time() - cpu - self._off_clock_cpu

    def _clock(self) -> float:
        """Seconds of training: a single CPU thread's own time, which whatever else the machine does leaves alone."""
        import torch

        single = self.device.type == "cpu" and torch.get_num_threads() == 1
        return time.process_time() if single else time.perf_counter()

    def _synchronise(self) -> None:
        """A GPU works behind our back; the clock is read when it has caught up."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def _tell(self, event: dict[str, Any]) -> None:
        if self.events is not None:
            self.events({"arm": self.arm, "seed": self.seed, **event})


def make_run(
    experiment: Experiment,
    arm: str,
    seed: int,
    scale: str,
    testbed: Testbed | None = None,
    device: str = "cpu",
    cache: Path | None = None,
    events: Events | None = None,
    scratch: Path | None = None,
) -> Run:
    """A run without the runner: for tests, notebooks and the workers themselves."""
    import torch

    experiment.arm(arm)
    return Run(
        paper=experiment.paper,
        arm=arm,
        seed=seed,
        scale=scale,
        settings=experiment.scale(scale).settings,
        device=torch.device(device),
        testbed=testbed if testbed is not None else experiment.load_testbed(scale),
        artifacts=Artifacts(cache),
        scratch=scratch if scratch is not None else Path(tempfile.mkdtemp(prefix="kd-atlas-")),
        events=events,
    )


def execute(run: Run, experiment: Experiment) -> dict[str, Any]:
    """Trains the arm, evaluates on the test split and returns the run's record for the results file.

    All of the split, or its first settings["test_examples"] where measuring all would be too dear.
    The figures depend on the arm, the seed and the settings only: not on the worker or on what it ran before.
    """
    started = time.perf_counter()
    try:
        seed_everything(run.seed)
        model = experiment.arm(run.arm).train(run)
        if model is None:
            raise KDError(
                f'arm "{run.arm}" returned no student; its train function must return the trained model'
            )
        run._tell({"event": "step", "phase": "evaluation", "step": 0, "total": 0})
        before = time.perf_counter()
        columns = run._columns(model, run.settings.get("test_examples"))
        run.ledger.evaluate_seconds += time.perf_counter() - before
    finally:
        shutil.rmtree(run.scratch, ignore_errors=True)
    wanted = sorted({column for metric in run.testbed.metrics.values() for column in metric.columns})
    examples = {name: [_compact(number) for number in columns[name]] for name in wanted if name in columns}
    ledger = run.ledger
    return {
        "arm": run.arm,
        "seed": run.seed,
        # From the rounded columns: whoever recomputes a metric from the file gets this very number.
        "metrics": metric_functions.values(run.testbed.metrics, examples),
        "examples": examples,
        "curve": run.curve,
        "seconds": {
            "train": round(ledger.train_seconds, 3),
            "train_cpu": round(ledger.train_cpu_seconds, 3),
            "evaluate": round(ledger.evaluate_seconds, 3),
            "total": round(time.perf_counter() - started - run._shared_seconds, 3),
        },
        "tokens": {
            "student": ledger.student_tokens,
            "teacher": ledger.teacher_tokens,
            "generated": ledger.generated_tokens,
        },
        "rollouts": {"completions": ledger.completions, "truncated": ledger.truncated, "empty": ledger.empty},
        "shared": run.shared,
    }


def _compact(number: float) -> float | int:
    """Five significant digits; whole numbers without ".0": most columns are zeros and ones, and go into git."""
    rounded = significant(float(number), EXAMPLE_DIGITS)
    return int(rounded) if rounded.is_integer() else rounded
