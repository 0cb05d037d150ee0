"""The runs of a gate: planned and made as those of a paper, with seeds that no paper has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root
from reproductions.engine.gate.checks.base import AGAIN, BASELINE, teacher_name
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.spec import SCALE, SHARE, Gate
from reproductions.engine.metrics import Metric
from reproductions.engine.plan.plan import Plan, Task
from reproductions.engine.plan.spec import key_of
from reproductions.engine.store.arm import ArmResults, arm_of, features, with_only
from reproductions.engine.store.pair import arm_path, read_arm
from reproductions.testbeds.spec import measuring, metrics_of

if TYPE_CHECKING:
    from reproductions.engine.store.arm import RunResults


@dataclass(frozen=True)
class GatePlan(Plan):
    """All arms with the first seeds, the baseline with the second too. `have`: runs that are there, by key and seed."""

    first: tuple[int, ...] = ()
    metric: str = ""
    have: frozenset[tuple[str, int]] = frozenset()

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm."""
        return self.seeds if arm == BASELINE else self.first

    def wanted(self, key: str, seed: int) -> tuple[str, ...]:
        """As of any plan; of the second seeds, which only stand beside the first, the gate's metric alone."""
        return super().wanted(key, seed) if seed in self.first else (self.metric,)

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed that some arm has."""
        return self.seeds

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every run to be made, seed by seed."""
        wanted = ((arm, seed) for seed in self.seeds for arm in self.arms if seed in self.seeds_of(arm))
        return tuple((arm, seed) for arm, seed in wanted if (self.keys[arm], seed) not in self.have)


def plan_of(gate: Gate, rate: float, cache: Path | None = None) -> GatePlan:
    """What a gate runs at a learning rate. Raises KDError with file and line."""
    experiment, specs = gate.experiment(rate), gate.specs(rate)
    return GatePlan(
        experiment=experiment,
        scale=experiment.scale(SCALE),
        arms=tuple(specs),
        seeds=(*gate.seeds, *gate.second),
        specs=specs,
        keys={arm: key_of(spec) for arm, spec in specs.items()},
        testbed=gate.testbed,
        cache=cache if cache is not None else cache_root(),
        measures={arm: _measures(gate, arm) for arm in specs},
        how=measuring(gate.testbed),
        curve={"points": 0},
        first=gate.seeds,
        metric=gate.metric,
    )


def _measures(gate: Gate, arm: str) -> tuple[str, ...]:
    """All metrics of baseline and teacher, from which default smallest effects follow; the gate's own of the others.

    And all of arms that a check asks so much of.
    """
    if arm in _in_full(gate) or gate.teacher is not None and arm == teacher_name(gate.teacher):
        return tuple(metrics_of(gate.testbed))
    return (gate.metric,)


def _in_full(gate: Gate) -> set[str]:
    """The baseline, and the arms of which a check wants all metrics."""
    return {BASELINE, *(name for one in gate.checks.values() for name in one.in_full)}


def recorded_runs(gate: Gate, plan: GatePlan, folder: Path) -> dict[tuple[str, int], RunResults]:
    """The recorded runs of a plan that measured what is wanted of them. Raises KDError for a broken file."""
    found: dict[tuple[str, int], RunResults] = {}
    for key in dict.fromkeys(plan.keys.values()):
        path = arm_path(folder, key)
        kept = read_arm(path).runs if path.is_file() else {}
        found |= {
            (key, seed): run for seed, run in kept.items() if set(plan.wanted(key, seed)) <= set(run.metrics)
        }
    return found


def results_of(plan: GatePlan, runs: Mapping[tuple[str, int], RunResults]) -> dict[str, ArmResults]:
    """The arms of a plan with what is wanted of each run, by key and seed. Raises KDError where one is missing."""
    found = {}
    for arm in plan.arms:
        key = plan.keys[arm]
        own = [
            with_only(runs[key, seed], plan.wanted(key, seed))
            for seed in plan.seeds_of(arm)
            if (key, seed) in runs
        ]
        results = arm_of(key, plan.specs[arm], plan.testbed["name"], own)
        if results is None or len(results.runs) < len(plan.seeds_of(arm)):
            raise KDError(f"the gate of {plan.testbed['name']}: not all runs of {arm} are there")
        found[arm] = results
    return found


def measured_of(gate: Gate, arms: Mapping[str, ArmResults]) -> Measured:
    """The gate's metric on every arm of its runs."""
    known = metrics_of(gate.testbed)
    metric = known[gate.metric]

    def of(arm: str, seeds: tuple[int, ...], metric: Metric = metric) -> object:
        return features([arms[arm].runs[seed] for seed in seeds], metric, f"the gate of {gate.name}, {arm}")

    table = {arm: of(arm, gate.seeds) for arm in arms} | {AGAIN: of(BASELINE, gate.second)}

    def has(arm: str, name: str) -> bool:
        return all(name in arms[arm].runs[seed].metrics for seed in gate.seeds)

    full = [arm for arm in arms if arm in _in_full(gate)]
    others = {
        name: (one, {arm: of(arm, gate.seeds, one) for arm in full if has(arm, name)})
        for name, one in known.items()
        if has(BASELINE, name)
    }
    specs = {arm: results.spec for arm, results in arms.items()}
    return Measured(
        metric=metric,
        smallest=smallest_effect(gate, arms),
        teacher=gate.teacher,
        arms=table,  # type: ignore[arg-type]
        seeds=dict.fromkeys(arms, gate.seeds) | {AGAIN: gate.second},
        specs=specs | {AGAIN: specs[BASELINE]},
        load=lambda: _loaded(gate),
        name=gate.metric,
        others=others,  # type: ignore[arg-type]
    )


def figures_of(gate: Gate, arms: Mapping[str, ArmResults]) -> dict[str, dict[str, float]]:
    """Metric -> the mean of the baseline and of the teacher over the first seeds, of all that both measured."""
    named = {"baseline": BASELINE} | ({"teacher": teacher_name(gate.teacher)} if gate.teacher else {})
    return {
        metric: {what: _mean(gate, arms[arm], metric) for what, arm in named.items()}
        for metric in metrics_of(gate.testbed)
        if all(metric in arms[arm].runs[seed].metrics for arm in named.values() for seed in gate.seeds)
    }


def smallest_effect(gate: Gate, arms: Mapping[str, ArmResults]) -> float:
    """What size matters on the gate's metric: as written, else a share of the headroom."""
    if gate.smallest is not None:
        return gate.smallest
    teacher, baseline = arms[teacher_name(str(gate.teacher))], arms[BASELINE]
    return SHARE * abs(_mean(gate, teacher, gate.metric) - _mean(gate, baseline, gate.metric))


def _mean(gate: Gate, arm: ArmResults, metric: str) -> float:
    return sum(arm.runs[seed].metrics[metric] for seed in gate.seeds) / len(gate.seeds)


def _loaded(gate: Gate) -> object:
    from reproductions.testbeds import load_testbed

    return load_testbed(gate.testbed)
