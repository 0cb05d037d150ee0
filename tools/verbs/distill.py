"""`kd distill CONFIG`: distil your own student from your own data."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tools.commands import json_option

SUMMARY = "your own student from your own data, by a config file"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("config", help="a YAML file; CONTRIBUTING.md and the README show one")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Train, or go on with, the student of a config file."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from catalog.schema import load_catalog
    from reproductions.distill.config import check_teacher_terms, load_config

    config = load_config(Path(args.config))
    check_teacher_terms(config, load_catalog().teachers)
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


def summary(record: dict[str, Any]) -> list[str]:
    """What was done, with whatever was left out counted."""
    tokens = ", ".join(f"{name} {count:,}" for name, count in record["tokens"].items())
    rows, budget, labels, made = (record[name] for name in ("rows", "budget", "labels", "rollouts"))
    limits = f"{budget['prompt_tokens']} + {budget['completion_tokens']} tokens"
    lines = [f"{record['method']}: {record['steps']} steps in {record['seconds']:g} s; tokens: {tokens}"]
    parts = [f"{rows['read']:,} read", f"{rows['too_long']:,} left out as longer than {limits}"]
    parts += [f"{rows['held_out']:,} held out for validation"] if rows["held_out"] else []
    lines.append(f"rows: {', '.join(parts)}, {rows['trained_on']:,} trained on")
    if record["unused_fields"]:
        lines.append(f"fields of the data that nothing reads: {', '.join(record['unused_fields'])}")
    if labels:
        lines.append(
            f"labels: {labels['completions']:,} written, left out: {labels['truncated']:,} cut at "
            f"{budget['completion_tokens']} tokens, {labels['empty']:,} empty"
        )
    if made.get("completions"):
        lines.append(
            f"rollouts: {made['completions']:,}, of them {made['truncated']:,} cut at "
            f"{budget['completion_tokens']} tokens, {made['empty']:,} empty"
        )
        if made["truncated"] == made["completions"]:
            lines.append(
                "warning: no rollout came to its end, so the student never saw how an answer ends; raise "
                "completion_tokens, or begin with a student that has learned to end (method: sft)"
            )
    return lines
