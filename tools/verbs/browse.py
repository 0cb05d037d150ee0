"""`kd browse`: the catalog in the terminal; its tree, or the papers that were asked for."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from catalog.errors import CatalogError
from catalog.model import AXES, Axis, Catalog, Paper
from catalog.queries import axis_name, by_leaf, crosstab, select, status
from catalog.schema import load_catalog
from reproductions.engine.show.files import tallies
from reproductions.engine.show.gather import runnable
from reproductions.engine.show.view import Tally, scale_order
from tools.commands import json_option, names
from tools.terminal import MARKS, fit, grid, style, verdict, visible, width, wrap

SUMMARY = "the taxonomy tree; papers by axis, year, status or text"

FULL_ENTRIES = 12  # up to so many papers are shown with what they add
ID_WIDTH = 26  # longer ids push their line to the right; an id is never cut
BAR = 40  # columns of the bar of the month that brought most
SCOPES = {
    "llm": "language models",
    "beyond-llm": "beyond language models",
    "survey": "surveys",
}
COLUMNS = (
    *("id", "title", "date", "venue", "scope", "distils", "status", "arxiv", "url", *AXES, "adds", "teacher"),
    *(
        "student",
        "seed_knowledge",
        "basis",
        "code",
        "code_licence",
        "data",
        "method",
        "superseded_by",
        "external",
    ),
)
JUDGED = tuple(name for name in MARKS if name != "not run")


def options(parser: argparse.ArgumentParser) -> None:
    """What may follow the verb."""
    for axis in ("elicitation", "algorithm", "skill", "vertical"):
        parser.add_argument(f"--{axis}", type=names, default=[], help="one or more values, a,b: any of them")
    parser.add_argument(
        "--search", default="", help="words of id, title, what it adds, models; typos forgiven"
    )
    parser.add_argument(
        "--year", type=names, default=[], help="2025, 2023-2025 or 2024-, month by month; several: a,b"
    )
    parser.add_argument("--scope", type=names, default=[], help="llm, beyond-llm or survey")
    parser.add_argument("--has-code", action="store_true", help="only papers whose authors' code is linked")
    parser.add_argument(
        "--external",
        action="store_true",
        help="only papers that others ran or wrote about: kd show says what",
    )
    parser.add_argument("--has-reproduction", action="store_true", help="only papers that can be run here")
    parser.add_argument("--list", action="store_true", help="list the papers where no filter is given too")
    parser.add_argument("--status", type=names, default=[], help="catalogued, implemented or judged")
    parser.add_argument("--by", type=names, help="count over two axes instead, e.g. --by skill,algorithm")
    json_option(parser)
    parser.add_argument("--csv", action="store_true", help="print CSV for a spreadsheet")


def main(args: argparse.Namespace) -> int:
    """Print the tree, the papers that were asked for, or counts over two axes."""
    catalog = load_catalog()
    verdicts = tallies(catalog.papers)
    judged = list(verdicts)
    papers = select(
        catalog,
        wanted={axis: getattr(args, axis) for axis in AXES},
        statuses=args.status,
        years=args.year,
        scopes=args.scope,
        has_code=args.has_code,
        external=args.external,
        among=runnable(catalog.papers) if args.has_reproduction else None,
        search=args.search,
        judged=judged,
    )
    if args.by is not None and len(args.by) != 2:
        raise CatalogError("--by needs two axes, e.g. --by skill,algorithm")
    axes = tuple(axis_name(name) for name in args.by) if args.by else None
    if args.json:
        print(json.dumps(_as_json(papers, judged, axes), indent=1, ensure_ascii=False))
    elif args.csv:
        print(_as_csv(papers, judged, axes), end="")
    elif axes:
        print("\n".join(matrix(catalog, papers, *axes)))
    elif _filtered(args):
        ranked = bool(args.search.strip())
        months = bool(args.year) and not ranked
        lines = wave(papers) if months else []
        print("\n".join([*lines, *_listing(papers, judged, sections=not ranked, months=months)]))
    else:
        print("\n".join(tree(catalog, papers, verdicts)))
    return 0


def record(paper: Paper, state: str) -> dict[str, object]:
    """A paper as plain data for `--json`."""
    return {
        "id": paper.id,
        "title": paper.title,
        "date": paper.date,
        "venue": paper.venue,
        "arxiv": paper.arxiv,
        "url": paper.url,
        "scope": paper.scope,
        "distils": paper.distils,
        "status": state,
        "taxonomy": {axis: dict(values) for axis, values in paper.taxonomy.items()},
        "adds": paper.adds,
        "teacher": paper.teacher,
        "student": paper.student,
        "seed_knowledge": paper.seed_knowledge,
        "basis": paper.basis,
        "code": list(paper.code),
        "code_licence": paper.code_licence,
        "data": list(paper.data),
        "method": paper.method,
        "superseded_by": paper.superseded_by,
        "external": [asdict(entry) for entry in paper.external],
    }


def tree(catalog: Catalog, papers: Sequence[Paper], judged: Mapping[str, Tally]) -> list[str]:
    """Every leaf of every axis with its papers and the verdicts on their claims, then the two main axes crossed."""
    lines = [style(f"{_papers(papers)} on four axes", "bold") + "; a paper may stand on several leaves", ""]
    for axis in catalog.taxonomy.values():
        lines += [*_branch(axis, by_leaf(papers, axis.id), judged), ""]
    lines += [style("PAPERS BY ELICITATION AND ALGORITHM", "bold")]
    lines += [*matrix(catalog, papers, "elicitation", "algorithm"), ""]
    lines += _apart(papers)
    if judged:
        signs = ", ".join(f"{verdict(name, MARKS[name])} {name}" for name in JUDGED)
        plain = ", ".join(f"{MARKS[name]} {name}" for name in JUDGED)
        told = f"{len(judged)} papers judged: "
        fits = len(told) + len(plain) <= width()
        lines += [told + signs] if fits else [told.rstrip(), f"  {signs}"]
    return [
        *lines,
        wrap("papers: kd browse --list, or filtered: --algorithm sft, --year 2025; see --help"),
    ]


def wave(papers: Sequence[Paper]) -> list[str]:
    """How many papers each month brought, newest first, as lines; none where all are of one month."""
    counts = Counter(paper.date for paper in papers)
    if len(counts) < 2:
        return []
    most = max(counts.values())
    columns = max(1, min(BAR, width() - len("2026-09   1,000  ")))
    rows = [
        f"{month}  {count:>6,}  {'#' * max(1, round(columns * count / most))}"
        for month, count in sorted(counts.items(), reverse=True)
    ]
    return [style("MONTH    PAPERS", "bold"), *rows, ""]


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
        return [style(lines[0], "dim"), *lines[1:]]
    letters = [chr(ord("a") + place) for place in range(len(used))]
    lines = grid([["", *letters], *table[1:]], right=range(1, len(used) + 1))
    key = wrap("; ".join(f"{letter} {name}" for letter, name in zip(letters, used, strict=True)))
    return [style(lines[0], "dim"), *lines[1:], "", key]


def _branch(axis: Axis, leaves: Mapping[str, Sequence[Paper]], judged: Mapping[str, Tally]) -> list[str]:
    """An axis and its leaves, under their groups where it has some."""
    name_width = max(len(value.id) + (4 if value.group else 2) for value in axis.values.values()) + 2
    longest = max((len(_marks(found, judged, plain=True)) for found in leaves.values()), default=0)
    title_width = width() - name_width - max(36, longest + 8)
    title_width = title_width if title_width >= 8 else 0
    lines = [style(axis.id.upper(), "bold") + style(f"  {axis.question}", "dim")]
    for group in axis.groups or ("",):
        values = [value for value in axis.values.values() if value.group == group]
        alone = len(values) == 1 and axis.groups.get(group) == values[0].title
        if group and not alone:
            lines.append(f"{f'  {group}':<{name_width}}{fit(axis.groups[group], title_width)}")
        for value in values:
            indent = "    " if group and not alone else "  "
            found, title = leaves.get(value.id, ()), fit(value.title, title_width)
            line = f"{indent + value.id:<{name_width}}{title:<{title_width}}{len(found) or '.':>6}"
            lines.append(f"{line}  {_marks(found, judged)}".rstrip())
    return lines


def _marks(papers: Iterable[Paper], judged: Mapping[str, Tally], *, plain: bool = False) -> str:
    """'tiny ✓7 =1 ✗2, small ?7' over all judged claims of the papers: scales are never counted together."""
    counts: dict[str, dict[str, int]] = {}
    for paper in papers:
        for scale, found in judged.get(paper.id, {}).items():
            at = counts.setdefault(scale, {})
            for name, count in found.items():
                at[name] = at.get(name, 0) + count
    return ", ".join(
        f"{scale} "
        + " ".join(
            f"{MARKS[name]}{at[name]}" if plain else verdict(name, f"{MARKS[name]}{at[name]}")
            for name in JUDGED
            if at.get(name)
        )
        for scale, at in sorted(counts.items(), key=lambda item: scale_order(item[0]))
    )


def _apart(papers: Sequence[Paper]) -> list[str]:
    """How many of the papers are not about language models, are surveys, or distil nothing."""
    lines = []
    for scope in ("beyond-llm", "survey"):
        count = sum(paper.scope == scope for paper in papers)
        if count:
            lines.append(f"{SCOPES[scope]}: {count} of these; kd browse --scope {scope}")
    idle = sum(not paper.distils for paper in papers)
    if idle:
        lines.append(f"without a student that learns from a teacher: {idle} of these; kd show says why")
    return lines


def _filtered(args: argparse.Namespace) -> bool:
    asked = [*(getattr(args, axis) for axis in AXES), args.status, args.year, args.scope, args.search.strip()]
    return any(asked) or args.has_code or args.external or args.has_reproduction or args.list


def _listing(
    papers: Sequence[Paper], judged: Sequence[str], *, sections: bool, months: bool = False
) -> list[str]:
    """The papers a line each; with `sections`, those beyond language models and the surveys come after the others.

    With `months` a line above the papers of each month says how many there are; newest first, as they come.
    """
    if not papers:
        return ["no paper matches; `kd browse --list` lists them all"]
    name_width = min(ID_WIDTH, max(len("PAPER"), *(len(paper.id) for paper in papers)))
    states = {paper.id: status(paper, judged) for paper in papers}
    state_width = (
        max(len("STATUS"), *map(len, states.values())) if set(states.values()) != {"catalogued"} else 0
    )
    head = f"{'PAPER':<{name_width}}  DATE     {'STATUS' * bool(state_width):<{state_width}}"
    lines = [style(f"{head}{'  ' * bool(state_width)}TITLE", "bold")]
    for scope in SCOPES if sections else ("",):
        found = [paper for paper in papers if not scope or paper.scope == scope]
        if found and sections and scope != "llm" and len(found) < len(papers):
            lines += ["", style(SCOPES[scope].upper(), "bold")]
        counts = Counter(paper.date for paper in found)
        month = ""
        for paper in found:
            if months and len(counts) > 1 and paper.date != month:
                month = paper.date
                told = f"{month}: {_count(counts[month])}"
                lines += [*([""] if lines[-1] else []), style(told, "bold")]
            state = f"{states[paper.id]:<{state_width}}  " if state_width else ""
            lines.append(fit(f"{paper.id:<{name_width}}  {paper.date}  {state}{paper.title}", width()))
            if len(papers) <= FULL_ENTRIES:
                labels = "; ".join(", ".join(values) for values in paper.taxonomy.values() if values)
                lines += [style(wrap(labels, "    "), "dim")] if labels else []
                lines += [wrap(paper.adds, "    "), ""]
    if lines[-1]:
        lines.append("")
    return [*lines, f"{_papers(papers)}; `kd show {papers[0].id}` for one of them"]


def _papers(papers: Sequence[Paper]) -> str:
    return _count(len(papers))


def _count(papers: int) -> str:
    return f"{papers:,} paper{'s' if papers != 1 else ''}"


def _as_json(papers: Sequence[Paper], judged: Sequence[str], axes: tuple[str, ...] | None) -> object:
    if axes is None:
        return [record(paper, status(paper, judged)) for paper in papers]
    return [
        {axes[0]: row, axes[1]: column, "papers": count}
        for (row, column), count in sorted(crosstab(papers, *axes).items())
    ]


def _as_csv(papers: Sequence[Paper], judged: Sequence[str], axes: tuple[str, ...] | None) -> str:
    """What `--json` says, a line a paper; several values of a cell are separated by '; '."""
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if axes:
        writer.writerow([*axes, "papers"])
        counts = crosstab(papers, *axes)
        writer.writerows([row, column, count] for (row, column), count in sorted(counts.items()))
        return text.getvalue()
    writer.writerow(COLUMNS)
    for paper in papers:
        plain = record(paper, status(paper, judged))
        plain |= {axis: list(values) for axis, values in paper.taxonomy.items()}
        plain |= {"external": [entry.url for entry in paper.external]}
        writer.writerow([cell(plain[name]) for name in COLUMNS])
    return text.getvalue()


def cell(value: object) -> str:
    """A value for a spreadsheet, in which nothing is a formula: what could begin one gets a quote before it."""
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else visible(str(value))
    return f"'{text}" if text.lstrip(" ")[:1] in tuple("=+-@\t\r＝＋－＠") else text
