"""What was recorded of an experiment at a scale: the declared arms' results, and what of them is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric
from reproductions.engine.store.arm import ArmResults, RunResults, as_timed, same_measure
from reproductions.engine.store.pair import arm_path, read_arm


class IncompleteError(KDError):
    """Some declared runs are not recorded: a verdict from the others is none."""


@dataclass(frozen=True)
class Results:
    """Runs by arm and seed, arms by the experiment's names ("arm@point=value" at a point of its sweep).

    Only declared seeds count: what another paper added to a shared arm changes no verdict here.
    """

    arms: Mapping[str, ArmResults]
    seeds: tuple[int, ...]
    missing: tuple[tuple[str, int], ...] = ()

    def runs(self, arm: str) -> dict[int, RunResults]:
        """The runs of an arm by seed, in the order the seeds are declared in; empty where it has none."""
        if arm not in self.arms:
            return {}
        runs = self.arms[arm].runs
        return {seed: runs[seed] for seed in self.seeds if seed in runs}

    @property
    def metrics(self) -> dict[str, Metric]:
        """Every metric that some arm measured."""
        found: dict[str, Metric] = {}
        for arm in self.arms.values():
            found |= {name: metric for name, metric in arm.metrics.items() if name not in found}
        return found

    def metric(self, name: str, arms: Iterable[str], what: str) -> Metric:
        """A metric that all of these arms measured in one way. Raises KDError that begins with `what`."""
        chosen: Metric | None = None
        for arm in arms:
            known = self.arms[arm].metrics
            if name not in known:
                raise KDError(f'{what}: metric "{name}" was not measured for arm {arm}{nearest(name, known)}')
            if chosen is not None and not same_measure(chosen, known[name]):
                raise KDError(f'{what}: metric "{name}" means something else for arm {arm}')
            chosen = chosen or known[name]
        if chosen is None:
            raise KDError(f"{what}: no arm")
        return chosen


def gather(arms: Mapping[str, ArmResults], declared: Iterable[str], seeds: Iterable[int]) -> Results:
    """The results of the declared arms and seeds from whatever there is of them, recorded or made just now."""
    declared, seeds = list(declared), tuple(seeds)
    missing = [
        (arm, seed) for arm in declared for seed in seeds if arm not in arms or seed not in arms[arm].runs
    ]
    present = {arm: arms[arm] for arm in declared if arm in arms and set(arms[arm].runs) & set(seeds)}
    return Results(present, seeds, tuple(missing))


def results_of(declared: Mapping[str, str], seeds: Iterable[int], folder: Path) -> Results:
    """What the folder of a testbed holds of these arms (name -> key): see `missing` and `recorded_results`.

    Raises KDError where a file is broken or belongs to another key.
    """
    found = {}
    for arm, key in declared.items():
        path = arm_path(folder, key)
        if path.exists():
            found[arm] = read_arm(path)
    return gather(found, declared, seeds)


def recorded_results(
    paper: str, scale: str, declared: Mapping[str, str], seeds: Iterable[int], folder: Path
) -> Results | None:
    """The recorded results of a paper at a scale, whole; None where it was never recorded.

    Raises IncompleteError with every arm and seed that is missing where a run was made for this paper and scale (its
    file says so under `claims`): a verdict from a part of the runs is none. Arms that other papers brought are no such
    sign.
    """
    results, name = results_of(declared, seeds, folder), f"{paper}/{scale}"
    if results.missing and not any(name in arm.claims for arm in results.arms.values()):
        return None
    if results.missing:
        what = f"results of {paper} at scale {scale} are incomplete: {listed(results.missing)}"
        raise IncompleteError(f"{folder}: {what}")
    arms = {
        arm: replace(recorded, runs={seed: as_timed(run, name) for seed, run in recorded.runs.items()})
        for arm, recorded in results.arms.items()
    }
    return replace(results, arms=arms)


def listed(missing: Iterable[tuple[str, int]]) -> str:
    """Missing runs, by arm: "akl seeds 3, 4; sft seed 0"."""
    by_arm: dict[str, list[str]] = {}
    for arm, seed in missing:
        by_arm.setdefault(arm, []).append(str(seed))
    return "; ".join(
        f"{arm} seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}" for arm, seeds in by_arm.items()
    )
