"""`kd teach CONFIG`: ask the teachers of a `kd distill` config once, and keep their answers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.commands import json_option
from tools.verbs.own.distill import progress

SUMMARY = "the answers of a config's teachers to its rows, kept for kd distill"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("config", help="a config of `kd distill` whose teacher has `answers: {in: FOLDER}`")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Ask, or go on asking."""
    from catalog.schema import load_catalog
    from reproductions.distill.answers.teach import teach
    from reproductions.distill.config import check_teacher_terms, load_config
    from reproductions.distill.plan import size_of

    config = load_config(Path(args.config))
    check_teacher_terms(config, load_catalog().teachers)
    with progress() as (report, say):
        made = teach(config, report, say)
    if args.json:
        print(json.dumps(made, indent=1))
        return 0
    for one in made:
        each = one["bytes"] / max(1, one["rows"])
        print(
            f"{one['teacher']}: {one['examples']:,} rows, {one['rows']:,} tokens, {size_of(one['bytes'])} "
            f"({each:.0f} bytes a token)"
        )
        print(f"answers: {one['answers']}")
    return 0
