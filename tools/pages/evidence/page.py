"""reproductions/atlas.md: what the atlas says as a whole, and the part of it that the README has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from reproductions.engine.atlas.record import AgreementRow, PooledRow, Record, Row, Table
from tools.pages.atlas import Atlas, told
from tools.pages.evidence import encoders
from tools.pages.evidence.charts import sharpness
from tools.pages.evidence.told import (
    agrees,
    figure,
    holds,
    league_name,
    main_tables,
    place,
    rules,
    sharp,
    stated,
)
from tools.pages.markdown import link, md, table
from tools.terminal import interval, number, thousands

PATH = "reproductions/atlas.md"
FIGURES = "reproductions/figures"
SHORT = 5  # statements that the README names
LONGEST = 200  # arms of a league in the page


def page(atlas: Atlas) -> str:
    """The whole page as Markdown."""
    record = atlas.record
    lines = [
        "# What the papers say together",
        "",
        "<!-- Written by `make readme` from reproductions/atlas.json and reproductions/verdicts/; do not edit. -->",
        "",
        "Recorded arms of equal budget side by side, whichever paper brought them; what holds over papers; and how far",
        "the papers' own orders are found again. Computed from raw figures (`make verify` does it again), never typed.",
        "A scale is not the paper: nothing here is pooled over scales.",
        "",
        "## Verdicts",
        "",
        *_spaced(told(found) for found in atlas.evidence.values()),
    ]
    if not atlas.evidence:
        lines += ["No claim is judged at present.", ""]
    if record is None:
        return "\n".join([*lines, "No result is recorded that could be compared."]) + "\n"
    lines += ["## Statements over papers", "", *_statements(record)]
    lines += ["## Agreement with the papers' own order", "", *_agreement(record)]
    lines += ["## Quality and sharpness", "", *_sharpness(record)]
    sizes = encoders.rows(atlas)
    if sizes:
        lines += [
            "## Small encoders",
            "",
            encoders.ABOUT,
            "",
            *table(encoders.HEAD, sizes, right=range(5)),
            "",
        ]
    lines += ["## League tables", "", *_leagues(record)]
    lines += ["## How these figures come about", ""]
    lines += [f"- **{md(head)}** {md(text)}" for head, text in rules(record)]
    return "\n".join(lines).rstrip() + "\n"


def figures(atlas: Atlas) -> dict[str, str]:
    """Path -> SVG of the page's pictures."""
    if atlas.record is None:
        return {}
    found_figures = {}
    for found in atlas.record.tables:
        for metric in drawn(found):
            picture = sharpness(found, metric)
            if picture:
                found_figures[_figure(found, metric)] = picture
    return found_figures


def short(atlas: Atlas) -> list[str]:
    """What the README says of it: the statements of each testbed's largest league, and the agreement."""
    record = atlas.record
    if record is None:
        return ["No result is recorded that could be compared."]
    lines = []
    for scale in dict.fromkeys(found.scale for found in record.tables):
        for league in main_tables(record, scale):
            rows = [row for found, some in stated(record) if found.name == league.name for row in some]
            what = md(f"{league_name(league)}: {len(league.rows)} arms of equal budget, {_best(league)}")
            lines.append(f"- **{what}**")
            lines += [
                f"  - {md(row.title)}: {md(holds(row))}, {md(figure(row))}"
                for row in rows[:SHORT]
                if row.mean is not None
            ]
        lines += [f"  - The papers' own order{_when(row)}: {md(agrees(row))}" for row in _now(record, scale)]
    return lines


def _best(found: Table) -> str:
    """'18 tie for the best on exact match, greedy'."""
    ties = sum("a" in row.letters for row in found.rows)
    metric = found.columns[0].title
    return (
        f"{ties} tie for the best on {metric}" if ties > 1 else f"{found.rows[0].title} is best on {metric}"
    )


def _when(row: AgreementRow) -> str:
    return " (earlier attempts)" if row.earlier else ""


def _now(record: Record, scale: str) -> list[AgreementRow]:
    """The agreement at a scale with most papers: today's where there is one."""
    rows = [row for row in record.agreement if row.scale == scale and row.mean is not None]
    current = [row for row in rows if not row.earlier]
    return sorted(current or rows, key=lambda row: -row.papers)[:1]


def _statements(record: Record) -> Iterator[str]:
    found = list(stated(record))
    if not found:
        yield "No two recorded arms differ in what a statement names."
        yield ""
    for league, rows in found:
        yield f"### {md(league_name(league))}: {md(league.columns[0].title)}"
        yield ""
        yield from table(
            ["statement", "", "mean, 95 %", "tau", "next contrast", "contrasts"],
            [_statement(row) for row in rows],
        )
        yield ""
        yield "<details><summary>Every contrast, and the other metrics</summary>"
        yield ""
        for row in rows:
            yield f"- {md(row.title)}: {md(row.says)}"
            for one in row.contrasts:
                told_of = f"{number(one.difference)} {interval(one.interval)}, {one.seeds} seeds"
                yield f"  - {md(one.more)} minus {md(one.less)}: {md(told_of)} ({_papers(one.papers)})"
        yield ""
        others = [
            row
            for row in record.statements
            if row.league == league.name and row.metric != league.columns[0].metric
        ]
        for row in others:
            yield f"- {md(row.metric_title)}, {md(row.title)}: {md(holds(row))}, {md(figure(row))}"
        yield ""
        yield "</details>"
        yield ""


def _statement(row: PooledRow) -> list[str]:
    if row.mean is None:
        (one,) = row.contrasts
        shown = f"{number(one.difference)} {interval(one.interval)}"
        return [md(row.title), md(holds(row)), md(shown), "", "", "1"]
    shown = f"{number(row.mean)} {interval(row.interval)}"
    next_one = interval(row.prediction) if row.prediction is not None else ""
    return [md(row.title), md(holds(row)), md(shown), number(row.tau), md(next_one), str(len(row.contrasts))]


def _agreement(record: Record) -> Iterator[str]:
    rows = [row for row in record.agreement if row.mean is not None or row.same + row.opposite]
    for row in rows:
        yield f"- **{md(place(row))}**: {md(agrees(row))}."
    if not rows:
        yield "No paper's numbers can be compared with recorded arms yet."
    yield ""
    for row in rows:
        if row.orders:
            yield f"<details><summary>{md(place(row))}: paper by paper</summary>"
            yield ""
            yield from table(
                ["paper", "its setting", "metric here", "arms", "Kendall", "Spearman"],
                [
                    [
                        _papers([order.paper]),
                        md(order.setting),
                        md(order.metric),
                        str(len(order.arms)),
                        f"{order.kendall:.2f}",
                        f"{order.spearman:.2f}",
                    ]
                    for order in row.orders
                ],
                right=(3, 4, 5),
            )
            yield ""
            yield "</details>"
            yield ""


def _sharpness(record: Record) -> Iterator[str]:
    shown = [found for found in record.tables if found.correlations]
    for found in shown:
        yield f"### {md(found.scale)}: {md(found.name)}"
        yield ""
        yield from (f"- {md(sharp(found, one))}" for one in found.correlations)
        yield ""
        for metric in drawn(found):
            if sharpness(found, metric):
                name = _figure(found, metric).rpartition("/")[2]
                yield f'<img src="figures/{name}" width="440" alt="{md(metric)} against confidence">'
        yield ""
    if not shown:
        yield "Too few arms have their confidence measured."
        yield ""


def _leagues(record: Record) -> Iterator[str]:
    for found in record.tables:
        yield f"### {md(found.scale)}: {md(found.name)}"
        yield ""
        out = f"; {found.left_out} arms lack this metric" if found.left_out else ""
        yield (
            f"{md(found.budget)}; {found.examples:,} held-out examples; {len(found.rows)} arms by "
            f"{md(found.columns[0].title)}{out}. {found.apart} of {found.pairs} pairs are told apart."
        )
        yield ""
        yield "<details><summary>The table</summary>"
        yield ""
        head = [
            "ties",
            "ranks",
            "arm",
            *(md(column.title) for column in found.columns),
            "behind",
            "tokens written",
            "seeds",
            "papers",
        ]
        yield from table(head, [_row(found, row) for row in found.rows[:LONGEST]], right=(1,))
        if len(found.rows) > LONGEST:
            yield f"\nAnd {len(found.rows) - LONGEST} more in `reproductions/atlas.json`."
        yield ""
        yield "</details>"
        yield ""


def _row(found: Table, row: Row) -> list[str]:
    cells = [row.cell(column.metric) for column in found.columns]
    shown = ["" if cell is None else number(cell.mean) for cell in cells]
    behind = "" if row.behind_interval is None else f"{number(row.behind)} {interval(row.behind_interval)}"
    ranks = f"{row.ranks[0]}–{row.ranks[1]}"
    written = "" if row.generated is None else thousands(round(row.generated))
    return [
        row.letters,
        ranks,
        md(row.title),
        *shown,
        md(behind),
        written,
        str(row.seeds),
        _papers(row.papers),
    ]


def _papers(names: Iterable[str]) -> str:
    """Each with a link to its page."""
    return ", ".join(f"[{md(name)}]({link(f'papers/{name}.md')})" for name in names)


def drawn(found: Table) -> list[str]:
    """The metrics that are drawn against confidence: the one that decides, and the first sampled one."""
    sampled = [column.metric for column in found.columns[1:] if column.metric in ("rouge_l", "exact_match")]
    return [found.columns[0].metric, *sampled[-1:]]


def _figure(found: Table, metric: str) -> str:
    name = "".join(letter if letter.isalnum() else "-" for letter in f"{found.name}-{metric}".lower())
    return f"{FIGURES}/sharpness-{name}.svg"


def _spaced(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        yield line
        yield ""
