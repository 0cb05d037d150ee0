"""Processor seconds of training the seeds of an arm as one batched model, beside each alone, and whether figures agree.

Arms of GKD on the tiny pronunciation testbed, without learning curves. Both ways take turns in one process, group after
group of five seeds, so that a busy machine slows them alike. Starts, teachers and what teachers remember are there
before. The figures of a seed differ by rounding alone where a method's data are fixed; where a student writes its own,
one other token leads to another training, so that there only means over seeds agree.
"""

from __future__ import annotations

import argparse
import io
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from tools.bench.measure import publish

if TYPE_CHECKING:
    from rich.console import Console

TESTBED, RATE = "pronunciation", 4e-3
PAPER, SCALE, ARMS = "gkd", "tiny", ("sft", "fkl", "rkl-on-policy")
METRICS = ("rouge_l", "greedy_exact_match")
GROUP, GROUPS, QUICK_STEPS = 5, 2, 20


def run(args: argparse.Namespace, console: Console, record: dict[str, Any]) -> int:
    """Train, print, and record if asked."""
    import torch

    torch.set_num_threads(1)
    groups = 1 if args.quick else GROUPS
    figures = dict(measured(ARMS, groups, QUICK_STEPS if args.quick else None, console.status))
    console.print(_table(figures))
    del record["cases"]
    record |= {
        "what": "the seeds of an arm trained as one batched model, and each alone, one CPU thread",
        "group": GROUP,
        "seeds": groups * GROUP,
        "figures": figures,
    }
    publish(record, "cohort-tiny-cpu", args, console)
    return 0


def measured(
    arms: Sequence[str], groups: int, steps: int | None, status: Callable[[str], Any]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each arm and its figures."""
    from transformers.utils import logging

    from reproductions.engine.plan.experiment import load_experiment
    from reproductions.engine.plan.spec import spec_of
    from reproductions.testbeds import load_testbed, read_testbed

    logging.disable_progress_bar()
    experiment, bed = load_experiment(PAPER), read_testbed(TESTBED)
    testbed = load_testbed(bed)
    for arm in arms:
        spec = spec_of(experiment, SCALE, arm, bed, learning_rate=RATE)
        rows = []
        for number in range(-1, groups):  # the first makes what runs share, and warms up
            seeds = range(max(number, 0) * GROUP, (max(number, 0) + 1) * GROUP)
            turn = [(True, _together), (False, _alone)][:: 1 if number % 2 else -1]
            with status(f"{arm}, seeds {seeds[0]} to {seeds[-1]}"), redirect_stdout(io.StringIO()):
                found = {
                    way: train(_runs(spec, testbed, seeds, 2 if number < 0 else steps)) for way, train in turn
                }
            if number >= 0:
                rows += [(found[True][place], found[False][place]) for place in range(len(seeds))]
        yield arm, summary(rows)


def summary(rows: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
    """Of (together, alone) of each seed: mean seconds, their ratio, and the mean difference of each metric.

    The standard error is that of the mean of the paired differences; 0 for one seed.
    """
    together, alone = (statistics.fmean(pair[way]["seconds"] for pair in rows) for way in (0, 1))
    found: dict[str, Any] = {
        "seconds_together": round(together, 3),
        "seconds_alone": round(alone, 3),
        "ratio": round(alone / together, 2),
    }
    for name in METRICS:
        gaps = [one[name] - other[name] for one, other in rows]
        error = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
        found[name] = {
            "alone": round(statistics.fmean(other[name] for _, other in rows), 3),
            "difference": round(statistics.fmean(gaps), 3),
            "standard_error": round(error, 3),
            "same": sum(abs(gap) < 1e-9 for gap in gaps),
        }
    return found


def _runs(spec: dict[str, Any], testbed: Any, seeds: Sequence[int], steps: int | None) -> list[Any]:
    import torch

    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.run import Run

    spec = {**spec, "curve": {"points": 0}}
    if steps is not None:
        spec["training"] = {**spec["training"], "max_steps": steps}
    device, artifacts = torch.device("cpu"), Artifacts()
    return [Run(spec, seed, testbed=testbed, device=device, artifacts=artifacts) for seed in seeds]


def _together(runs: Sequence[Any]) -> list[dict[str, float]]:
    from reproductions.engine.work.cohort import train_together

    train_together(runs)
    return [_figures(one, one.trained) for one in runs]


def _alone(runs: Sequence[Any]) -> list[dict[str, float]]:
    from reproductions.engine.work.seeding import seed_everything
    from reproductions.engine.work.surroundings import train

    found = []
    for one in runs:
        seed_everything(one.seed)
        found.append(_figures(one, train(one)))
    return found


def _figures(run: Any, student: Any) -> dict[str, float]:
    """Training seconds and metrics of a run."""
    import torch

    from reproductions.engine.metrics import value
    from reproductions.engine.work.seeding import seed_everything

    seed_everything(run.seed)
    with torch.no_grad():
        columns = run.testbed.evaluate(student.eval(), run, wanted=METRICS)
    return {
        "seconds": run.budget.train_cpu_seconds,
        **{name: value(run.testbed.metrics[name], columns) for name in METRICS},
    }


def _table(figures: Mapping[str, Mapping[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="processor seconds of training, a seed", title_justify="left", expand=True)
    for column in ("arm", "alone", f"{GROUP} together", "times faster", "ROUGE-L", "greedy exact match"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for arm, found in figures.items():
        table.add_row(arm, *cells(found))
    return table


def cells(found: Mapping[str, Any]) -> list[str]:
    """An arm's figures as text: seconds, their ratio, and how each metric differs."""
    gaps = [f"{found[name]['difference']:+.2f} ± {found[name]['standard_error']:.2f}" for name in METRICS]
    seconds = [f"{found[name]:.2f}" for name in ("seconds_alone", "seconds_together", "ratio")]
    return [*seconds, *gaps]
