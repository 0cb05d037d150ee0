"""What a testbed's gate declares, read strictly from the key `gate` of its YAML. No torch here.

    gate:
      metric: greedy_exact_match        # quality, greedy or exact; every figure below is in its unit
      seeds: 5                          # how many: they are 1000, 1001, ... and never judged
      baseline: {method: sft}           # an arm, as an experiment has it
      learning_rate: 4.0e-3             # of every arm that says no other; a list is swept by the gate itself
      smallest_effect: 1.5              # else 5 % of the headroom, which is teacher minus baseline
      teacher: main                     # the one of the headroom, main where nothing is said
      start: sft                        # as at a scale
      data: {<step>: ...}               # data steps that the arms name, as in an experiment
      checks: {teacher-better: {points: 5}, plateau: {}, ...}        # see checks/; settings in braces, {} for none
      covers:                           # property -> the checks that show it; without headroom nothing is judged
        headroom: [teacher-better, baseline-between, same-arm-twice, must-exist, plateau]
        capacity-gap: [ladder]

A testbed that is like another has its gate too, and runs it with its own task and models; `gate: null` takes it away.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest
from reproductions.engine.errors import KDError
from reproductions.engine.gate.checks.base import (
    BASELINE,
    CHECKS,
    Contrast,
    Declared,
    GateCheck,
    Source,
    teacher_arm,
)
from reproductions.engine.gate.record import HEADROOM
from reproductions.engine.plan.experiment import Experiment, read_experiment
from reproductions.engine.plan.spec import spec_of
from reproductions.parts import PartError
from reproductions.testbeds.spec import MAIN, ROOT, Where, metrics_of, read_testbed, where_of

KEYS = (
    *("metric", "seeds", "baseline", "learning_rate", "smallest_effect", "teacher", "start", "data"),
    *("checks", "covers"),
)
NEEDED = ("metric", "seeds", "baseline", "learning_rate", "checks", "covers")
FIRST_SEED = 1000
LEAST_SEEDS = 3
SHARE = 0.05  # of the headroom: the smallest effect where the gate says none
SCALE = "gate"
# What `headroom` must show; the first only where the testbed has a teacher.
CORE = ("teacher-better", "baseline-between", "same-arm-twice", "must-exist", "plateau")
_PROPERTY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Gate:
    """A gate, checked. `rates`: one that is written down, or a grid; `sources`: every arm but the baseline's copy."""

    testbed: Mapping[str, Any]  # as `read_testbed` gave it
    metric: str
    seeds: tuple[int, ...]
    teacher: str | None
    rates: tuple[float, ...]
    smallest: float | None
    sources: Mapping[str, Source]
    checks: Mapping[str, GateCheck]
    properties: Mapping[str, tuple[str, ...]]
    tree: Mapping[str, Any]
    root: Path  # of the testbeds

    @property
    def name(self) -> str:
        """The testbed's."""
        return str(self.testbed["name"])

    @property
    def second(self) -> tuple[int, ...]:
        """The seeds of the baseline's second copy, each on the same draw of the task as its fellow."""
        draws = int(self.testbed.get("draws", 1))
        apart = -(-len(self.seeds) // draws) * draws
        return tuple(seed + apart for seed in self.seeds)

    @property
    def swept(self) -> bool:
        """Whether the learning rate comes from a sweep."""
        return len(self.rates) > 1

    @property
    def contrasts(self) -> dict[str, Contrast]:
        """Check -> its two arms that differ by construction."""
        return {name: one.contrast for name, one in self.checks.items() if one.contrast is not None}

    @cached_property
    def where(self) -> Where:
        """The lines of the testbed's files."""
        return where_of(self.name, self.root)

    def place(self, *path: str | int) -> str:
        """file:line of a part of the gate."""
        file, line = self.where.place("gate", *path)
        return f"{file}:{line}"

    def experiment(self, rate: float) -> Experiment:
        """The gate's arms as an experiment with one scale, `gate`, so that its runs are planned as any others."""
        scale: dict[str, Any] = {"testbed": self.name, "learning_rate": rate, "curve": {"points": 0}}
        scale["seeds"] = [*self.seeds, *self.second]
        for key in ("start",):
            if key in self.tree:
                scale[key] = self.tree[key]
        for key in ("download",):
            if key in self.testbed.get("defaults", {}):
                scale[key] = self.testbed["defaults"][key]
        name = f"gate-{self.name}"
        data = {
            "paper": name,
            "arms": {arm: dict(source.tree) for arm, source in self.sources.items()},
            "data": self.tree.get("data") or {},
            "scales": {SCALE: scale},
            "headline": [self.metric],
        }
        lines = _GateLines(lambda: self.where, self.sources)
        try:
            return read_experiment(name, self.root / f"{self.name}.yaml", data, lines)
        except CatalogError as error:
            raise KDError(str(error)) from None

    def specs(self, rate: float) -> dict[str, dict[str, Any]]:
        """What every arm computes. Raises KDError with file and line."""
        experiment = self.experiment(rate)
        try:
            return {arm: spec_of(experiment, SCALE, arm, self.testbed) for arm in self.sources}
        except CatalogError as error:
            raise KDError(str(error)) from None


def gate_of(testbed: str | Mapping[str, Any], root: Path | None = None) -> Gate | None:
    """The gate of a testbed, None where it declares none. Raises KDError with file, line and the nearest valid name.

    `testbed`: a name, or what `read_testbed` gave; `root`: the folder of the testbeds.
    """
    bed = read_testbed(testbed, root or ROOT) if isinstance(testbed, str) else testbed
    if "gate" not in bed:
        return None
    return _Reader(bed, root or ROOT).read()


class _Reader:
    """Checks each field of one gate."""

    def __init__(self, bed: Mapping[str, Any], root: Path) -> None:
        self.bed, self.root = bed, root
        self.tree: Mapping[str, Any] = bed["gate"]

    def read(self) -> Gate:
        for key in self.tree:
            if key not in KEYS:
                raise self.error(
                    f'a gate has no "{key}"{nearest(str(key), KEYS)}; it may have {", ".join(KEYS)}', key
                )
        for key in NEEDED:
            if key not in self.tree:
                raise self.error(f'a gate needs "{key}"')
        metric = self.one_of("metric", metrics_of(self.bed))
        teachers = self.bed.get("teachers", {})
        teacher = MAIN if MAIN in teachers else None
        if "teacher" in self.tree:
            teacher = self.one_of("teacher", teachers)
        baseline = self.mapping("baseline")
        declared = Declared(baseline, teacher, self.bed)
        checks = self.checks()
        sources = {BASELINE: Source(baseline, ("baseline",))}
        if teacher is not None:
            sources |= teacher_arm(teacher, declared)
        for name, one in checks.items():
            try:
                sources |= one.arms(declared)
            except PartError as error:
                raise self.error(str(error), "checks", name, *error.path) from None
        gate = Gate(
            testbed=self.bed,
            metric=metric,
            seeds=self.seeds(),
            teacher=teacher,
            rates=self.rates(),
            smallest=self.smallest(teacher),
            sources=sources,
            checks=checks,
            properties=self.properties(checks, teacher),
            tree=self.tree,
            root=self.root,
        )
        gate.specs(gate.rates[0])  # an arm that cannot be planned is said now
        return gate

    def checks(self) -> dict[str, GateCheck]:
        found: dict[str, GateCheck] = {}
        for name, settings in self.mapping("checks").items():
            if not isinstance(settings, Mapping):
                raise self.error("a check is a mapping of settings: {} for none", "checks", name)
            try:
                CHECKS.settings(name, settings)
                found[name] = CHECKS.find(name)(**settings)
            except PartError as error:
                raise self.error(str(error), "checks", name, *error.path) from None
        return found

    def properties(self, checks: Mapping[str, GateCheck], teacher: str | None) -> dict[str, tuple[str, ...]]:
        covers = self.mapping("covers")
        for name, shown in covers.items():
            if not _PROPERTY.fullmatch(name):
                raise self.error(f'"{name}": a property\'s name has a-z, 0-9 and "-" only', "covers", name)
            if not isinstance(shown, list) or not shown:
                raise self.error("a property is covered by a list of checks", "covers", name)
            for place, one in enumerate(shown):
                if one not in checks:
                    what = f'the gate has no check "{one}"{nearest(str(one), checks)}; it has {", ".join(checks)}'
                    raise self.error(what, "covers", name, place)
        if HEADROOM not in covers:
            raise self.error(f'"{HEADROOM}" is missing: every claim needs it', "covers")
        core = [name for name in CORE if teacher is not None or name != "teacher-better"]
        lacking = [name for name in core if name not in covers[HEADROOM]]
        if lacking:
            raise self.error(
                f"{HEADROOM} is shown by {', '.join(core)}: {lacking[0]} is missing", "covers", HEADROOM
            )
        idle = [name for name in checks if not any(name in shown for shown in covers.values())]
        if idle:
            raise self.error("no property is covered by it", "checks", idle[0])
        return {name: tuple(shown) for name, shown in covers.items()}

    def seeds(self) -> tuple[int, ...]:
        count = self.tree["seeds"]
        if type(count) is not int or count < LEAST_SEEDS:
            raise self.error(
                f'"seeds" is how many, {LEAST_SEEDS} or more: they are {FIRST_SEED} and on', "seeds"
            )
        return tuple(range(FIRST_SEED, FIRST_SEED + count))

    def rates(self) -> tuple[float, ...]:
        value = self.tree["learning_rate"]
        rates = value if isinstance(value, list) else [value]
        if any(not isinstance(rate, int | float) or isinstance(rate, bool) or rate <= 0 for rate in rates):
            raise self.error(
                '"learning_rate" is a number above 0, or a list of such to be swept', "learning_rate"
            )
        if isinstance(value, list) and (len(rates) < 3 or sorted(set(rates)) != rates):
            raise self.error(
                "a sweep takes three rates or more, each larger than the one before: the best must lie inside",
                "learning_rate",
            )
        return tuple(map(float, rates))

    def smallest(self, teacher: str | None) -> float | None:
        value = self.tree.get("smallest_effect")
        if value is None:
            if teacher is None:
                raise self.error(
                    'without a teacher there is no headroom to take a share of: write "smallest_effect"'
                )
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self.error('"smallest_effect" is a number above 0', "smallest_effect")
        return float(value)

    def one_of(self, key: str, known: Mapping[str, Any]) -> str:
        value = self.tree[key]
        if value not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise self.error(f'the testbed has no {key} "{value}"{nearest(str(value), known)}; {has}', key)
        return str(value)

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self.tree[key]
        if not isinstance(value, Mapping) or not value:
            raise self.error(f'"{key}" must be a mapping: lines of "name: value"', key)
        return value

    def error(self, message: str, *path: str | int) -> KDError:
        return where_of(str(self.bed["name"]), self.root).error(message, "gate", *path)


class _GateLines(Lines):
    """Leads from the places of the experiment that a gate makes to those of the testbed's files."""

    def __init__(self, where: Callable[[], Where], sources: Mapping[str, Source]) -> None:
        self._where, self._sources = where, sources

    def _gate_path(self, keys: tuple[str | int, ...]) -> tuple[str | int, ...]:
        if keys[:1] == ("arms",) and len(keys) > 1 and keys[1] in self._sources:
            return ("gate", *self._sources[str(keys[1])].path, *keys[2:])
        return ("gate", *(keys[2:] if keys[:1] == ("scales",) else keys))

    def at(self, *keys: str | int) -> int:
        return self._where().place(*self._gate_path(keys))[1]

    def error(self, message: str, *keys: str | int) -> CatalogError:
        file, line = self._where().place(*self._gate_path(keys))
        return CatalogError(message, file, line)
