"""What a plan will cost before anything of it runs: runs, what is made on the way, CPU time of runs like them.

Seconds of a run come from recorded or finished runs of its key, else of its method, else of its testbed; where there is
nothing at all, from the scale's minutes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import digest, read_json
from reproductions.engine.plan.plan import Plan
from reproductions.engine.store.layout import arm_path, arms_of, lines_of
from reproductions.engine.work.sessions.progress.needs import to_make

CORES = 2  # that a scale's minutes are for


@dataclass(frozen=True)
class Cost:
    """Of the runs of a plan that are still to be made. `known_from`: how many recorded runs tell the seconds."""

    arms: int
    runs: int
    kept: int
    to_make: Mapping[str, int]
    cpu_seconds: float | None
    known_from: int

    @property
    def missing(self) -> int:
        """Runs to make."""
        return self.runs - self.kept

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self) | {"missing": self.missing}

    def __str__(self) -> str:
        """'3 arms, 45 runs: 12 are there, 33 to make; on the way 1 teacher, 5 sft-start; about 14 CPU minutes'."""
        text = f"{_many(self.arms, 'arm')}, {_many(self.runs, 'run')}: "
        text += f"{self.kept} are there, {self.missing} to make" if self.kept else "all to make"
        if not self.missing:
            return f"{_many(self.arms, 'arm')}, {_many(self.runs, 'run')}: all are there"
        if self.to_make:
            made = (f"{count} {kind}" for kind, count in sorted(self.to_make.items()))
            text += f"; on the way {', '.join(made)}"
        return f"{text}; {self.time}"

    @property
    def time(self) -> str:
        """'about 14 CPU minutes, from 33 recorded runs', or that nothing is known."""
        if self.cpu_seconds is None:
            return "nothing is known of the time"
        source = (
            f"from {_many(self.known_from, 'recorded run')}" if self.known_from else "from the file's minutes"
        )
        return f"about {minutes(self.cpu_seconds)}, {source}"


class Costs:
    """Seconds of what was run, recorded in the folders of testbeds or finished in the cache; each file is read once."""

    def __init__(self, results: Path, cache: Path) -> None:
        self._results, self._cache = results, cache
        self._arms: dict[Path, dict[str, Any] | None] = {}
        self._beds: dict[str, list[dict[str, Any]]] = {}

    def of(self, plan: Plan, there: Collection[tuple[str, int]] = ()) -> Cost:
        """What is left of a plan when the runs `there` (key, seed) are made."""
        missing = {name: task for name, task in plan.runs.items() if name not in there}
        seconds, known = self._seconds(plan)
        making = to_make([(plan, task, plan.measures.get(task[0], ())) for task in missing.values()])
        total: float | None = None
        if seconds:
            total = sum(seconds[arm] for arm, _ in missing.values())
            usual = self._usual(plan.scale.testbed)
            total += sum(count * usual.get(kind, 0.0) for kind, count in making.items())
        elif plan.scale.minutes > 0:
            first = len({plan.keys[arm] for arm in plan.arms}) * plan.scale.looks[0]
            total = 60 * CORES * plan.scale.minutes * len(missing) / max(first, 1)
        arms = len({plan.keys[arm] for arm in plan.arms})
        return Cost(arms, len(plan.runs), len(plan.runs) - len(missing), making, total, known)

    def spent(self, plan: Plan, runs: Collection[tuple[str, int]]) -> float:
        """CPU seconds of recorded runs (key, seed)."""
        total = 0.0
        for key in {key for key, _ in runs}:
            data = self._read(arm_path(self._results / plan.scale.testbed, key))
            for run in data["runs"] if data else ():
                if (key, run["seed"]) in runs:
                    total += cpu_seconds(run["seconds"])
        return total

    def _seconds(self, plan: Plan) -> tuple[dict[str, float], int]:
        """Mean CPU seconds of a run by arm, and from how many runs they are; nothing where no run is known."""
        by_key: dict[str, list[float]] = {}
        by_method: dict[str, list[float]] = {}
        everything: list[float] = []
        for data in self._bed(plan.scale.testbed):
            found = [cpu_seconds(run["seconds"]) for run in data["runs"]]
            by_key.setdefault(data["key"], []).extend(found)
            by_method.setdefault(_method(data["spec"]), []).extend(found)
            everything += found
        for arm in plan.arms:
            key = plan.keys[arm]
            if key not in by_key and (here := self._finished(key)):
                by_key[key] = here
                everything += here
        if not everything:
            return {}, 0
        found_for, used = {}, 0
        for arm in plan.arms:
            nearest = by_key.get(plan.keys[arm]) or by_method.get(_method(plan.specs[arm])) or everything
            found_for[arm] = sum(nearest) / len(nearest)
            used = max(used, len(nearest))
        return found_for, used

    def _finished(self, key: str) -> list[float]:
        """Of one finished run of this machine: a file holds all its figures, so one has to do."""
        for path in sorted((self._cache / "runs" / key).glob("seed*.json"))[:1]:
            try:
                return [cpu_seconds(read_json(path)["record"]["seconds"])]
            except (KDError, KeyError, TypeError):
                continue
        return []

    def _usual(self, testbed: str) -> dict[str, float]:
        """Mean seconds that making a thing of each kind took."""
        found: dict[str, dict[str, float]] = {}
        for data in self._bed(testbed):
            for name, made in data.get("shared", {}).items():
                found.setdefault(made.get("kind", ""), {})[name] = float(made.get("seconds", 0))
        return {kind: sum(times.values()) / len(times) for kind, times in found.items()}

    def _bed(self, testbed: str) -> list[dict[str, Any]]:
        if testbed not in self._beds:
            files = arms_of(self._results / testbed)
            self._beds[testbed] = [data for path in files if (data := self._read(path)) is not None]
        return self._beds[testbed]

    def _read(self, path: Path) -> dict[str, Any] | None:
        if path not in self._arms:
            try:
                data = lines_of(path)
                self._arms[path] = data if {"key", "spec", "runs"} <= set(data) else None
            except KDError:
                self._arms[path] = None  # reading it whole says what is wrong
        return self._arms[path]


def cpu_seconds(seconds: Mapping[str, float]) -> float:
    """Of a run: training on the processor's clock, and measuring."""
    return float(seconds.get("train_cpu", seconds.get("train", 0))) + float(seconds.get("evaluate", 0))


def minutes(seconds: float) -> str:
    """'40 CPU seconds', '14 CPU minutes', '3.2 CPU hours'."""
    if seconds < 90:
        return f"{seconds:.0f} CPU seconds"
    return f"{seconds / 60:.0f} CPU minutes" if seconds < 5400 else f"{seconds / 3600:.1f} CPU hours"


def _method(spec: Mapping[str, Any]) -> str:
    """What makes runs take alike: the method's components and the number of steps; no rate, no teacher's size."""
    training = {n: value for n, value in spec.get("training", {}).items() if n != "learning_rate"}
    method = {n: value for n, value in spec["method"].items() if n not in ("teachers", "teacher")}
    return digest([method, training], 16)


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s'[: count != 1]}"
