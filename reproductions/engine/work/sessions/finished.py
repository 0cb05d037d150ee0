"""The runs of a plan that need not be made: what this machine's cache holds, and what is recorded."""

from __future__ import annotations

from pathlib import Path

from reproductions.engine.plan.plan import Plan
from reproductions.engine.store.arm import RunResults
from reproductions.engine.store.cache import read_run
from reproductions.engine.store.pair import arm_path, read_arm
from reproductions.engine.work.environment import decisive
from reproductions.engine.work.sessions.pool import has_gpu


def device_of(plan: Plan) -> str:
    """Where the runs of a plan are made here."""
    return "cuda" if plan.scale.settings.get("device", "auto") != "cpu" and has_gpu() else "cpu"


def kept_run(plan: Plan, key: str, seed: int, device: str) -> RunResults | None:
    """A run of a plan that the cache holds, made with what would make it now; it may lack metrics."""
    arm = next(arm for arm in plan.arms if plan.keys[arm] == key)
    made_with = decisive(device, plan.specs[arm]["testbed"].get("revision"), plan.specs[arm]["method"])
    return read_run(plan.cache, key, seed, made_with, how=plan.how, testbed=plan.scale.testbed)


def finished_runs(plan: Plan, device: str, recorded: Path | None = None) -> dict[tuple[str, int], RunResults]:
    """The plan's runs that the cache holds with every metric wanted of them; a broken file is set aside.

    Those that the results under `recorded` hold come from there: on another kind of processor a run ends in other
    figures, and what is recorded stands.
    """
    found = {} if recorded is None else recorded_runs(plan, recorded)
    for key, seed in plan.runs:
        if (key, seed) in found:
            continue
        run = kept_run(plan, key, seed, device)
        if run is not None and set(plan.wanted(key, seed)) <= set(run.metrics):
            found[key, seed] = run
    return found


def recorded_runs(plan: Plan, root: Path) -> dict[tuple[str, int], RunResults]:
    """The plan's runs that results hold with every metric wanted of them. Raises KDError for a broken file."""
    found = {}
    for key in dict.fromkeys(key for key, _ in plan.runs):
        path = arm_path(root / plan.scale.testbed, key)
        runs = read_arm(path).runs if path.exists() else {}
        for seed, run in runs.items():
            if (key, seed) in plan.runs and set(plan.wanted(key, seed)) <= set(run.metrics):
                found[key, seed] = run
    return found
