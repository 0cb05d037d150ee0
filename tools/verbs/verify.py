"""`kd verify [PAPER]`: every recorded result judged again from its raw figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from tools import evidence
from tools.commands import json_option
from tools.evidence import ClaimRow
from tools.terminal import fit, grid, interval, number, style, verdict

SUMMARY = "judge recorded results again, from their raw figures"

if TYPE_CHECKING:
    from reproductions.engine.judge import ValueJudgement

HOLDS = {"reproduced", "not run"}


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    parser.add_argument("paper", nargs="?", help="id of the paper; every judged paper without it")
    json_option(parser)


def main(args: argparse.Namespace) -> int:
    """Print each claim with its verdict; 1 where a judged claim is not reproduced, else 0."""
    catalog = load_catalog()
    papers = [catalog.paper(args.paper).id] if args.paper else evidence.judged_papers(catalog.papers)
    if args.paper and not evidence.result_files(args.paper):
        hint = f"`make reproduce PAPER={args.paper}` makes them"
        raise CatalogError(f"no results are recorded for {args.paper}; {hint}")
    claims = {paper: evidence.claims(paper) for paper in papers}
    values = {paper: evidence.values(paper) for paper in papers}
    if args.json:
        print(json.dumps(_as_json(claims, values), indent=1, ensure_ascii=False))
    elif not papers:
        print("no results are recorded yet; `make reproduce PAPER=minillm` makes the first")
    else:
        print("\n\n".join("\n".join(_table(paper, claims[paper], values[paper])) for paper in papers))
    verdicts = {outcome.verdict for rows in claims.values() for claim in rows for outcome in claim.outcomes}
    verdicts |= {value.verdict for found in values.values() for value in found}
    return 0 if verdicts <= HOLDS else 1


def _as_json(
    claims: dict[str, list[ClaimRow]], values: dict[str, list[ValueJudgement]]
) -> dict[str, dict[str, list[object]]]:
    return {
        paper: {
            "claims": [claim.as_dict() for claim in claims[paper]],
            "values": [value.as_dict() for value in values[paper]],
        }
        for paper in claims
    }


def _table(paper: str, claims: Sequence[ClaimRow], values: Sequence[ValueJudgement]) -> list[str]:
    lines = [style(paper, "bold")]
    for scale in dict.fromkeys(outcome.scale for claim in claims for outcome in claim.outcomes):
        found = [(claim, outcome) for claim in claims for outcome in claim.outcomes if outcome.scale == scale]
        rows = [(f"{scale} scale", "DIFF", "95 %", "P HOLM", "SEEDS")]
        rows += [
            (
                f"  {fit(claim.id, 32)}",
                number(outcome.difference),
                interval(outcome.interval),
                number(outcome.p_holm),
                str(outcome.seeds),
            )
            for claim, outcome in found
        ]
        lines += _with_verdicts(rows, [outcome.verdict for _, outcome in found])
    if values:
        rows = [("the paper's numbers", "OURS", "95 %", "PAPER", "SEEDS")]
        rows += [
            (
                f"  {fit(value.value, 32)}",
                number(value.mean),
                interval(value.interval),
                number(value.paper),
                str(value.seeds),
            )
            for value in values
        ]
        lines += _with_verdicts(rows, [value.verdict for value in values])
    return lines


def _with_verdicts(rows: Sequence[Sequence[str]], verdicts: Sequence[str]) -> list[str]:
    """The table with each verdict in front of its row, where verdicts line up and 80 columns suffice."""
    head, *lines = grid(rows, right=(1, 3, 4))
    size = max(map(len, verdicts), default=0)
    marked = [
        f"  {verdict(text)}{' ' * (size - len(text))}{line}"
        for line, text in zip(lines, verdicts, strict=True)
    ]
    return [style(f"{' ' * (size + 2)}{head}", "dim"), *marked]
