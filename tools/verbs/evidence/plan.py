"""`kd plan [PAPER]`: what there is of a paper's runs, what is open, and what deciding it will cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tools.commands import UsageError, json_option, one_name
from tools.terminal import grid, style, wrap

SUMMARY = "what is recorded, what is open, and what deciding it will cost"


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument(
        "paper", nargs="?", type=one_name, help="id of the paper; a summary over all without it"
    )
    parser.add_argument("--all", action="store_true", help="every paper: the same as naming none")
    parser.add_argument("--scale", help="only this scale")
    json_option(parser)
    parser.epilog = (
        "Runs are those recorded here and those to make for the next look; CPU hours are those of recorded runs, and "
        "of runs like them: for the next look, and at most, when every open claim goes to the last one."
    )


def main(args: argparse.Namespace) -> int:
    """Print a line a paper and scale; 0 always, for nothing is wrong with what is yet to be done."""
    if args.paper and args.all:
        raise UsageError("kd plan: a paper's id, or --all")
    from reproductions.engine.plan.experiment import list_papers, load_experiment
    from reproductions.engine.plan.plan import make_plan
    from reproductions.engine.prospect import prospect_of
    from reproductions.engine.show import gather
    from reproductions.engine.show.cost import Costs
    from tools.experiments import experiment_id

    papers = [experiment_id(args.paper)] if args.paper else list_papers(gather.PAPERS)
    costs: Costs | None = None
    found: list[dict[str, Any]] = []
    for paper in papers:
        for scale in load_experiment(paper, gather.PAPERS).scales:
            if args.scale in (None, scale):
                plan = make_plan(paper, scale, papers_root=gather.PAPERS)
                costs = costs or Costs(gather.RESULTS, plan.cache)
                found.append(prospect_of(plan, costs).as_dict())
    if args.json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return 0
    if not found:
        raise UsageError(f'kd plan: nothing has a scale "{args.scale}"')
    print("\n".join(table(found)))
    if args.paper:
        print("\n".join(map(wrap, details(found))))
    return 0


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line a paper and scale, and their sum."""
    rows = [["PAPER", "SCALE", "ARMS", "RUNS", "TO MAKE", "OPEN", "LOOK", "H DONE", "H NEXT", "H AT MOST"]]
    for item in found:
        look = f"{item['seeds']}/{item['next']}" if item["next"] else str(item["seeds"])
        times = (item["hours_recorded"], item["hours_next"], item["hours_at_most"])
        cells = (
            item["arms"],
            item["recorded"],
            item["to_make"],
            len(item["open"]),
            look,
            *map(_hours, times),
        )
        rows.append([item["paper"], item["scale"], *map(str, cells)])
    if len(found) > 1:
        sums = [sum(item[name] or 0 for item in found) for name in ("recorded", "to_make")]
        hours = [
            sum(item[name] or 0 for item in found)
            for name in ("hours_recorded", "hours_next", "hours_at_most")
        ]
        opened = sum(len(item["open"]) for item in found)
        rows.append(["all", "", "", *map(str, sums), str(opened), "", *map(_hours, hours)])
    head, *lines = grid(rows, right=range(2, 10))
    return [style(head, "bold"), *lines]


def details(found: Iterable[Mapping[str, Any]]) -> Iterable[str]:
    """The open claims of a paper, and what is needed on the way."""
    for item in found:
        if item["open"]:
            waits = "; ".join(
                f"{claim}: {look} seeds next" if look else f"{claim}: at the cap"
                for claim, look in item["open"].items()
            )
            yield f"{item['scale']}: {waits}"
        if item["on_the_way"]:
            made = ", ".join(f"{count} {kind}" for kind, count in sorted(item["on_the_way"].items()))
            yield f"{item['scale']}: made on the way: {made}"


def _hours(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"
