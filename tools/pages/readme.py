"""README.md: what this is, two commands, coverage, the verdicts, and the awesome list, one line a paper.

GitHub shows a README up to 512,000 bytes and readers leave long before; LIMIT is what it may have. Where the catalog
has grown beyond what fits, it gets shorter, step by step: first the links to code and data go (the lists of the leaves
have them), then the lines of what is not about language models (it has its own list), then the ends of long titles.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from catalog.queries import crosstab
from catalog.schema import Paper
from methods.recipe import recipe_ids
from reproductions.engine.show.view import STANDS_IN
from tools.pages import lists
from tools.pages.atlas import MARKS, NEWEST, Atlas, Coverage, badge, judging, told
from tools.pages.evidence import disputes
from tools.pages.evidence.page import short
from tools.pages.markdown import cut, link, links, md, sealed, table

LIMIT = 150_000  # bytes, with the seal
TEMPLATES = Path(__file__).parent / "templates"
BAR = 10  # signs of a coverage bar
NAMED = 40  # so many papers that are described elsewhere are named in a leaf; more are counted


@dataclass(frozen=True)
class Length:
    """How much of a paper its line shows, and which papers have one."""

    title: int  # characters
    links: bool = False  # to code and data; otherwise only whether there are any
    named: bool = False  # papers described on an earlier leaf by their ids; otherwise only how many
    beyond: bool = False  # papers beyond language models line by line; otherwise only how many


LENGTHS = (
    Length(200, links=True, named=True, beyond=True),
    Length(200, links=True, beyond=True),
    Length(92, beyond=True),
    *map(Length, range(92, 15, -2)),
)


def render(atlas: Atlas) -> str:
    """The README's text: the longest form that, sealed, stays within LIMIT, else the shortest there is."""
    texts = cache(lambda length: _render(atlas, length))
    fitting = bisect_left(LENGTHS, True, key=lambda length: len(sealed(texts(length)).encode()) <= LIMIT)
    return texts(LENGTHS[min(fitting, len(LENGTHS) - 1)])


def _render(atlas: Atlas, length: Length) -> str:
    axes = atlas.catalog.taxonomy
    text = _environment().get_template("README.md.j2").render(
        atlas=atlas,
        count=len(atlas.papers),
        matrix="\n".join(matrix(atlas)),
        coverage="\n".join(coverage(atlas)),
        wall="\n".join(wall(atlas)),
        questions="\n".join(questions(atlas)),
        evidence="\n\n".join(map(told, atlas.evidence.values())),
        together="\n".join(short(atlas)),
        disputes="\n".join(disputes.short(atlas.record)),
        awesome="\n".join(awesome(atlas, length)),
        newest="\n".join(f"- {paper.date} {_title(atlas, paper, length)}" for paper in atlas.papers[:NEWEST]),
        axes=[(md(axis.title), f"axis-{axis.id}") for axis in axes.values()],
        apart=[(title, f"catalog/lists/{name}.md", len(papers)) for name, title, _, papers in lists.apart(atlas)],
        signs=", ".join(f"{mark} {name}" for name, mark in MARKS.items() if name != "not run"),
        judging=[(md(head), md(about)) for head, about in judging(MARKS)],
        recipes=recipe_ids(),
        stands_in=list(STANDS_IN.items()),
        shortened=not length.links,
    )  # fmt: skip
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


@cache
def _environment() -> Environment:
    # Markdown, not HTML: what goes in was escaped by `md` and `link`, and a test renders hostile text.
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )


def matrix(atlas: Atlas) -> list[str]:
    """How many papers have each pair of elicitation (down) and algorithm (across)."""
    axes, counts = atlas.catalog.taxonomy, crosstab(atlas.core, "elicitation", "algorithm")
    down, across = axes["elicitation"], axes["algorithm"]
    head = ["", *(f"[{md(value.title)}]({_leaf('algorithm', value.id)})" for value in across.values.values())]
    rows = [
        [f"**[{md(value.title)}]({_leaf('elicitation', value.id)})**"]
        + [str(counts.get((value.id, column), "·")) for column in across.values]
        for value in down.values.values()
    ]
    return table(head, rows, right=range(1, len(head)))


def coverage(atlas: Atlas) -> list[str]:
    """A line a leaf: how many of its papers are more than a record."""
    rows = []
    for axis in atlas.catalog.taxonomy.values():
        for place, value in enumerate(axis.values.values()):
            found = atlas.coverage(atlas.leaves[axis.id][value.id])
            rows.append(
                [
                    md(axis.title) if place == 0 else "",
                    f"[{md(value.title)}]({_leaf(axis.id, value.id)})",
                    str(found.papers),
                    bar(found),
                    str(found.covered),
                    str(found.judged),
                ]
            )
    return table(("axis", "leaf", "papers", "", "with a method", "judged"), rows, right=(2, 4, 5))


def wall(atlas: Atlas) -> Iterator[str]:
    """A line a judged paper, by name: its verdicts at each scale, what played the teacher there, and its page."""
    for paper_id in sorted(atlas.judged & atlas.catalog.papers.keys()):
        words = {scale: atlas.views[paper_id].stands_in(scale) for scale in atlas.tallies[paper_id]}
        signs = badge(atlas.tallies[paper_id], words=words)
        earlier = len(atlas.views[paper_id].attempts)
        more = f"{earlier} earlier attempt{'s'[: earlier != 1]}" if earlier else ""
        about = " · ".join(filter(None, (signs, more)))
        yield f"- [{md(paper_id)}](reproductions/papers/{link(paper_id)}.md) {about}"


def questions(atlas: Atlas) -> Iterator[str]:
    """A line a question of our own: what it asks, its verdicts, its page."""
    for name, one in atlas.questions.items():
        verdicts = f" {one.badge}" if one.badge else ""
        yield f"- [{md(name)}](reproductions/papers/{link(name)}.md) {md(one.asks)}{verdicts}"


def awesome(atlas: Atlas, length: Length) -> Iterator[str]:
    """The list: each paper once, under the first leaf it has; elsewhere it is named or counted."""
    split = placed(atlas)
    for axis in atlas.catalog.taxonomy.values():
        yield f'### <a id="axis-{axis.id}"></a>{md(axis.title)}'
        yield ""
        yield md(axis.question)
        for value in axis.values.values():
            here, elsewhere = split[axis.id][value.id]
            count = len(here) + len(elsewhere)
            yield ""
            yield f"#### [{md(value.title)}]({_leaf(axis.id, value.id)})"
            yield ""
            if not count:
                yield "No paper yet."
            yield from (line(atlas, paper, length) for paper in here)
            if elsewhere:
                yield from ["", _elsewhere(axis.id, value.id, here, elsewhere, length)]
        yield ""
    for name, title, about, papers in lists.apart(atlas):
        if papers:
            yield f"### {title}"
            yield ""
            if papers == atlas.beyond and not length.beyond:
                yield f"{about} [{len(papers)} papers](catalog/lists/{name}.md)."
            else:
                yield from (line(atlas, paper, length) for paper in papers)
            yield ""


def line(atlas: Atlas, paper: Paper, length: Length) -> str:
    """Title, venue, date, code, data, verdicts."""
    parts = [f"- {_title(atlas, paper, length)}", f"{md(paper.venue)} {paper.date}"]
    for name, urls in (("code", paper.code), ("data", paper.data)):
        if urls:
            parts.append(links(urls[:1], name) if length.links else name)
    if paper.id in atlas.judged:  # long ago told on the wall, which has the links
        counts = atlas.badge(paper)
        parts.append(f"[{counts}](reproductions/papers/{link(paper.id)}.md)" if length.links else "✓")
    elif paper.method:
        parts.append("⚙")
    return " ".join(parts)


def placed(atlas: Atlas) -> dict[str, dict[str, tuple[list[Paper], list[Paper]]]]:
    """Per leaf the papers described there and those described on an earlier one."""
    seen: set[str] = set()
    split: dict[str, dict[str, tuple[list[Paper], list[Paper]]]] = {}
    for axis, values in atlas.leaves.items():
        split[axis] = {}
        for value, papers in values.items():
            here = [paper for paper in papers if paper.id not in seen]
            split[axis][value] = here, [paper for paper in papers if paper.id in seen]
            seen |= {paper.id for paper in here}
    return split


def bar(found: Coverage) -> str:
    """'█▌░░░░░░░░': the share of a leaf's papers that is covered, to an eighth of a sign; never none where any is."""
    eighths = found.covered * BAR * 8 // found.papers if found.papers else 0
    whole, part = divmod(max(eighths, 1 if found.covered else 0), 8)
    drawn = "█" * whole + ("▏▎▍▌▋▊▉"[part - 1] if part else "")
    return drawn + "░" * (BAR - len(drawn))


def _title(atlas: Atlas, paper: Paper, length: Length) -> str:
    marks = ("" if paper.distils else " †") + (" ‡" if paper.external else "")
    return f"[{md(cut(paper.title, length.title))}]({link(paper.url)}){marks}"


def _elsewhere(
    axis: str, value: str, here: Sequence[Paper], elsewhere: Sequence[Paper], length: Length
) -> str:
    what = f"{len(elsewhere)} {'more ' if here else ''}listed above"
    if not length.named or len(elsewhere) > NAMED:
        return f"And [{what}]({_leaf(axis, value)})."
    return f"[{what[:1].upper() + what[1:]}]({_leaf(axis, value)}): {', '.join(md(paper.id) for paper in elsewhere)}"


def _leaf(axis: str, value: str) -> str:
    return f"catalog/lists/{axis}-{value}.md"
