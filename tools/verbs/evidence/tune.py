"""`kd tune PAPER`: give every arm the same sweep of learning rates, on validation data."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import Any

from tools.commands import count, json_option, names
from tools.executors import executor_of, executor_options
from tools.terminal import grid, wrap

SUMMARY = "the same sweep of learning rates for every arm, on validation data"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the paper, e.g. gkd")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--arms", type=names, help="only these arms, a,b")
    parser.add_argument(
        "--workers", type=count, help="processes side by side, over all machines (default: one per core)"
    )
    executor_options(parser)
    json_option(parser)
    parser.epilog = (
        "Exit codes: 0; 1 an arm's best rate lies at the end of a grid that may grow no more; 2 bad input."
    )


def main(args: argparse.Namespace) -> int:
    """Run what is missing of the sweep, print the table and each arm's best rate."""
    from tools.experiments import experiment_id

    paper = experiment_id(args.paper)
    from reproductions.engine.plan.rates import tuning_path
    from reproductions.engine.work.sessions.sweep import tune
    from tools.paths import relative

    say = partial(print, file=sys.stderr if args.json else sys.stdout)
    with executor_of(args) as executor:
        options = {"arms": args.arms or (), "workers": args.workers, "executor": executor}
        record = tune(paper, args.scale, **options, say=say)
    if args.json:
        print(json.dumps(record, indent=1))
        return 0
    print("\n".join(table(record)))
    tuning = record["tuning"]
    by_arm = "keys" in record and "seeds" in tuning
    seeds = f"mean of seeds {', '.join(map(str, tuning['seeds']))}" if by_arm else f"seed {tuning['seed']}"
    place = "reproductions/tuning, by arm" if by_arm else relative(tuning_path(paper, args.scale))
    print(wrap(f"{tuning['metric']}, {seeds}, validation split; best stands last; {place}"))
    if record.get("edges"):
        print(
            wrap(f"the best rate of {', '.join(record['edges'])} is the last of a grid that may grow no more")
        )
        return 1
    return 0


def table(record: dict[str, Any]) -> list[str]:
    """A line an arm: the metric at each learning rate, and the best of these."""
    from reproductions.engine.plan.rates import best_rates, rate_name

    best = best_rates(record["figures"], record["tuning"].get("higher_is_better", True))
    rates = [rate_name(rate) for rate in record["tuning"]["learning_rates"]]
    rows = [["arm", *rates, "best"]]
    for arm, figures in record["figures"].items():
        cells = (f"{figures[rate]:.4g}" if rate in figures else "-" for rate in rates)
        rows.append([arm, *cells, rate_name(best[arm])])
    return grid(rows, right=range(1, len(rates) + 2))
