"""`kd attempt PAPER --changed TEXT`: before an experiment is changed, what it said is frozen."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from tools.commands import UsageError
from tools.terminal import wrap

SUMMARY = "freeze what a paper's experiment said, and say what changes in the next attempt"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", help="id of the paper, or name of a question of our own")
    parser.add_argument("--changed", required=True, metavar="TEXT", help="what changes now, and why")
    parser.add_argument("--scale", default="tiny", help="tiny (default), small or paper")
    parser.epilog = (
        "Writes reproductions/attempts/<paper>.<n>.json with every judged claim and puts the number of the next "
        "attempt and the words into the experiment. Change the experiment after that. Exit codes: 0, 2 bad input."
    )


def main(args: argparse.Namespace) -> int:
    """Freeze, then number the experiment anew."""
    if not args.changed.strip():
        raise UsageError("kd attempt: --changed must say what changed")
    from reproductions.engine.files import write_atomic
    from reproductions.engine.show import gather
    from reproductions.engine.verdicts.freezing import freeze, renumber
    from reproductions.engine.work.environment import commit
    from tools.experiments import experiment_id

    paper = experiment_id(args.paper)
    view = gather.gather(paper)
    today = datetime.now(UTC).date().isoformat()
    at = str(commit()["commit"] or "unknown")[:10]
    source = gather.PAPERS / f"{paper}.yaml"
    number = max(view.attempt[0], 1) + 1
    text = renumber(source.read_text(encoding="utf-8"), number, args.changed)
    path = freeze(view, args.scale, date=today, commit=at, folder=gather.ATTEMPTS)
    write_atomic(source, text)
    print(
        wrap(f"{path.name} is written; {source.name} is attempt {number} now: change it, and its findings.")
    )
    return 0
