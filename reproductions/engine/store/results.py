"""What was recorded of an experiment at a scale: the declared arms' results, and what of them is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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

    Only declared seeds count, and only runs with every metric that this paper wants of the arm. `seeds`: all that there
    may be; `looks`: how many of the first of them each look takes; `missing`: runs that the first look lacks.
    """

    arms: Mapping[str, ArmResults]
    seeds: tuple[int, ...]
    missing: tuple[tuple[str, int], ...] = ()
    looks: tuple[int, ...] = ()

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


def gather(
    arms: Mapping[str, ArmResults],
    declared: Iterable[str],
    seeds: Iterable[int],
    *,
    looks: Iterable[int] = (),
    measures: Mapping[str, Iterable[str]] | None = None,
    how: Mapping[str, str] | None = None,
) -> Results:
    """The results of the declared arms and seeds from whatever there is of them, recorded or made just now.

    `looks`: how many seeds each look takes, all of them in one where it is not given; `measures`: the metrics that are
    wanted of each arm; `how`: how they are measured now (a figure measured in another way is another figure).
    """
    declared, seeds = list(declared), tuple(seeds)
    looks = tuple(looks) or (len(seeds),)
    present = {}
    for arm in declared:
        if arm in arms:
            wanted = tuple((measures or {}).get(arm, ()))
            runs = arms[arm].runs
            runs = {seed: run for seed, run in runs.items() if measured(run, wanted, how or {})}
            if set(runs) & set(seeds):
                present[arm] = replace(arms[arm], runs=runs)
    first = seeds[: looks[0]]
    missing = [
        (a, seed) for a in declared for seed in first if a not in present or seed not in present[a].runs
    ]
    return Results(present, seeds, tuple(missing), looks)


def measured(run: RunResults, wanted: Iterable[str], how: Mapping[str, str]) -> bool:
    """Whether a run has these metrics, measured in this way as far as it says."""
    then = run.how
    return all(name in run.metrics and then.get(name) in (None, how.get(name), "") for name in wanted)


def results_of(declared: Mapping[str, str], seeds: Iterable[int], folder: Path, **options: Any) -> Results:
    """What the folder of a testbed holds of these arms (name -> key): see `missing` and `recorded_results`.

    `options` are those of `gather`. Raises KDError where a file is broken or belongs to another key.
    """
    found = {}
    for arm, key in declared.items():
        path = arm_path(folder, key)
        if path.exists():
            found[arm] = read_arm(path)
    return gather(found, declared, seeds, **options)


def recorded_results(
    paper: str, scale: str, declared: Mapping[str, str], seeds: Iterable[int], folder: Path, **options: Any
) -> Results | None:
    """The recorded results of a paper at a scale, its first look whole; None where it was never recorded.

    Raises IncompleteError with every arm and seed that is missing where a run was made for this paper and scale (its
    file says so under `claims`): a verdict from a part of the runs is none. Arms that other papers brought are no such
    sign.
    """
    results, name = results_of(declared, seeds, folder, **options), f"{paper}/{scale}"
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
