"""`kd distill CONFIG`: distil your own student from your own data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tools.commands import UsageError, json_option

SUMMARY = "your own student from your own data, by a config file"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "config", help="a YAML file as in the README; reproductions/distill/config.py names every key"
    )
    parser.add_argument(
        "--plan", action="store_true", help="rows, steps, tokens, memory, time and terms; trains nothing"
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="put the finished student on the hub")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Train, or go on with, the student of a config file."""
    from catalog.schema import load_catalog
    from reproductions.distill.classes.config import task_of
    from reproductions.distill.config import check_teacher_terms, load_config

    if args.plan and args.push:
        raise UsageError("kd distill: one of --plan and --push at a time")
    if task_of(Path(args.config)) is not None:
        return _classes(args)
    config, known = load_config(Path(args.config)), load_catalog().teachers
    check_teacher_terms(config, known)
    if args.push:
        from reproductions.distill.watch.push import push

        print(push(config.output, args.push))
        return 0
    if args.plan:
        from reproductions.distill.plan import lines_of, plan_of

        found = plan_of(config, known, lambda sentence: print(sentence, file=sys.stderr))
        print(json.dumps(found, indent=1) if args.json else "\n".join(lines_of(found)))
        return 0
    from reproductions.distill.record import summary
    from reproductions.distill.run import distil

    with progress() as (report, say):
        record = distil(config, report, say)
    _tell(args, record, summary(record), f"student and tokenizer: {config.output}")
    return 0


def _tell(args: argparse.Namespace, record: dict[str, Any], lines: list[str], where: str) -> None:
    """The end of a training, once where several processes made it."""
    from reproductions.distill.state import first_process

    if first_process():
        print(json.dumps(record, indent=1) if args.json else "\n".join([*lines, where]))


def _classes(args: argparse.Namespace) -> int:
    """A classifier."""
    from catalog.schema import load_catalog
    from reproductions.distill.classes.config import load_classes_config
    from reproductions.distill.config import check_teacher_terms

    config, known = load_classes_config(Path(args.config)), load_catalog().teachers
    check_teacher_terms(config, known)
    if args.push:
        from reproductions.distill.watch.push import push

        print(push(config.output, args.push))
        return 0
    if args.plan:
        from reproductions.distill.classes.plan import lines_of, plan_classes

        found = plan_classes(config, known)
        print(json.dumps(found, indent=1) if args.json else "\n".join(lines_of(found)))
        return 0
    from reproductions.distill.classes.run import distil_classes, summary_of

    with progress() as (report, say):
        record = distil_classes(config, report, say)
    _tell(args, record, summary_of(record), f"classifier and tokenizer: {config.output}")
    return 0


@contextmanager
def progress() -> Iterator[tuple[Callable[..., None], Callable[[str], None]]]:
    """(report, say) for a training: a bar on a terminal, a line every ten seconds where there is none."""
    from reproductions.distill.state import first_process
    from reproductions.distill.watch.progress import PlainLines, told

    if not first_process():
        yield lambda *_: None, lambda _: None
        return

    def plain(sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)

    if not sys.stderr.isatty():
        yield PlainLines(plain), plain
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[known]}"), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("loading", total=None, known="")

        def report(phase: str, step: int, total: int, known: Any = None) -> None:
            shown = {name: value for name, value in (known or {}).items() if name != "seconds_left"}
            bar.update(
                task,
                description=phase,
                completed=step,
                total=total or None,
                known=told(shown).removeprefix(", "),
            )

        yield report, lambda sentence: bar.console.print(sentence, markup=False, highlight=False)
