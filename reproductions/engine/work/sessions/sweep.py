"""The same tuning effort for every arm: a grid of learning rates, seeds that are never judged, validation data.

`tuning` of a testbed's defaults or of a scale declares it: {seeds, learning_rates, metric, widen}. Every figure is
written as it comes, so that an interrupted sweep goes on where it stopped; arms that papers share are swept once
(`engine/plan/rates.py` says where, and how a grid grows).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root, file_lock, read_json, write_atomic
from reproductions.engine.plan.experiment import Experiment, code_path, load_experiment
from reproductions.engine.plan.rates import Sweep, Tuning, arm_tuning_path, rate_name, tuning_of, tuning_path
from reproductions.engine.plan.spec import (
    SPEC_VERSION,
    key_of,
    read_testbed_of,
    spec_of,
    start_key,
    start_specs,
    sweep_at,
    sweep_keys,
    swept_arms,
)
from reproductions.engine.work.sessions.executors.base import Executor
from reproductions.engine.work.sessions.losses import Losses
from reproductions.engine.work.sessions.machine import cores
from reproductions.engine.work.sessions.pool import Pool, worker_variables
from reproductions.engine.work.sessions.worker import Job, Work

ROUNDS = 50  # more than any grid grows


@dataclass(frozen=True)
class Trial:
    """An arm with one learning rate and one seed; `work`: what a worker is handed; `key`: where its figure is kept."""

    arm: str
    rate: float
    seed: int
    work: Work
    key: str = ""

    def __str__(self) -> str:
        return f"{self.arm} at {rate_name(self.rate)}"


# The metric, NaN where the rate broke a model that the method needs; what went wrong.
Answer = tuple[Trial, float | None, str]


def declared_tuning(experiment: Experiment, scale: str, testbed: Mapping[str, Any]) -> Tuning:
    """The sweep of a scale. Raises KDError where there is none, or one of its seeds is judged."""
    chosen = experiment.scale(scale)
    tuning = tuning_of(chosen, testbed)
    if tuning is None:
        raise KDError(
            f'{experiment.paper} declares no "tuning" at scale "{scale}", nor does testbed {chosen.testbed}'
        )
    for seed in tuning.seeds:
        if seed in chosen.seeds:
            raise KDError(f"{experiment.paper}: the tuning seed {seed} is one that the experiment judges")
    return tuning


def tune(
    paper: str,
    scale: str = "tiny",
    *,
    arms: Sequence[str] = (),
    workers: int | None = None,
    papers_root: Path | None = None,
    root: Path | None = None,
    say: Callable[[str], None] = print,
    measure: Callable[[Sequence[Trial], int], Iterable[Answer]] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Runs what is missing of the sweep, the grid grown as far as it may, and returns what is known of it.

    {paper, scale, tuning, figures: arm -> rate -> mean, by_seed, best, edges}. A sweep recorded by paper, whole,
    is read and not made again. `executor`: where workers are started, on this machine by default. Raises KDError where
    a scale declares no tuning, or runs failed.
    """
    experiment = load_experiment(paper, papers_root)
    testbed = read_testbed_of(experiment, experiment.scale(scale))
    tuning = declared_tuning(experiment, scale, testbed)
    chosen = [experiment.arm(arm).name for arm in arms]
    chosen = chosen or swept_arms(experiment, scale) or list(experiment.scale(scale).arms)
    earlier = _by_paper(tuning_path(paper, scale, root), tuning, chosen)
    if earlier is not None:
        say(f"{paper} at scale {scale}: 0 runs to make, {_count(earlier['figures'])} recorded by paper")
        return earlier
    keys = sweep_keys(experiment, scale, testbed)
    run = measure or (lambda trials, workers: _in_workers(trials, workers, executor))
    many = workers or (cores() if executor is None else executor.workers("cpu", cores()))
    for _ in range(ROUNDS):
        sweep = sweep_at(experiment, scale, testbed, tuning, chosen, root)
        if not sweep.missing and not sweep.starts:
            break
        trials = {
            (keys[arm], rate, seed): Trial(
                arm,
                rate,
                seed,
                _work(experiment, f"{arm}@{rate_name(rate)}", spec, testbed, seed, scale, tuning),
                keys[arm],
            )
            for arm, missing in sweep.missing.items()
            for rate, seed in missing
            for spec in [spec_of(experiment, scale, arm, testbed, learning_rate=rate)]
        }
        if sweep.starts:
            trials = _of_starts(experiment, scale, testbed, sweep, tuning)
            say(f"{paper} at scale {scale}: {len(trials)} runs to make of where its arms start")
        else:
            grid = ", ".join(map(rate_name, sweep.grid))
            say(f"{paper} at scale {scale}: {len(trials)} runs to make on the grid {grid}")
        failed: list[str] = []
        for trial, value, why in run(list(trials.values()), many):
            if value is None:  # the others' figures are kept
                failed.append(f"{trial} seed {trial.seed}: {why}")
                say(f"  {failed[-1]}")
                continue
            found = why if math.isnan(value) else f"{tuning.metric} {value:.4g}"
            say(f"  {trial} seed {trial.seed}: {found}")
            path = arm_tuning_path(str(testbed["name"]), trial.key, root)
            _keep(path, trial, why if math.isnan(value) else value, tuning, testbed)
        if failed:
            raise KDError(f"{len(failed)} of {len(trials)} runs of the sweep failed: {'; '.join(failed)}")
    return record_of(experiment, scale, testbed, tuning, chosen, root)


def record_of(
    experiment: Experiment,
    scale: str,
    testbed: Mapping[str, Any],
    tuning: Tuning,
    arms: Sequence[str],
    root: Path | None = None,
) -> dict[str, Any]:
    """What is known of a sweep: every figure by seed and rate, each arm's mean and best rate, arms at an edge."""
    from reproductions.engine.plan.rates import recorded_figures

    keys = sweep_keys(experiment, scale, testbed)
    sweep = sweep_at(experiment, scale, testbed, tuning, arms, root)
    by_seed, figures, higher = {}, {}, True
    for arm in arms:
        found, higher = recorded_figures(str(testbed["name"]), keys[arm], tuning.metric, root)
        found = {
            rate: {seed: value for seed, value in seeds.items() if not math.isinf(value)}
            for rate, seeds in found.items()
        }
        names = [name for name in map(rate_name, sweep.grid) if name in found]
        by_seed[arm] = {name: dict(found[name]) for name in names}
        figures[arm] = {
            name: sum(found[name][str(seed)] for seed in tuning.seeds) / len(tuning.seeds)
            for name in names
            if all(str(seed) in found[name] for seed in tuning.seeds)
        }
    return {
        "version": SPEC_VERSION,
        "paper": experiment.paper,
        "scale": scale,
        "tuning": {
            "seeds": list(tuning.seeds),
            "learning_rates": list(sweep.grid),
            "metric": tuning.metric,
            "higher_is_better": higher,
        },
        "keys": {arm: keys[arm] for arm in arms},
        "figures": figures,
        "by_seed": by_seed,
        "best": dict(sweep.best),
        "edges": list(sweep.edges),
    }


def _by_paper(path: Path, tuning: Tuning, arms: Sequence[str]) -> dict[str, Any] | None:
    """A whole sweep of one seed that was recorded by paper; None where it is not what is declared."""
    if tuning.by_arm or not path.is_file():
        return None
    found = read_json(path)
    told = found["tuning"]
    if told.get("seed") != tuning.seeds[0] or told.get("metric") != tuning.metric:
        return None
    names = list(map(rate_name, tuning.learning_rates))
    whole = all(name in found["figures"].get(arm, {}) for arm in arms for name in names)
    return found if whole else None


def _count(figures: Mapping[str, Mapping[str, Any]]) -> int:
    return sum(map(len, figures.values()))


def _of_starts(
    experiment: Experiment, scale: str, testbed: Mapping[str, Any], sweep: Sweep, tuning: Tuning
) -> dict[tuple[str, float, int], Trial]:
    """Every start of which a figure is wanting, once for all arms that begin there."""
    specs = start_specs(experiment, scale, testbed)
    trials: dict[tuple[str, float, int], Trial] = {}
    for arm, seeds in sweep.starts.items():
        key, name = start_key(specs[arm]), f"start of {arm}"
        for seed in seeds:
            work = _work(experiment, name, specs[arm], testbed, seed, scale, tuning)
            trials.setdefault((key, 0.0, seed), Trial(name, 0.0, seed, work, key))
    return trials


def _work(
    experiment: Experiment,
    name: str,
    spec: Mapping[str, Any],
    testbed: Mapping[str, Any],
    seed: int,
    scale: str,
    tuning: Tuning,
) -> Work:
    return Work(
        arm=name,
        seeds=[seed],
        key=key_of(spec),
        spec=dict(spec),
        testbed=dict(testbed),
        curve={"points": 0},
        wanted=[tuning.metric],
        how={},
        failures=str(cache_root() / "tune" / experiment.paper / scale / "failed"),
        code=str(code_path(experiment.path)) if experiment.code else None,
        code_digest=experiment.code,
        validate=True,
    )


def _keep(path: Path, trial: Trial, value: float | str, tuning: Tuning, testbed: Mapping[str, Any]) -> None:
    """Adds a figure, or why there is none, to the arm's record; one that is there already stays."""
    from reproductions.testbeds import metrics_of

    with file_lock(cache_root() / "tune" / f"{path.parent.name}-{path.stem}.lock"):
        record: dict[str, Any] = read_json(path) if path.is_file() else _begun(path, trial)
        higher = metrics_of(testbed)[tuning.metric].higher_is_better
        metrics = record.setdefault("metrics", {})
        mine = metrics.setdefault(tuning.metric, {"higher_is_better": higher, "figures": {}})
        kind = "ended" if isinstance(value, str) else "figures"
        kept = mine.setdefault(kind, {})
        kept.setdefault(rate_name(trial.rate), {}).setdefault(str(trial.seed), value)
        mine[kind] = {
            rate: dict(sorted(seeds.items(), key=lambda item: int(item[0])))
            for rate, seeds in sorted(kept.items(), key=lambda item: float(item[0]))
        }
        write_atomic(path, json.dumps(record, indent=1) + "\n")


def _begun(path: Path, trial: Trial) -> dict[str, Any]:
    training = {name: value for name, value in trial.work.spec["training"].items() if name != "learning_rate"}
    spec = {**trial.work.spec, "training": training}
    return {"version": SPEC_VERSION, "key": path.stem, "spec": spec}


def _in_workers(trials: Sequence[Trial], workers: int, executor: Executor | None = None) -> Iterator[Answer]:
    """The trials in worker processes, the seeds of an arm at a rate as one task: they may be trained together.

    What a worker left that died is begun again as often as the executor says. Raises KDError where no worker can be set
    up; leaving it ends them all.
    """
    tasks: dict[str, list[Trial]] = {}
    for trial in trials:
        tasks.setdefault(str(trial), []).append(trial)
    waiting = list(tasks.values())
    at: dict[int, dict[int, Trial]] = {}  # by worker, what it has not answered yet, by seed
    losses = Losses()
    job = Job(cache=str(cache_root()), device="cpu", threads=1, number=0)
    with Pool(job, cache_root() / "tune" / "logs", worker_variables(1, offline=True), executor) as pool:

        def give(number: int) -> None:
            at.pop(number, None)
            if waiting:
                task = waiting.pop(0)
                at[number] = {trial.seed: trial for trial in task}
                pool.give(number, replace(task[0].work, seeds=[trial.seed for trial in task]))

        for _ in range(max(1, min(workers, len(waiting)))):
            pool.start_worker()
        while waiting or at:
            event = pool.event(timeout=0.5)
            if event is None:
                continue
            kind, number = event["event"], event["worker"]
            if kind in ("ready", "done"):
                losses.ready()
                give(number)
            elif kind == "broken":
                raise KDError(event["message"])
            elif kind == "finished":
                yield at[number].pop(event["seed"]), float(next(iter(event["metrics"].values()))), ""
            elif kind == "failed":
                broken = math.nan if event.get("broken") else None
                yield at[number].pop(event["seed"]), broken, event["message"]
            elif kind == "exited":
                why = pool.remove(number).splitlines()[0]
                if number not in at:
                    losses.unready(pool.reschedules, why)
                left = at.pop(number, {}).values()
                again = [one for one in left if losses.again((str(one), one.seed), pool.reschedules)]
                for trial in left:
                    if trial not in again:
                        yield trial, None, why
                if again:
                    waiting.append(again)
                if waiting:
                    pool.start_worker()
