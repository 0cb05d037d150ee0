"""llms.txt: the site as a list of links for a program that reads text, by the convention of llmstxt.org."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from catalog.schema import Paper
from tools.pages.atlas import Atlas
from tools.pages.markdown import md

FILE = "llms.txt"


def text(atlas: Atlas, nav: Sequence[tuple[str, str]]) -> str:
    """Markdown: what this is, its pages, the papers that were judged, and all others as what may be left out."""
    judged = [paper for paper in atlas.papers if paper.id in atlas.views]
    others = [paper for paper in atlas.papers if paper.id not in atlas.views]
    lines = [
        "# KD Atlas",
        "",
        f"> A catalog of {len(atlas.papers):,} papers on knowledge distillation, by elicitation, algorithm, skill and "
        "vertical; for some of them a method that runs and a reproduction whose claims are judged. A verdict always "
        "names its scale: tiny models on a CPU say nothing about a paper's own scale.",
        "",
        "## Pages",
        "",
        *(f"- [{md(title)}]({name})" for name, title in (("index.html", "Start"), *nav)),
        "",
        "## Papers with a reproduction",
        "",
        *_papers(judged),
        "",
        "## Questions of our own",
        "",
        *(f"- [{md(name)}](papers/{name}.html)" for name in atlas.questions),
        "",
        "## Optional",
        "",
        *_papers(others),
    ]
    return "\n".join(lines) + "\n"


def _papers(papers: Iterable[Paper]) -> list[str]:
    return [f"- [{md(paper.title)}](papers/{paper.id}.html): {md(paper.adds)}" for paper in papers]
