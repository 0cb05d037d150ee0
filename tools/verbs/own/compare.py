"""`kd compare CONFIG ...`: several methods on your own task, at equal budget, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from tools.commands import json_option, names

SUMMARY = "several methods on your own task, at equal budget, side by side"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "configs", nargs="+", help="files of `kd distill` that differ in their method, or one with --methods"
    )
    parser.add_argument(
        "--methods",
        type=names,
        default=[],
        help="these methods in place of the config's, in folders below its output",
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Train what is not there yet, and print the league."""
    from catalog.schema import load_catalog
    from reproductions.distill.config import check_teacher_terms
    from reproductions.distill.evaluate.compare import compare, configs_of, lines_of
    from tools.verbs.own.distill import progress

    found = configs_of(
        [Path(name) for name in args.configs],
        args.methods,
        lambda sentence: print(sentence, file=sys.stderr),
    )
    known = load_catalog().teachers
    for config in found.values():
        check_teacher_terms(config, known)
    with progress() as (report, say):
        league = compare(found, report, say)
    print(json.dumps(league, indent=1) if args.json else "\n".join(lines_of(league)))
    return 0
