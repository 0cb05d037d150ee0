"""`kd distill CONFIG`: distil your own student from your own data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass(frozen=True)
class _Task:
    """What a config asks for: its plan and its training, each as plain data and as lines for a reader."""

    config: Any
    plan: Callable[[], tuple[dict[str, Any], list[str]]]
    make: Callable[..., tuple[dict[str, Any], list[str]]]
    what: str


def main(args: argparse.Namespace) -> int:
    """Train, or go on with, the student of a config file."""
    from catalog.schema import load_catalog
    from reproductions.distill.classes.config import task_of
    from reproductions.distill.config import check_teacher_terms
    from reproductions.distill.state import first_process

    if args.plan and args.push:
        raise UsageError("kd distill: one of --plan and --push at a time")
    path, known = Path(args.config), load_catalog().teachers
    task = (_student if task_of(path) is None else _classifier)(path, known)
    check_teacher_terms(task.config, known)
    if args.push:
        from reproductions.distill.watch.push import push

        print(push(task.config.output, args.push))
        return 0
    if args.plan:
        found, lines = task.plan()
    else:
        with progress() as (report, say):
            found, lines = task.make(report, say)
        lines = [*lines, f"{task.what} and tokenizer: {task.config.output}"]
    if first_process():  # of several that made it
        print(json.dumps(found, indent=1) if args.json else "\n".join(lines))
    return 0


def _student(path: Path, known: Mapping[str, Any]) -> _Task:
    """A language model."""
    from reproductions.distill.config import load_config

    config = load_config(path)

    def plan() -> tuple[dict[str, Any], list[str]]:
        from reproductions.distill.plan import lines_of, plan_of

        found = plan_of(config, known, lambda sentence: print(sentence, file=sys.stderr))
        return found, lines_of(found)

    def make(report: Any, say: Any) -> tuple[dict[str, Any], list[str]]:
        from reproductions.distill.record import summary
        from reproductions.distill.run import distil

        record = distil(config, report, say)
        return record, summary(record)

    return _Task(config, plan, make, "student")


def _classifier(path: Path, known: Mapping[str, Any]) -> _Task:
    """A classifier of texts."""
    from reproductions.distill.classes.config import load_classes_config

    config = load_classes_config(path)

    def plan() -> tuple[dict[str, Any], list[str]]:
        from reproductions.distill.classes.plan import lines_of, plan_classes

        found = plan_classes(config, known)
        return found, lines_of(found)

    def make(report: Any, say: Any) -> tuple[dict[str, Any], list[str]]:
        from reproductions.distill.classes.run import distil_classes, summary_of

        record = distil_classes(config, report, say)
        return record, summary_of(record) if record else []

    return _Task(config, plan, make, "classifier")


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
