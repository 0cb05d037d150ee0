"""`kd tune PAPER`: give every arm the same sweep of learning rates, on validation data."""

from __future__ import annotations

import argparse

from reproductions.engine.experiment import load_experiment
from reproductions.engine.tuning import best_rates, rate_name, tune, tuning_path
from tools.terminal import grid


def main(args: argparse.Namespace) -> int:
    """Run what is missing of the sweep, print the table and each arm's best rate."""
    record = tune(args.paper, args.scale, arms=args.arms or (), workers=args.workers or 2)
    metric = record["tuning"]["metric"]
    testbed = load_experiment(args.paper).load_testbed(args.scale)
    best = best_rates(record["figures"], testbed.metrics[metric].higher_is_better)
    rates = [rate_name(rate) for rate in record["tuning"]["learning_rates"]]
    rows = [["arm", *rates, "best"]]
    for arm, figures in record["figures"].items():
        rows.append(
            [arm, *(f"{figures[r]:.4g}" if r in figures else "-" for r in rates), rate_name(best[arm])]
        )
    print("\n".join(grid(rows, right=range(1, len(rates) + 2))))
    print(
        f"{metric}, seed {record['tuning']['seed']}, validation split; {tuning_path(args.paper, args.scale)}"
    )
    return 0
