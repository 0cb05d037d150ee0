"""`kd distill CONFIG`: distil your own student from your own data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tools.commands import json_option

SUMMARY = "your own student from your own data, by a config file"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "config", help="a YAML file as in the README; reproductions/distill/config.py names every key"
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Train, or go on with, the student of a config file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from catalog.schema import load_catalog
    from reproductions.distill.config import check_teacher_terms, load_config

    config = load_config(Path(args.config))
    check_teacher_terms(config, load_catalog().teachers)
    from reproductions.distill.record import summary
    from reproductions.distill.run import distil

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task(f"{config.method}: loading", total=None)

        def report(phase: str, step: int, total: int) -> None:
            bar.update(task, description=phase, completed=step, total=total)

        record = distil(config, report)
    if args.json:
        print(json.dumps(record, indent=1))
    else:
        print("\n".join(summary(record)))
        print(f"student and tokenizer: {config.output}")
    return 0
