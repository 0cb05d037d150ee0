"""The runs of a plan that need not be made: what this machine's cache holds, and what is recorded."""

from __future__ import annotations

from pathlib import Path

from reproductions.engine.plan.plan import Plan
from reproductions.engine.store.arm import RunResults
from reproductions.engine.store.cache import read_run
from reproductions.engine.store.joined import joined
from reproductions.engine.store.pair import arm_path, read_arm
from reproductions.engine.work.environment import decisive
from reproductions.engine.work.sessions.executors.base import Executor
from reproductions.engine.work.sessions.machine import has_gpu


def device_of(plan: Plan, executor: Executor | None = None) -> str:
    """The kind of device on which an executor makes the runs of a plan; this machine without one."""
    if plan.scale.settings.get("device", "auto") == "cpu":
        return "cpu"
    return "cuda" if (has_gpu() if executor is None else executor.has_gpu()) else "cpu"


def kept_run(plan: Plan, key: str, seed: int, device: str) -> RunResults | None:
    """A run of a plan that the cache holds, made with what would make it now; it may lack metrics."""
    arm = next(arm for arm in plan.arms if plan.keys[arm] == key)
    made_with = decisive(device, plan.specs[arm]["testbed"].get("revision"), plan.specs[arm]["method"])
    return read_run(plan.cache, key, seed, made_with, how=plan.how, testbed=plan.scale.testbed)


def finished_runs(plan: Plan, device: str, recorded: Path | None = None) -> dict[tuple[str, int], RunResults]:
    """The plan's runs that the cache holds with every metric wanted of them; a broken file is set aside.

    Those that the results under `recorded` hold come from there: on another kind of processor a run ends in other
    figures, and what is recorded stands. One that lacks a metric there takes it from the cache's. Raises KDError for a
    broken file of results, and where the two cannot be of one training (see `store.joined`).
    """
    there = {} if recorded is None else recorded_runs(plan, recorded)
    found = {}
    for key, seed in plan.runs:
        run = there.get((key, seed))
        wanted = set(plan.wanted(key, seed))
        if run is None or not wanted <= set(run.metrics):
            kept = kept_run(plan, key, seed, device)
            if kept is None or not wanted <= set(kept.metrics):
                continue
            run = kept if run is None else joined(f"{plan.scale.testbed}/{key}: seed {seed}", run, kept)
        found[key, seed] = run
    return found


def recorded_runs(plan: Plan, root: Path) -> dict[tuple[str, int], RunResults]:
    """The plan's runs that results hold, with whatever was measured. Raises KDError for a broken file."""
    found: dict[tuple[str, int], RunResults] = {}
    for key in dict.fromkeys(key for key, _ in plan.runs):
        path = arm_path(root / plan.scale.testbed, key)
        runs = read_arm(path).runs if path.exists() else {}
        found |= {(key, seed): run for seed, run in runs.items() if (key, seed) in plan.runs}
    return found
