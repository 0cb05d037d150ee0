"""`kd verify [PAPER]`: every recorded result judged again from its raw figures."""

from __future__ import annotations

import argparse
import json

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from tools import evidence
from tools.evidence import ClaimRow
from tools.terminal import grid, interval, number, style, verdict


def main(args: argparse.Namespace) -> int:
    """Print each claim with its verdict; 1 where a judged claim is not reproduced, else 0."""
    catalog = load_catalog()
    papers = [catalog.paper(args.paper).id] if args.paper else evidence.judged_papers(catalog.papers)
    if args.paper and not evidence.result_files(args.paper):
        raise CatalogError(
            f"no results are recorded for {args.paper}; `make reproduce PAPER={args.paper}` makes them"
        )
    judged = {paper: evidence.claims(paper) for paper in papers}
    if args.json:
        plain = {paper: [claim.as_dict() for claim in claims] for paper, claims in judged.items()}
        print(json.dumps(plain, indent=1, ensure_ascii=False))
    elif not judged:
        print("no results are recorded yet; `make reproduce PAPER=minillm` makes the first")
    else:
        print("\n\n".join("\n".join(_table(paper, claims)) for paper, claims in judged.items()))
    verdicts = {
        outcome.verdict for claims in judged.values() for claim in claims for outcome in claim.outcomes
    }
    return 0 if verdicts <= {"reproduced", "not run"} else 1


def _table(paper: str, claims: list[ClaimRow]) -> list[str]:
    lines = [style(paper, "bold")]
    for scale in sorted({outcome.scale for claim in claims for outcome in claim.outcomes}):
        rows = [("", "DIFFERENCE", "95 %", "P (HOLM)", "SEEDS")]
        verdicts = [""]
        for claim in claims:
            for outcome in claim.outcomes:
                if outcome.scale == scale:
                    rows.append(
                        (
                            f"  {claim.id}",
                            number(outcome.difference),
                            interval(outcome.interval),
                            number(outcome.p_holm),
                            str(outcome.seeds),
                        )
                    )
                    verdicts.append(outcome.verdict)
        lines.append(f"{scale} scale")
        lines += [
            f"{line}  {verdict(text)}".rstrip()
            for line, text in zip(grid(rows, right=(1, 3, 4)), verdicts, strict=True)
        ]
    return lines
