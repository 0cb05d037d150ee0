"""`kd reproduce PAPER`: hands the request to the engine and its outcome to the shell."""

from __future__ import annotations

import argparse

from tools.commands import count, json_option, names

SUMMARY = "train a paper's arms over all seeds, judge its claims"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the paper, e.g. minillm")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--seeds", type=count, help="only the first N seeds; compared with nothing then")
    parser.add_argument("--arms", type=names, help="only these arms, a,b; compared with nothing then")
    parser.add_argument("--workers", type=count, help="processes side by side (default: one per core)")
    parser.add_argument(
        "--fresh", "--no-resume", action="store_true", help="make finished runs of this machine again"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="add the runs to reproductions/results; nothing else writes there",
    )
    json_option(parser)
    parser.epilog = (
        "Prints, claim by claim: the paper, the recorded result, this run, and whether the two agree. "
        "Exit codes: 0 every verdict is the recorded one, or there is none; 1 one differs; "
        "2 bad input, or a run failed; 130 interrupted."
    )


def main(args: argparse.Namespace) -> int:
    """Run the experiment; the exit code says whether its verdicts are the recorded ones."""
    from catalog.schema import load_catalog

    paper = load_catalog().paper(args.paper).id
    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.reproduce import reproduce

    outcome = reproduce(
        make_plan(paper, args.scale, seeds=args.seeds, arms=args.arms),
        workers=args.workers,
        record=args.record,
        fresh=args.fresh,
        as_json=args.json,
    )
    return outcome.exit_code
