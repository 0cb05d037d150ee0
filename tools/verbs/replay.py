"""`kd replay RUN`: what a student sampled while it trained, with the advantage of every token."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from methods.replay import NAME, read_replay
from tools.commands import UsageError, count, json_option
from tools.terminal import style, visible, width

SUMMARY = "what a policy-trained student sampled, token by token"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "run", help="the output folder of a `kd distill` with a policy gradient, or its replay file"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="only of this step (the last one that was kept)"
    )
    parser.add_argument("--all", action="store_true", help="of every step that was kept")
    parser.add_argument(
        "--first", type=count, metavar="K", help="so many completions of a step (4)", default=4
    )
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print completions; UsageError where there are none."""
    path = Path(args.run)
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"{path} is not there: a run with the trainer policy-optimisation writes it")
    kept = read_replay(path)
    if not kept:
        raise UsageError(f"{path} holds no completion")
    steps = sorted({line["step"] for line in kept})
    if args.step is not None and args.step not in steps:
        raise UsageError(f"{path} holds nothing of step {args.step}, but of {', '.join(map(str, steps))}")
    wanted = steps if args.all else [steps[-1] if args.step is None else args.step]
    shown = [line for line in kept if line["step"] in wanted and line["place"] < args.first]
    print(json.dumps(shown, indent=1, ensure_ascii=False) if args.json else "\n".join(page(shown)))
    return 0


def page(lines: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """For each completion its prompt, rewards, and tokens above their advantages."""
    step = None
    for line in lines:
        if line["step"] != step:
            step = line["step"]
            yield style(f"step {step}", "bold")
        rewards = ", ".join("none" if figure is None else f"{figure:g}" for figure in line["rewards"])
        about = f"group {line['group']}" + (f", reward {rewards}" if rewards else "")
        about += ", given by the data" if line.get("given") else ""
        yield f"  {visible(line['prompt'])}  {style(about, 'dim')}"
        yield from _aligned(line["tokens"])
        yield ""


def _aligned(tokens: Sequence[tuple[str, float | None]]) -> Iterator[str]:
    """Tokens and, below each, its advantage; as many side by side as fit."""
    above, below, used = "    ", "    ", 4
    for text, figure in tokens:
        shown = visible(text).replace(" ", "·") or "·"
        number = "" if figure is None else f"{figure:+.2f}"
        size = max(len(shown), len(number)) + 1
        if used + size > width() and used > 4:
            yield above.rstrip()
            yield below.rstrip()
            above, below, used = "    ", "    ", 4
        colour = () if not figure else ("green",) if figure > 0 else ("red",)
        above += style(shown, *(("dim",) if figure is None else colour)) + " " * (size - len(shown))
        below += style(number, *colour) + " " * (size - len(number))
        used += size
    yield above.rstrip()
    yield below.rstrip()
