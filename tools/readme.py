"""`kd readme`: README.md, made from the catalog and the recorded results; nothing in it is typed by hand."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catalog.queries import crosstab, status
from catalog.schema import Catalog, Paper, load_catalog
from tools import evidence
from tools.evidence import ROOT, ClaimRow
from tools.terminal import interval, number

README = ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks"
TEMPLATES = Path(__file__).parent / "templates"
MARKS = {"reproduced": "✅", "not reproduced": "❌", "inconclusive": "➖", "not run": "⬜"}


def main(args: argparse.Namespace) -> int:
    """Write README.md, or with --check say whether it is what would be written."""
    text = render()
    same = README.is_file() and README.read_text(encoding="utf-8") == text
    if args.check:
        print("README.md is up to date" if same else "README.md differs from what `make readme` writes")
        return 0 if same else 1
    if not same:
        README.write_text(text, encoding="utf-8")
    print("README.md: nothing to change" if same else "README.md: written")
    return 0


def render(catalog: Catalog | None = None, claims: Mapping[str, Sequence[ClaimRow]] | None = None) -> str:
    """The README's text; both arguments are read from the repository where they are not given."""
    catalog = catalog or load_catalog()
    if claims is None:
        claims = {paper: evidence.claims(paper) for paper in evidence.judged_papers(catalog.papers)}
    # Markdown, not HTML: the filters `md`, `code` and `link` escape for it, and a test renders hostile text.
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters.update(md=md, code=code, number=number, interval=interval, tally=tally, link=link)
    papers = sorted(catalog.papers.values(), key=lambda paper: (paper.date, paper.id), reverse=True)
    text = environment.get_template("README.md.j2").render(
        catalog=catalog,
        papers=papers,
        counts=crosstab(papers, "elicitation", "algorithm"),
        leaves={axis_id: _leaves(papers, axis_id, axis.values) for axis_id, axis in catalog.taxonomy.items()},
        badges={paper.id: badge(paper, claims.get(paper.id, ())) for paper in papers},
        judged={paper_id: rows for paper_id, rows in claims.items() if rows},
        marks=MARKS,
        reports={paper: _reports(paper) for paper in claims},
        benchmarks=benchmarks(),
    )
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def md(text: object) -> str:
    """Text that Markdown shows as it is: one line in which no cell, link, code span or tag can start."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)


def code(text: object) -> str:
    """Text as a code span that survives in a table cell."""
    line = " ".join(str(text).split())
    safe = "".join(f"&#{ord(letter)};" if letter in "&<>`|\\*_[]~$" else letter for letter in line)
    return f"<code>{safe}</code>"


def link(url: str) -> str:
    """A link's address; the schema lets no bracket, quote or space in, and this holds were it to change."""
    return re.sub(r"[^\w./:?=&%#~+,;@-]", lambda found: f"%{ord(found[0]):02X}", url, flags=re.ASCII)


def badge(paper: Paper, claims: Sequence[ClaimRow]) -> str:
    """A paper's state in a few signs: '✅ 7 ❌ 1' over its judged claims, '⚙' where there is only code."""
    if claims:
        return tally(claims)
    return "⚙" if status(paper) == "implemented" else ""


def tally(claims: Sequence[ClaimRow]) -> str:
    """'✅ 7 ❌ 1': how many outcomes have each verdict, over all scales."""
    verdicts = [outcome.verdict for claim in claims for outcome in claim.outcomes]
    return " ".join(f"{mark} {verdicts.count(name)}" for name, mark in MARKS.items() if name in verdicts)


def _leaves(papers: Sequence[Paper], axis_id: str, values: Mapping[str, Any]) -> dict[str, list[Paper]]:
    return {value: [paper for paper in papers if value in paper.taxonomy[axis_id]] for value in values}


def _reports(paper_id: str) -> list[dict[str, str]]:
    """Report and plot of each recorded scale, as links from the README."""
    shown = []
    for scale, report, plot in evidence.reports(paper_id):
        paths = {"report": report, "plot": plot}
        links = {name: path.relative_to(ROOT).as_posix() for name, path in paths.items() if path is not None}
        shown.append({"scale": scale, "report": "", "plot": "", **links})
    return shown


def benchmarks(folder: Path | None = None) -> list[dict[str, Any]]:
    """A table for each file that `make bench` recorded: implementations down, vocabularies across, forward KL."""
    tables = []
    for path in sorted((folder or BENCHMARKS).glob("fused-*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        cases = [case for case in record["cases"] if case["divergence"] == "forward_kl"]
        rows: dict[str, list[str]] = {}
        for case in cases:
            for result in case["results"]:
                rows.setdefault(result["implementation"], []).append(_measured(result))
        if cases:
            first = cases[0]
            versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items() if number)
            about = f"{record['device']}, {first['dtype']}, {first['positions'] // 2} completion positions"
            widths = f"hidden sizes {first['student_width']} and {first['teacher_width']}; {versions}"
            columns = ["forward KL", *(f"vocabulary {case['vocabulary']:,}" for case in cases)]
            tables.append({"about": f"{about}, {widths}", "columns": columns, "rows": list(rows.items())})
    return tables


def _measured(result: Mapping[str, Any]) -> str:
    if result["seconds"] is None:
        return result["note"]
    peak = result["peak_bytes"]
    memory = "" if peak is None else ", out of memory" if peak < 0 else f", {peak / 1e9:.2f} GB"
    return f"{number(result['seconds'])} s{memory}"
