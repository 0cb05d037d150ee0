"""The same tuning effort for every arm: a grid of learning rates, one seed that no experiment judges, validation data.

`settings["tuning"]` declares it: {"seed", "learning_rates", "metric"}. Every figure is written to
reproductions/papers/<id>/tuning/<scale>.json as it comes, so that an interrupted sweep goes on where it stopped.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Experiment, load_experiment, paper_folder
from reproductions.engine.files import canonical_json, digest, read_json, significant, write_atomic

Figures = dict[str, dict[str, float]]  # arm -> learning rate (as in the settings) -> the metric


def tuning_path(paper: str, scale: str, papers_root: Path | None = None) -> Path:
    """Where a sweep is recorded."""
    return paper_folder(paper, papers_root) / "tuning" / f"{scale}.json"


def best_rates(figures: Mapping[str, Mapping[str, float]], higher_is_better: bool) -> dict[str, float]:
    """Each arm's best learning rate; the smallest of equally good ones."""
    sign = 1 if higher_is_better else -1
    return {
        arm: min((float(rate) for rate in rates), key=lambda rate: (-sign * rates[rate_name(rate)], rate))
        for arm, rates in figures.items()
    }


def rate_name(rate: float) -> str:
    """A learning rate as the key of a JSON object."""
    return f"{rate:g}"


def tune(
    paper: str,
    scale: str,
    *,
    arms: Sequence[str] = (),
    workers: int = 2,
    papers_root: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Run what is missing of the sweep and return its record. Raises KDError where a scale declares no tuning."""
    experiment = load_experiment(paper, papers_root)
    declared = experiment.scale(scale).settings.get("tuning")
    if not declared:
        raise KDError(f'{paper} declares no "tuning" in the settings of scale "{scale}"')
    if declared["seed"] in experiment.scale(scale).seeds:
        raise KDError(f"{paper}: the tuning seed {declared['seed']} is one that the experiment judges")
    path = tuning_path(paper, scale, papers_root)
    record = {"paper": paper, "scale": scale, "tuning": dict(declared), "settings": _key(experiment, scale)}
    figures = _recorded(path, record)
    chosen = arms or list(experiment.arms_at(scale))
    tasks = [
        (arm, rate)
        for arm in chosen
        for rate in declared["learning_rates"]
        if rate_name(rate) not in figures.get(arm, {})
    ]
    say(f"{paper} at scale {scale}: {len(tasks)} runs to make, {sum(map(len, figures.values()))} recorded")
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            pool.submit(_measure, paper, scale, arm, rate, papers_root): (arm, rate) for arm, rate in tasks
        }
        for job in as_completed(jobs):
            arm, rate = jobs[job]
            figures.setdefault(arm, {})[rate_name(rate)] = job.result()
            say(f"  {arm} at {rate_name(rate)}: {declared['metric']} {figures[arm][rate_name(rate)]:.4g}")
            ordered = {
                name: dict(sorted(figures[name].items(), key=lambda i: float(i[0])))
                for name in sorted(figures)
            }
            write_atomic(path, json.dumps({**record, "figures": ordered}, indent=1) + "\n")
    return {**record, "figures": figures}


def _key(experiment: Experiment, scale: str) -> str:
    """Hash of the settings that a sweep depends on: all but what it is there to choose."""
    settings = {k: v for k, v in experiment.scale(scale).settings.items() if k not in ("arms", "tuning")}
    return digest(json.loads(canonical_json(settings)), 12)


def _recorded(path: Path, record: Mapping[str, Any]) -> Figures:
    if not path.is_file():
        return {}
    found = read_json(path)
    same = all(found.get(name) == json.loads(json.dumps(value)) for name, value in record.items())
    return found["figures"] if same else {}


@lru_cache(maxsize=1)  # a worker makes many runs on it
def _testbed(paper: str, scale: str, papers_root: Path | None) -> Any:
    return load_experiment(paper, papers_root).load_testbed(scale)


def _measure(paper: str, scale: str, arm: str, rate: float, papers_root: Path | None) -> float:
    """The metric on the validation split of one arm trained with one learning rate."""
    import torch

    from reproductions.engine.metrics import values
    from reproductions.engine.run import make_run
    from reproductions.engine.work.seeding import seed_everything

    torch.set_num_threads(1)
    experiment = load_experiment(paper, papers_root)
    declared = experiment.scale(scale)
    settings = copy.deepcopy(dict(declared.settings))
    settings.setdefault("arms", {}).setdefault(arm, {})["learning_rate"] = rate
    settings["curve_points"] = 0
    tuned = replace(experiment, scales={scale: replace(declared, settings=settings)})
    tuning = settings["tuning"]
    run = make_run(tuned, arm, tuning["seed"], scale, testbed=_testbed(paper, scale, papers_root))
    seed_everything(run.seed)
    model = tuned.arm(arm).train(run)
    seed_everything(run.seed)
    with torch.no_grad():
        columns = run.testbed.evaluate(model.eval(), run, split="validation")
    return significant(values(run.testbed.metrics, columns)[tuning["metric"]], 5)
