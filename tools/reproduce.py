"""`kd reproduce PAPER`: hands the request to the engine and its outcome to the shell."""

from __future__ import annotations

import argparse


def main(args: argparse.Namespace) -> int:
    """Run the experiment; the exit code is the verdicts'."""
    from catalog.schema import load_catalog

    paper = load_catalog().paper(args.paper).id
    from reproductions.engine.runner import reproduce

    outcome = reproduce(
        paper,
        scale=args.scale,
        seeds=args.seeds,
        arms=args.arms,
        workers=args.workers,
        replace=args.replace,
        as_json=args.json,
    )
    return outcome.exit_code
