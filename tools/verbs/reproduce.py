"""`kd reproduce PAPER`: hands the request to the engine and its outcome to the shell."""

from __future__ import annotations

import argparse

from tools.commands import count, json_option, names

SUMMARY = "train a paper's arms over all seeds, judge its claims"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the paper, e.g. minillm")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--seeds", type=count, help="only the first N seeds; nothing is committed then")
    parser.add_argument("--arms", type=names, help="only these arms, a,b; nothing is committed then")
    parser.add_argument("--workers", type=count, help="processes side by side (default: one per core)")
    parser.add_argument("--replace", action="store_true", help="replace results of another configuration")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Run the experiment; the exit code is the verdicts'."""
    from catalog.schema import load_catalog

    paper = load_catalog().paper(args.paper).id
    from reproductions.engine.runner import reproduce

    outcome = reproduce(
        paper,
        scale=args.scale,
        seeds=args.seeds,
        arms=args.arms,
        workers=args.workers,
        replace=args.replace,
        as_json=args.json,
    )
    return outcome.exit_code
