"""`kd bench --grpo`: how GRPO learns on the testbed `countdown`, by our policy trainer and by TRL's own.

Both begin from the testbed's fine-tuned start of a seed and get the same prompts, exact check and settings: groups of
8, 32 completions and one update of each batch, a constant learning rate. What they sample differs, so curves agree up
to noise only: a point is the mean reward of the completions of some updates, over seeds; its interval that of the
paired difference (Student's t over seeds, 95 % for all rows together, by Bonferroni). At the end both students answer
all validation problems greedily.
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from rich.table import Table

from tools.bench.measure import publish

if TYPE_CHECKING:
    from rich.console import Console

PAPER, SCALE, ARM = "deepseekmath", "tiny-countdown", "start"
BATCH, GROUP, UPDATES, POINTS, SEEDS, RATE = 32, 8, 200, 5, 8, 5e-4
METRIC = "greedy_exact_match"
OURS, PEER = "KD Atlas, GRPO", "TRL, GRPOTrainer"

Check = Callable[[Sequence[str], Sequence[Sequence[int]]], list[float]]


class Reward:
    """A TRL reward function: 1 for a right answer, else 0; it keeps the mean of every call."""

    __name__ = "right"

    def __init__(self, check: Check) -> None:
        self._check, self.means = check, list[float]()

    def __call__(self, prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float | None]:
        found = [figure / 100 for figure in self._check(prompts, completion_ids)]
        self.means.append(statistics.fmean(found))
        return list(found)


def run(args: argparse.Namespace, console: Console, record: dict[str, Any]) -> int:
    """Train, print, and record if asked."""
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()
    seeds, updates = (2, 10) if args.quick else (SEEDS, UPDATES)
    curves: dict[str, list[list[float]]] = {OURS: [], PEER: []}
    greedy: dict[str, list[float]] = {OURS: [], PEER: []}
    for seed in range(seeds):
        for name in [OURS, PEER][:: 1 if seed % 2 else -1]:
            with console.status(f"{name}, seed {seed}"), redirect_stdout(io.StringIO()):
                curve, right = learnt(name, seed, updates)
            curves[name].append(curve)
            greedy[name].append(right)
    figures = {
        "points": [
            {
                "until": (n + 1) * updates // POINTS,
                **beside([c[n] for c in curves[OURS]], [c[n] for c in curves[PEER]]),
            }
            for n in range(POINTS)
        ],
        "greedy": beside(greedy[OURS], greedy[PEER]),
    }
    console.print(_table(figures))
    agree = all(abs(row["difference"]) <= row["half"] for _, row in rows(figures))
    console.print("every interval holds 0" if agree else "an interval does not hold 0")
    del record["cases"]
    record |= {
        "what": f"GRPO on countdown, groups of {GROUP}, {BATCH} completions an update, learning rate {RATE:g}",
        "seeds": seeds,
        "updates": updates,
        "figures": figures,
    }
    publish(record, "grpo-tiny-cpu", args, console)
    return 0


def learnt(name: str, seed: int, updates: int) -> tuple[list[float], float]:
    """Mean rewards in percent of POINTS equal parts of a training, and greedy answers right in percent at its end."""
    import torch
    from datasets import Dataset
    from transformers import set_seed

    from reproductions.engine.metrics import value
    from reproductions.engine.plan.experiment import load_experiment
    from reproductions.engine.plan.spec import spec_of
    from reproductions.engine.work.artifacts import Artifacts
    from reproductions.engine.work.run import Run
    from reproductions.engine.work.surroundings import RunSurroundings
    from reproductions.testbeds import load_testbed, read_testbed

    bed = read_testbed("countdown")
    spec = spec_of(load_experiment(PAPER), SCALE, ARM, bed, learning_rate=0.0)
    testbed = load_testbed(bed).at(seed)
    one = Run(
        {**spec, "curve": {"points": 0}},
        seed,
        testbed=testbed,
        device=torch.device("cpu"),
        artifacts=Artifacts(),
    )
    testbed.prepare([one])
    surroundings = RunSurroundings(one)
    model, reward = surroundings.student(), Reward(surroundings.scorer(None))
    set_seed(seed)
    rows = Dataset.from_dict({"prompt": testbed.task.rows("train")["prompt"][:]})
    with tempfile.TemporaryDirectory() as folder:
        options = settings(folder, seed, updates, testbed.max_completion_tokens)
        trainer = (ours if name == OURS else peer)(model, options, rows, testbed.tokenizer, reward)
        trainer.train()
    columns = one.measure.columns(model, split="validation", wanted=[METRIC])
    size = updates // POINTS
    parts = [100 * statistics.fmean(reward.means[n * size : (n + 1) * size]) for n in range(POINTS)]
    return parts, value(testbed.metrics[METRIC], columns)


def ours(model: Any, options: dict[str, Any], rows: Any, tokenizer: Any, reward: Reward) -> Any:
    """Our policy trainer with GRPO's advantage."""
    from methods.slots.advantages import GroupReward
    from methods.trainers import OptimisationConfig, PolicyOptimiser

    return PolicyOptimiser(
        model,
        args=OptimisationConfig(**options),
        train_dataset=rows,
        processing_class=tokenizer,
        rewards=[reward],
        advantage=GroupReward(),
    )


def peer(model: Any, options: dict[str, Any], rows: Any, tokenizer: Any, reward: Reward) -> Any:
    """TRL's own."""
    import importlib

    trl = importlib.import_module("trl")
    args = trl.GRPOConfig(**options, disable_dropout=True)
    return trl.GRPOTrainer(
        model, reward_funcs=[reward], args=args, train_dataset=rows, processing_class=tokenizer
    )


def settings(folder: str, seed: int, updates: int, tokens: int) -> dict[str, Any]:
    """Training arguments that both take."""
    return {
        "output_dir": folder, "per_device_train_batch_size": BATCH, "num_generations": GROUP,
        "max_completion_length": tokens, "max_steps": updates, "learning_rate": RATE, "lr_scheduler_type": "constant",
        "loss_type": "grpo", "scale_rewards": "group", "epsilon": 0.2, "temperature": 1.0, "max_grad_norm": 1.0,
        "optim": "adamw_torch", "use_cpu": True, "bf16": False, "beta": 0.0, "gradient_checkpointing": False,
        "report_to": "none", "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "seed": seed,
    }  # fmt: skip


def beside(mine: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Means, the mean paired difference, and half of its interval: 95 % for all POINTS + 1 of them together."""
    from scipy.stats import t

    gaps = [one - other for one, other in zip(mine, theirs, strict=True)]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps))
    return {
        "ours": round(statistics.fmean(mine), 2),
        "trl": round(statistics.fmean(theirs), 2),
        "difference": round(statistics.fmean(gaps), 3),
        "half": round(float(t.ppf(1 - 0.025 / (POINTS + 1), len(gaps) - 1)) * error, 3),
    }


def _table(figures: dict[str, Any]) -> Table:
    table = Table(
        title="GRPO on countdown, mean reward of the samples in percent", title_justify="left", expand=True
    )
    for column in ("updates", OURS, PEER, "difference, 95 %"):
        table.add_column(column, justify="left" if column == "updates" else "right")
    for name, row in rows(figures):
        table.add_row(
            name, f"{row['ours']:.2f}", f"{row['trl']:.2f}", f"{row['difference']:+.2f} ± {row['half']:.2f}"
        )
    return table


def rows(figures: dict[str, Any]) -> list[tuple[str, dict[str, float]]]:
    """The rows of the table: name, and what `beside` gives."""
    points = [(f"to {point['until']}", point) for point in figures["points"]]
    return [*points, ("greedy, at the end", figures["greedy"])]
