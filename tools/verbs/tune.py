"""`kd tune PAPER`: give every arm the same sweep of learning rates, on validation data."""

from __future__ import annotations

import argparse

from tools.commands import count, names
from tools.terminal import grid

SUMMARY = "the same sweep of learning rates for every arm, on validation data"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the paper, e.g. gkd")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--arms", type=names, help="only these arms, a,b")
    parser.add_argument("--workers", type=count, help="processes side by side (default: 2)")


def main(args: argparse.Namespace) -> int:
    """Run what is missing of the sweep, print the table and each arm's best rate."""
    from reproductions.engine.experiment import load_experiment
    from reproductions.engine.tuning import best_rates, rate_name, tune, tuning_path

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
