"""`kd export FOLDER`: the catalog and all results as data sets with a card."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.commands import json_option, names

SUMMARY = "the catalog and all results as data sets with a card, for datasets or a hub"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("folder", help="folder to write; one that holds anything but an export is refused")
    parser.add_argument(
        "--logbook",
        type=names,
        default=[],
        metavar="PAPERS",
        help="judged papers, a,b or all: a logbook of each too, which `trackio logbook` opens (needs trackio)",
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Write tables, card and logbooks, and say what they hold."""
    from tools.export.write import export

    made = export(Path(args.folder), args.logbook)
    if args.json:
        print(json.dumps(made, indent=1))
        return 0
    rows = ", ".join(f"{name} {count:,}" for name, count in made["rows"].items())
    print(f"{Path(args.folder) / 'README.md'}: {rows}")
    if made["logbooks"]:
        print(f"{len(made['logbooks'])} logbooks: {Path(args.folder) / 'logbooks'}")
    return 0
