"""`kd browse`: the catalog in the terminal."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from catalog.errors import CatalogError
from catalog.queries import axis_name, crosstab, select, status
from catalog.schema import AXES, Catalog, Paper, load_catalog
from tools.evidence import judged_papers
from tools.terminal import fit, grid, style, width, wrap

FULL_ENTRIES = 12  # up to so many papers are shown with what they add


def main(args: argparse.Namespace) -> int:
    """Print the papers that were asked for, or their counts over two axes."""
    catalog = load_catalog()
    judged = judged_papers(catalog.papers)
    papers = select(
        catalog,
        wanted={axis: getattr(args, axis) for axis in AXES},
        statuses=args.status,
        search=args.search,
        judged=judged,
    )
    if args.by is not None and len(args.by) != 2:
        raise CatalogError("--by needs two axes, e.g. --by skill,algorithm")
    axes = tuple(axis_name(name) for name in args.by) if args.by else None
    if args.json:
        print(json.dumps(_as_json(papers, judged, axes), indent=1, ensure_ascii=False))
    elif axes:
        print("\n".join(matrix(catalog, papers, *axes)))
    else:
        print("\n".join(_listing(catalog, papers, judged, everything=len(papers) == len(catalog.papers))))
    return 0


def record(paper: Paper, state: str) -> dict[str, object]:
    """A paper as plain data for `--json`."""
    return {
        "id": paper.id,
        "title": paper.title,
        "date": paper.date,
        "venue": paper.venue,
        "url": paper.url,
        "status": state,
        "taxonomy": {axis: dict(values) for axis, values in paper.taxonomy.items()},
        "adds": paper.adds,
        "method": paper.method,
    }


def matrix(catalog: Catalog, papers: Sequence[Paper], rows: str, columns: str) -> list[str]:
    """Counts over two axes as lines; a dot where there is no paper."""
    counts = crosstab(papers, rows, columns)
    row_axis, column_axis = catalog.taxonomy[rows], catalog.taxonomy[columns]
    used = [value for value in column_axis.values if any(column == value for _, column in counts)]
    if len(row_axis.values) < len(used):  # the longer axis goes down the page
        return matrix(catalog, papers, columns, rows)
    table = [["", *used]]
    table += [[row, *(str(counts.get((row, column), ".")) for column in used)] for row in row_axis.values]
    lines = grid(table, right=range(1, len(used) + 1))
    if max(map(len, lines), default=0) <= width():
        return [style(lines[0], "bold"), *lines[1:]]
    letters = [chr(ord("a") + place) for place in range(len(used))]
    lines = grid([["", *letters], *table[1:]], right=range(1, len(used) + 1))
    key = wrap("; ".join(f"{letter} {name}" for letter, name in zip(letters, used, strict=True)))
    return [style(lines[0], "bold"), *lines[1:], "", key]


def _as_json(papers: Sequence[Paper], judged: Sequence[str], axes: tuple[str, ...] | None) -> object:
    if axes is None:
        return [record(paper, status(paper, judged)) for paper in papers]
    counts = crosstab(papers, *axes)
    return [
        {axes[0]: row, axes[1]: column, "papers": count} for (row, column), count in sorted(counts.items())
    ]


def _listing(
    catalog: Catalog, papers: Sequence[Paper], judged: Sequence[str], *, everything: bool
) -> list[str]:
    if not papers:
        return ["no paper matches; `kd browse` lists them all"]
    name_width = max(len("PAPER"), *(len(paper.id) for paper in papers))
    state_width = max(len("STATUS"), *(len(status(paper, judged)) for paper in papers))
    head = f"{'PAPER':<{name_width}}  {'DATE':<7}  {'STATUS':<{state_width}}  TITLE"
    lines = [style(head, "bold")]
    for paper in papers:
        state = status(paper, judged)
        line = f"{paper.id:<{name_width}}  {paper.date}  {state:<{state_width}}  {paper.title}"
        lines.append(fit(line, width()))
        if len(papers) <= FULL_ENTRIES:
            labels = "; ".join(", ".join(values) for values in paper.taxonomy.values() if values)
            lines += [style(wrap(labels, "    "), "dim"), wrap(paper.adds, "    "), ""]
    if everything:
        lines += ["", style("papers by elicitation and algorithm", "bold")]
        lines += matrix(catalog, papers, "elicitation", "algorithm")
    if lines[-1]:
        lines.append("")
    count = f"{len(papers)} paper{'s' if len(papers) != 1 else ''}"
    return [*lines, f"{count}; `kd show {papers[0].id}` for one of them, `kd browse --help` for filters"]
