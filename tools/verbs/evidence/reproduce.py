"""`kd reproduce PAPER`: hands the request to the engine and its outcome to the shell."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.commands import UsageError, count, json_option, names
from tools.executors import executor_of, executor_options

if TYPE_CHECKING:
    from reproductions.engine.work.sessions.executors.base import Executor

SUMMARY = "train a paper's arms over all seeds, judge its claims"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", nargs="?", help="id of the paper, e.g. minillm")
    parser.add_argument("--all", action="store_true", help="every paper that has this scale, with one pool")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.add_argument("--looks", type=count, help="so many looks at most; open claims then stay open")
    parser.add_argument("--seeds", type=count, help="only the first N seeds; a part is compared with nothing")
    parser.add_argument(
        "--first-seed",
        type=count,
        metavar="N",
        help="fresh seeds: N (10000 or more), N + 1, ... for the declared ones; never recorded, see --donate",
    )
    parser.add_argument("--arms", type=names, help="only these arms, a,b; compared with nothing then")
    parser.add_argument(
        "--workers", type=count, help="processes side by side, over all machines (default: one per core)"
    )
    executor_options(parser)
    parser.add_argument(
        "--fresh", "--no-resume", action="store_true", help="make finished runs of this machine again"
    )
    parser.add_argument(
        "--donate", type=Path, metavar="FILE", help="write this machine's runs as a replicate: one .zip file"
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="add the runs to reproductions/results; nothing else writes there",
    )
    parser.add_argument(
        "--dials",
        action="store_true",
        help="the scale's dials instead: the first look at their other values, which nothing judges",
    )
    json_option(parser)
    parser.epilog = (
        "Prints, claim by claim: the paper, the recorded result, this run, and whether the two agree. Seeds are added "
        "for open claims only, look by look. Exit codes: 0 every verdict is the recorded one, or there is none; 1 one "
        "differs; 2 bad input, or a run failed; 130 interrupted."
    )


def main(args: argparse.Namespace) -> int:
    """Run the experiment; the exit code says whether its verdicts are the recorded ones."""
    if bool(args.paper) == args.all:
        raise UsageError("kd reproduce: a paper's id, or --all")
    if args.dials and (args.all or args.seeds or args.first_seed or args.looks or args.donate):
        raise UsageError(
            "kd reproduce --dials: one paper, with --scale, --arms, --workers, --fresh and --record"
        )
    with executor_of(args) as executor:
        if args.dials:
            return _dials(args, executor)
        return _all(args, executor) if args.all else _one(args, executor)


def _one(args: argparse.Namespace, executor: Executor | None) -> int:
    """One paper."""
    from tools.experiments import experiment_id

    paper = experiment_id(args.paper)
    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.reproduce import reproduce

    outcome = reproduce(
        make_plan(paper, args.scale, seeds=args.seeds, first_seed=args.first_seed, arms=args.arms),
        workers=args.workers,
        record=args.record,
        fresh=args.fresh,
        looks=args.looks or (1 if args.seeds else None),
        donate=args.donate,
        as_json=args.json,
        executor=executor,
    )
    if args.donate and outcome.view is not None and not args.json:
        print(
            f"{args.donate}: written; put it into reproductions/replicates/{paper}, `kd verify {paper}` checks it"
        )
    return outcome.exit_code


def _dials(args: argparse.Namespace, executor: Executor | None) -> int:
    """The values of one paper's dials; what is recorded of them is printed, claim by claim."""
    from tools.experiments import experiment_id

    paper = experiment_id(args.paper)
    from reproductions.engine.dials import told, turn
    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.show.gather import gather

    code = turn(
        make_plan(paper, args.scale, arms=args.arms),
        workers=args.workers,
        record=args.record,
        fresh=args.fresh,
        quiet=args.json,
        executor=executor,
    )
    rows = [row for scale in gather(paper).scales if scale.name == args.scale for row in scale.dials]
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    else:
        print("\n".join(told(rows) or ["nothing is recorded of its dials: --record"]))
    return code


def _all(args: argparse.Namespace, executor: Executor | None) -> int:
    """Every paper at the scale; a line a paper at the end, and the worst exit code."""
    if args.arms or args.seeds or args.first_seed or args.donate:
        raise UsageError(
            "kd reproduce: --all takes whole scales, without --arms, --seeds, --first-seed and --donate"
        )
    from reproductions.engine.plan.experiment import list_papers, load_experiment
    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.reproduce import reproduce_all, worst

    papers = [paper for paper in list_papers() if args.scale in load_experiment(paper).scales]
    if not papers:
        raise UsageError(f'kd reproduce: no paper has a scale "{args.scale}"')
    outcomes = reproduce_all(
        [make_plan(paper, args.scale) for paper in papers],
        workers=args.workers,
        record=args.record,
        fresh=args.fresh,
        looks=args.looks,
        as_json=args.json,
        executor=executor,
    )
    if args.json:
        plain = {paper: outcome.as_dict() for paper, outcome in outcomes.items()}
        print(json.dumps(plain, indent=1, ensure_ascii=False))
    else:
        print("\n".join(_lines(outcomes)))
    return worst([outcome.exit_code for outcome in outcomes.values()])


def _lines(outcomes: Mapping[str, Any]) -> list[str]:
    """A paper's verdicts in a line, and what is to say of it."""
    from collections import Counter

    from reproductions.engine.looks import verdicts_of

    found = []
    for paper, outcome in outcomes.items():
        told = outcome.message
        if outcome.view is not None:
            counts = Counter(verdicts_of(outcome.view).values())
            told = f"{', '.join(f'{number} {word}' for word, number in counts.items())}; {told}"
        found.append(f"{paper}: {told}")
    return found
