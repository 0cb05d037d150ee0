"""`kd gate TESTBED`: what a testbed must show before a claim is judged on it, run, recorded or shown."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

from tools.commands import UsageError, count, json_option
from tools.executors import executor_of, executor_options
from tools.terminal import style, wrap

if TYPE_CHECKING:
    from reproductions.engine.gate.record import GateRecord

SUMMARY = "run a testbed's gate: may claims be judged on it, and of what kind"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("testbed", help="name of the testbed, e.g. pronunciation")
    parser.add_argument(
        "--show", action="store_true", help="print what is recorded, hold it against raw figures"
    )
    parser.add_argument("--record", action="store_true", help="write reproductions/gates; nothing else does")
    parser.add_argument(
        "--workers", type=count, help="processes side by side, over all machines (default: one per core)"
    )
    executor_options(parser)
    parser.add_argument("--fresh", action="store_true", help="make finished runs of this machine again")
    json_option(parser)
    parser.epilog = (
        "Prints each check with its figures, and the properties that are covered. Exit codes: 0 every check came out "
        "as recorded, or the gate passed and none was; 1 one did not, the gate failed, or its record does not follow "
        "from its raw figures; 2 bad input, or a run failed; 130 interrupted."
    )


def main(args: argparse.Namespace) -> int:
    """Run the gate, or show what is recorded."""
    from reproductions.engine.gate.judge import declared, run_gate
    from reproductions.engine.work.sessions.progress import default_reporter

    if args.show and (args.record or args.fresh):
        raise UsageError("kd gate: --show runs nothing: leave out --record and --fresh")
    gate = declared(args.testbed)
    if args.show:
        return _show(args)
    with executor_of(args) as executor:
        outcome = run_gate(
            gate,
            record=args.record,
            fresh=args.fresh,
            workers=args.workers,
            reporter=default_reporter(as_json=args.json),
            say=partial(print, file=sys.stderr if args.json else sys.stdout),
            executor=executor,
        )
    if args.json:
        print(json.dumps(outcome.as_dict(), indent=1, ensure_ascii=False))
        return outcome.exit_code
    if outcome.record is not None:
        print("\n".join(lines(outcome.record, outcome.agrees)))
    print(wrap(outcome.message))
    return outcome.exit_code


def lines(record: GateRecord, agrees: dict[str, bool | None] | None = None) -> list[str]:
    """A gate in the terminal: a check a line, then what is covered."""
    rate = "" if record.learning_rate is None else f", rate {record.learning_rate:g}"
    rate += " (swept)" if record.swept else ""
    seeds = f"seeds {record.seeds[0]} to {record.seeds[-1]}"
    found = [
        style(f"The gate of {record.testbed}", "bold"),
        f"{record.metric}, {seeds}{rate}, {record.date}",
        "",
    ]
    for check in record.checks:
        word = style("passed", "green") if check.passed else style("FAILED", "red")
        differs = " (not as recorded)" if (agrees or {}).get(check.name) is False else ""
        found.append(f"{word}  {style(check.name, 'bold')}{differs}")
        found.append(wrap(check.measured, "        "))
    found.append("")
    for name, checks in record.properties.items():
        covered = name in record.covers
        found.append(f"{'covers' if covered else 'does not cover'} {name} ({', '.join(checks)})")
    return [*found, ""]


def _show(args: argparse.Namespace) -> int:
    from reproductions.engine.gate.judge import declared, problems
    from reproductions.engine.gate.record import needs_gate, read_gate

    record = read_gate(args.testbed)
    wrong = problems(declared(args.testbed))
    if args.json:
        about = None if record is None else {"status": record.status, "covers": sorted(record.covers)}
        plain = {"gate": about, "record": None if record is None else record.as_dict(), "differs": wrong}
        print(json.dumps(plain, indent=1, ensure_ascii=False))
    else:
        if record is not None:
            print("\n".join(lines(record)))
        print(wrap(needs_gate(args.testbed) or (record.why if record else "")))
        print("\n".join(map(wrap, wrong)), end="\n" if wrong else "")
    return 1 if wrong else 0
