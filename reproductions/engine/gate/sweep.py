"""The learning rate of a gate's arms, where it is not written down: the best of a grid for the baseline.

Three seeds that neither the gate nor a paper uses, the validation split, the gate's metric. The best rate must lie
inside the grid: at an edge the next one might be better still. Every figure is kept as it comes, in the cache, so that
an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, significant, write_atomic
from reproductions.engine.gate.checks.base import BASELINE
from reproductions.engine.gate.spec import Gate
from reproductions.engine.plan.code import load_code
from reproductions.engine.plan.experiment import code_path
from reproductions.engine.plan.rates import rate_name
from reproductions.engine.plan.spec import key_of
from reproductions.testbeds.spec import metrics_of

SEEDS = (900, 901, 902)
Figures = dict[str, dict[str, float]]  # rate -> seed -> the metric on validation


def sweep(gate: Gate, cache: Path, workers: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{rates, seeds, figures, best}: makes what is missing. Raises KDError where the best rate lies on an edge."""
    specs = {rate: gate.specs(rate)[BASELINE] for rate in gate.rates}
    path = cache / "gates" / f"{gate.name}-{key_of(_without_rate(specs[gate.rates[0]]))}-{gate.metric}.json"
    figures: Figures = read_json(path) if path.is_file() else {}
    missing = [
        (rate, seed)
        for rate in gate.rates
        for seed in SEEDS
        if str(seed) not in figures.get(rate_name(rate), {})
    ]
    if missing:
        say(f"{gate.name}: {len(missing)} runs of the sweep over {len(gate.rates)} rates to make")
        _make(gate, specs, missing, figures, path, workers, say)
    return chosen(gate, figures)


def chosen(gate: Gate, figures: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The best rate by the mean over the seeds, and what it was chosen from. Raises KDError where it is an edge."""
    higher = metrics_of(gate.testbed)[gate.metric].higher_is_better
    means = {
        rate: sum(figures[rate_name(rate)][str(seed)] for seed in SEEDS) / len(SEEDS) for rate in gate.rates
    }
    best = min(means, key=lambda rate: (-means[rate] if higher else means[rate], rate))
    if best in (gate.rates[0], gate.rates[-1]):
        shown = ", ".join(f"{rate_name(rate)} {mean:.4g}" for rate, mean in means.items())
        raise KDError(
            f"{gate.place('learning_rate')}: the best rate, {rate_name(best)}, lies on the edge of the grid: "
            f"widen it ({gate.metric} on validation: {shown})"
        )
    kept = {
        rate_name(rate): {str(seed): figures[rate_name(rate)][str(seed)] for seed in SEEDS}
        for rate in gate.rates
    }
    return {"rates": list(gate.rates), "seeds": list(SEEDS), "figures": kept, "best": best}


def _make(
    gate: Gate,
    specs: Mapping[float, Mapping[str, Any]],
    missing: list[tuple[float, int]],
    figures: Figures,
    path: Path,
    workers: int,
    say: Callable[[str], None],
) -> None:
    experiment = gate.experiment(gate.rates[0])
    code = str(code_path(experiment.path)) if experiment.code else None
    failed = []
    with ProcessPoolExecutor(max(1, min(workers, len(missing))), mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(_measure, specs[rate], gate.testbed, seed, gate.metric, code, str(path.parents[1])): (
                rate,
                seed,
            )
            for rate, seed in missing
        }
        try:
            for job in as_completed(jobs):
                rate, seed = jobs[job]
                error = job.exception()
                if error is not None:  # the others' figures are kept
                    failed.append(f"{rate_name(rate)}, seed {seed}: {error}")
                    continue
                figures.setdefault(rate_name(rate), {})[str(seed)] = job.result()
                say(f"  {rate_name(rate)}, seed {seed}: {gate.metric} {job.result():.4g}")
                write_atomic(path, json.dumps(figures, indent=1) + "\n")
        except BaseException:  # Ctrl-C: without this the pool would first make all that is left
            pool.shutdown(cancel_futures=True)
            raise
    if failed:
        raise KDError(f"{len(failed)} of {len(missing)} runs of the sweep failed: {'; '.join(failed)}")


def _without_rate(spec: Mapping[str, Any]) -> dict[str, Any]:
    training = {name: value for name, value in spec["training"].items() if name != "learning_rate"}
    return {**spec, "training": training}


def _measure(
    spec: Mapping[str, Any], bed: Mapping[str, Any], seed: int, metric: str, code: str | None, cache: str
) -> float:
    """The metric on the validation split of the baseline trained with one rate and seed."""
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
    testbed = load_testbed(bed).at(seed)
    run = Run(spec, seed, testbed=testbed, device=torch.device("cpu"), artifacts=Artifacts(Path(cache)))
    seed_everything(seed)
    model = train(run)
    return significant(value(testbed.metrics[metric], run.measure.columns(model, split="validation")), 5)
