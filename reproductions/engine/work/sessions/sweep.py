"""The same tuning effort for every arm: a grid of learning rates, one seed that is never judged, validation data.

`tuning` of a testbed's defaults or of a scale declares it: {seed, learning_rates, metric}. Every figure is written as
it comes (`engine/plan/rates.py` says where), so that an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, significant, write_atomic
from reproductions.engine.plan.code import load_code
from reproductions.engine.plan.experiment import Experiment, code_path, load_experiment
from reproductions.engine.plan.rates import rate_name, tuning_path
from reproductions.engine.plan.spec import SPEC_VERSION, key_of, read_testbed_of, spec_of

Figures = dict[str, dict[str, float]]  # arm -> learning rate -> the metric


def declared_tuning(experiment: Experiment, scale: str, testbed: Mapping[str, Any]) -> dict[str, Any]:
    """Seed, learning rates and metric of a scale's sweep. Raises KDError where there is none, or its seed is judged."""
    chosen = experiment.scale(scale)
    tuning = {**testbed.get("defaults", {}).get("tuning", {}), **chosen.settings.get("tuning", {})}
    if not tuning:
        raise KDError(
            f'{experiment.paper} declares no "tuning" at scale "{scale}", nor does testbed {chosen.testbed}'
        )
    if tuning["seed"] in chosen.seeds:
        raise KDError(
            f"{experiment.paper}: the tuning seed {tuning['seed']} is one that the experiment judges"
        )
    return tuning


def sweep_keys(experiment: Experiment, scale: str, testbed: Mapping[str, Any]) -> dict[str, str]:
    """What each arm's sweep is of: the key of its spec without a learning rate."""
    found = {}
    for arm in experiment.scale(scale).arms:
        spec = spec_of(experiment, scale, arm, testbed, learning_rate=0.0)
        del spec["training"]["learning_rate"]
        found[arm] = key_of(spec)
    return found


def tune(
    paper: str,
    scale: str = "tiny",
    *,
    arms: Sequence[str] = (),
    workers: int = 2,
    papers_root: Path | None = None,
    root: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run what is missing of the sweep and return its record. Raises KDError where a scale declares no tuning."""
    experiment = load_experiment(paper, papers_root)
    testbed = read_testbed_of(experiment, experiment.scale(scale))
    tuning = declared_tuning(experiment, scale, testbed)
    chosen = [experiment.arm(arm).name for arm in arms] or list(experiment.scale(scale).arms)
    keys, path = sweep_keys(experiment, scale, testbed), tuning_path(paper, scale, root)
    figures = _recorded(path, tuning, keys)
    tasks = [
        (arm, rate)
        for arm in chosen
        for rate in tuning["learning_rates"]
        if rate_name(rate) not in figures.get(arm, {})
    ]
    say(f"{paper} at scale {scale}: {len(tasks)} runs to make, {sum(map(len, figures.values()))} recorded")
    code = str(code_path(experiment.path)) if experiment.code else None
    failed: list[str] = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {}
        for arm, rate in tasks:
            spec = spec_of(experiment, scale, arm, testbed, learning_rate=rate)
            spec["curve"] = {"points": 0}
            jobs[pool.submit(_measure, spec, testbed, tuning["seed"], tuning["metric"], code)] = (arm, rate)
        try:
            for job in as_completed(jobs):
                arm, rate = jobs[job]
                error = job.exception()
                if error is not None:  # the others' figures are kept
                    failed.append(f"{arm} at {rate_name(rate)}: {error}")
                    say(f"  {failed[-1]}")
                    continue
                figures.setdefault(arm, {})[rate_name(rate)], higher = job.result()
                say(f"  {arm} at {rate_name(rate)}: {tuning['metric']} {figures[arm][rate_name(rate)]:.4g}")
                tuned = {**tuning, "higher_is_better": higher}
                record = {
                    "version": SPEC_VERSION,
                    "paper": paper,
                    "scale": scale,
                    "tuning": tuned,
                    **_sorted(figures, keys),
                }
                write_atomic(path, json.dumps(record, indent=1) + "\n")
        except BaseException:  # Ctrl-C: without this the pool would first make all that is left
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise KDError(f"{len(failed)} of {len(tasks)} runs of the sweep failed: {'; '.join(failed)}")
    return read_json(path) if path.is_file() else {}


def _sorted(figures: Figures, keys: Mapping[str, str]) -> dict[str, Any]:
    """Keys and figures of a record, arms by name and rates by size."""
    return {
        "keys": {name: keys[name] for name in sorted(figures)},
        "figures": {
            name: dict(sorted(figures[name].items(), key=lambda item: float(item[0])))
            for name in sorted(figures)
        },
    }


def _recorded(path: Path, tuning: Mapping[str, Any], keys: Mapping[str, str]) -> Figures:
    """The figures of a sweep that are of today's arms, seed and metric."""
    if not path.is_file():
        return {}
    found = read_json(path)
    if any(found["tuning"].get(name) != tuning[name] for name in ("seed", "metric")):
        return {}
    return {
        arm: dict(rates)
        for arm, rates in found["figures"].items()
        if "version" not in found  # made before metrics left the keys
        or found.get("keys", {}).get(arm) == keys.get(arm)
    }


def _measure(
    spec: Mapping[str, Any], bed: Mapping[str, Any], seed: int, metric: str, code: str | None
) -> tuple[float, bool]:
    """The metric on the validation split of one arm trained with one learning rate, and whether more is better."""
    import torch

    from reproductions.engine.metrics import value
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.run import Run
    from reproductions.engine.work.seeding import seed_everything
    from reproductions.engine.work.surroundings import train
    from reproductions.testbeds import load_testbed

    torch.set_num_threads(1)
    if code is not None:
        load_code(Path(code))
    testbed = load_testbed(bed)
    run = Run(spec, seed, testbed=testbed, device=torch.device("cpu"), artifacts=Artifacts(), wanted=[metric])
    seed_everything(seed)
    model = train(run)
    known = testbed.metrics[metric]
    return significant(
        value(known, run.measure.columns(model, split="validation", wanted=[metric])), 5
    ), known.higher_is_better
