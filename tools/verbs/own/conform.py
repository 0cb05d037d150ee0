"""`kd conform MODULE:FUNCTION`: which convention a distillation loss keeps, by golden vectors."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tools.commands import UsageError, json_option, names

SUMMARY = "which convention your loss keeps: direction, temperature, reduction, padding"
RECORD = "benchmarks/conformance.json"
PROTOCOL = """
The function is (student_logits, teacher_logits, mask or labels, **settings) -> loss, in MODULE or in path/to/file.py.
It is called on a dozen small batches in float64 and its value and gradient are held against those of every
convention, wrong ones included, so that what it computes is named. It returns a scalar, or one value a position.

By their names its parameters get: student... and teacher... (or the first two) logits (B, T, V), aligned with the
mask: nothing is shifted; mask, loss_mask, completion_mask, response_mask or attention_mask (B, T), bool, True where a
position counts; labels (B, T), -100 where it does not; temperature, temp or tau; teacher_weight, beta or jsd_beta: a
JSD's weight; skew or skew_alpha; top_k or topk. Vectors that need a setting it lacks are left out. Heads of unequal
size may be refused by an exception; a NaN is a mismatch.

Exit code: 0 when one convention matches everywhere and is as --expect says, 1 when not, 2 for bad input.
"""


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("function", nargs="?", metavar="MODULE:FUNCTION", help="the loss; imported, so run")
    parser.add_argument(
        "--expect",
        type=names,
        default=[],
        metavar="A,B",
        help="what it should be: forward-kl,T^2,token-mean,ignored",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        dest="fixed",
        help="an argument that stays (JSON)",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="SETTING=NAME",
        dest="named",
        help="what the function calls temperature, weight, skew, top_k, mask or labels; empty: has none",
    )
    parser.add_argument(
        "--peers", action="store_true", help="the losses of TRL, torch and this library instead"
    )
    parser.add_argument("--record", action="store_true", help=f"with --peers: write {RECORD}")
    json_option(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = PROTOCOL.strip()


def main(args: argparse.Namespace) -> int:
    """Print what it computes; 1 where no one convention matches everywhere, or another than was expected."""
    if args.peers:
        if args.function:
            raise UsageError("kd conform: --peers goes with no function")
        return _peers(args)
    if not args.function:
        raise UsageError("kd conform: MODULE:FUNCTION is missing, or --peers")
    if args.record:
        raise UsageError("kd conform: --record goes with --peers")
    from methods.losses.conformance.check import check
    from tools.conform import report as told
    from tools.conform.load import load

    expected = told.expectation(args.expect)
    fixed = {name: _value(text) for name, text in _pairs(args.fixed, "--set")}
    named = dict(_pairs(args.named, "--name"))
    report = check(load(args.function), fixed=fixed, names=named)
    if args.json:
        print(json.dumps({"function": args.function, **told.data(report, expected)}, indent=1))
    else:
        print("\n".join(told.lines(report, args.function, expected)))
    return 1 if report.convention is None or told.wrong(report, expected) else 0


def _peers(args: argparse.Namespace) -> int:
    from tools.conform.peers import table
    from tools.pages.conventions import convention_rows
    from tools.paths import ROOT
    from tools.terminal import wrap

    found = table()
    if args.record:
        (ROOT / RECORD).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    columns, rows = convention_rows(found)
    for name, cells in rows:
        print(name)
        said = [f"{column}: {cell}" for column, cell in zip(columns[1:], cells, strict=True) if cell != "-"]
        print(wrap("; ".join(said), "  "))
    return 0


def _pairs(texts: list[str], option: str) -> list[tuple[str, str]]:
    for text in texts:
        if "=" not in text:
            raise UsageError(f'kd conform: {option} "{text}": write NAME=VALUE')
    return [(name.strip(), value.strip()) for name, _, value in (text.partition("=") for text in texts)]


def _value(text: str) -> Any:
    """JSON where it is, else the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
