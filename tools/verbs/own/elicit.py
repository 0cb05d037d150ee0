"""`kd elicit CONFIG`: a data set of your own, written by your own teacher."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.commands import UsageError, json_option

if TYPE_CHECKING:
    from reproductions.elicit.config import Config

SUMMARY = "a data set from your own seeds and teacher, by a config file"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "config", help="a YAML file as in the README; reproductions/elicit/config.py names every key"
    )
    parser.add_argument("--dry-run", action="store_true", help="what it would cost; asks nobody")
    parser.add_argument(
        "--partial", action="store_true", help="write what is answered so far to partial.jsonl; asks nobody"
    )
    parser.add_argument("--push", metavar="ORG/NAME", help="put the finished data set on the hub")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Make, or go on with, the data set of a config file.

    Exit code 1 where requests were left without an answer, or no row is data.
    """
    from catalog.schema import load_catalog
    from reproductions.elicit.config import check_teacher_terms, load_config

    if sum((args.dry_run, args.partial, args.push is not None)) > 1:
        raise UsageError("kd elicit: one of --dry-run, --partial and --push at a time")
    config = load_config(Path(args.config))
    check_teacher_terms(config, load_catalog().teachers)
    from reproductions.elicit import run

    if args.push:
        print(run.push(config, args.push))
        return 0
    if args.dry_run:
        return _dry_run(config, args.json)
    record = run.partial(config) if args.partial else _elicit(config)
    print(json.dumps(record, indent=1) if args.json else "\n".join(summary(record, config, args.partial)))
    return 1 if (record["unanswered"] or not record["kept"]) and not args.partial else 0


def _elicit(config: Config) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from methods.elicitation.writers.session import Session
    from reproductions.elicit import run
    from reproductions.engine.signals import terminable

    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[cost]}"), console=Console(stderr=True), transient=True,
    )  # fmt: skip
    priced = any(config.prices.values())
    with terminable(), bar:  # as Ctrl-C: what is under way is awaited and kept
        task = bar.add_task("loading", total=None, cost="")
        at = 0

        def told(name: str, number: int, of: int, done: int, total: int, session: Session) -> None:
            nonlocal at
            if number != at:
                bar.reset(task, total=None)
                at = number
            spent = session.ledger.spent
            cost = f"{spent.read:,} tokens read, {spent.written:,} written"
            cost += f", {spent.money:.4f} spent" if priced else ""
            what = f"{name} ({number} of {of})" if of > 1 else name
            bar.update(task, description=what, completed=done, total=total or None, cost=cost)

        try:
            return run.elicit(config, told)
        except BaseException:
            bar.stop()
            if (place := config.output / run.PARTIAL).is_file():
                print(f"stopped; what is answered so far: {place}. The same command goes on", file=sys.stderr)
            raise


def _dry_run(config: Config, as_json: bool) -> int:
    from dataclasses import asdict

    from reproductions.elicit import run

    told = run.estimate(config)
    if as_json:
        print(json.dumps([{"step": name, **asdict(estimate)} for name, estimate in told], indent=1))
        return 0
    priced = any(config.prices.values())
    for number, (name, part) in enumerate(told, 1):
        left = part.requests - part.known
        line = f"{number}. {name}: {part.requests} requests, {part.known} answered already"
        if left:
            likely, most = part.likely, part.most
            line += f"; {likely.read:,} tokens to read, {likely.written:,} to write, at most {most.written:,}"
            line += f"; costs {part.likely_money:.4f}, at most {part.most_money:.4f}" if priced else ""
        print(line)
    if len(told) > 1:
        print("A step that reads what an earlier one has not written yet is not counted in full.")
    return 0


def summary(record: dict[str, Any], config: Config, partial: bool = False) -> list[str]:
    """What came of it, in a few lines."""
    session, spent = record["session"], record["session"]["spent"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in record["dropped"].items())
    lines = [
        f"{record['kept']} of {record['rows']} rows are data" + (f"; dropped: {dropped}" if dropped else "")
    ]
    calls = f"{session['calls']} calls, {session['journal']} answers from the journal"
    failures = ", ".join(f"{count} x {kind}" for kind, count in session["failures"].items())
    lines.append(calls + (f"; failed attempts so far: {failures}" if failures else ""))
    cost = (
        f"spent so far: {spent['calls']} calls, {spent['read']:,} tokens read, {spent['written']:,} written"
    )
    lines.append(cost + (f", {spent['money']:.4f}" if any(config.prices.values()) else ""))
    if session["lost"]:
        lines.append(
            f"{session['lost']} attempts were under way when a run was killed: they may have been paid for"
        )
    name = "partial.jsonl" if partial else "train.jsonl"
    lines.append(
        f"{config.output / name}" + ("" if partial else "; every row with its provenance: rows.parquet")
    )
    if record["unanswered"] and not partial:
        lines.append(f"{record['unanswered']} rows have no answer: the same command asks for them again")
    return lines
