"""`kd bench`: time and memory beside other implementations; tools/bench/ holds one file a measurement."""

from __future__ import annotations

import argparse
import importlib
import os
import sys

SUMMARY = "time and memory beside others: loss, step, rollouts, policy, pages, evidence"
OTHERS = {  # measured instead of the fused loss, each by a file of tools/bench
    "store": "store",
    "rollouts": "rollouts",
    "step": "trainings.step",
    "speculative": "speculative",
    "catalog": "catalog",
    "evidence": "evidence",
    "cohort": "trainings.cohort",
    "policy": "trainings.policy",
    "grpo": "trainings.grpo",
    "encoders": "encoders",
}


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    from tools.bench.losses import BETA

    parser.add_argument("--quick", action="store_true", help="small sizes, seconds instead of minutes")
    parser.add_argument(
        "--vocab", type=int, nargs="+", metavar="V", help="vocabulary sizes (32000 128256; --step: 32000)"
    )
    parser.add_argument("--rows", type=int, metavar="N", help="completion positions, half of all (1024)")
    parser.add_argument("--widths", type=int, nargs=2, metavar=("S", "T"), help="hidden sizes (256 512)")
    parser.add_argument("--divergence", nargs="+", choices=sorted(BETA), help="which (both)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="of hidden states and heads")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--repeats", type=int, default=4, help="turns of each implementation (4)")
    parser.add_argument("--record", action="store_true", help="write the figures into benchmarks/")
    parser.add_argument("--store", action="store_true", help="the teacher store instead of the losses")
    parser.add_argument("--rollouts", action="store_true", help="sampling instead of the losses")
    parser.add_argument("--step", action="store_true", help="whole training steps instead of the losses")
    parser.add_argument("--speculative", action="store_true", help="speculative decoding of a tiny teacher")
    parser.add_argument("--catalog", action="store_true", help="pages and browsing at a thousand records")
    parser.add_argument("--evidence", action="store_true", help="what a CPU minute says about a contrast")
    parser.add_argument("--cohort", action="store_true", help="seeds trained as one model beside each alone")
    parser.add_argument("--policy", action="store_true", help="policy-gradient steps beside TRL's GRPO")
    parser.add_argument("--grpo", action="store_true", help="GRPO's learning curve beside TRL's own")
    parser.add_argument("--encoders", action="store_true", help="size and time of an encoder's first blocks")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def main(args: argparse.Namespace) -> int:
    """Measure, print, and record if asked; 1 where implementations disagree, 2 on bad usage."""
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from rich.console import Console

    from tools.bench.measure import environment

    if args.device == "cuda" and not torch.cuda.is_available():
        print("kd bench: --device cuda, but torch sees no CUDA device.", file=sys.stderr)
        return 2
    asked = [name for name in OTHERS if getattr(args, name)]
    if len(asked) > 1 or (asked and args.device == "cuda"):
        print(f"kd bench: --{asked[0]} goes with no other benchmark and is for the CPU.", file=sys.stderr)
        return 2
    measurement = importlib.import_module(f"tools.bench.{OTHERS[asked[0]] if asked else 'fused'}")
    console = Console(width=100 if asked else 80, stderr=args.json)
    return measurement.run(args, console, environment(args))
