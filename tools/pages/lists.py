"""The lists with prose, catalog/lists/: one of every leaf, what has no leaf, the teachers' terms, and an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from catalog.schema import Axis, Catalog, Paper, Value
from tools.pages.atlas import Atlas
from tools.pages.markdown import code, link, links, md, table

UP = "../../"  # from catalog/lists/ to the root
NOTE = "<!-- Written by `make readme` from the records; edit catalog/papers/ or tools/pages/lists.py. -->"


def pages(atlas: Atlas) -> dict[str, str]:
    """File name in catalog/lists/ -> its Markdown."""
    found = {
        f"{axis.id}-{value.id}.md": leaf(atlas, axis, value)
        for axis in atlas.catalog.taxonomy.values()
        for value in axis.values.values()
    }
    for name, title, about, papers in apart(atlas):
        found[f"{name}.md"] = _page(title, [about], atlas, papers)
    found["teachers-terms.md"] = terms(atlas.catalog)
    found["README.md"] = index(atlas)
    return found


def leaf(atlas: Atlas, axis: Axis, value: Value) -> str:
    """One value of an axis: what it is, and every paper that has it, newest first."""
    unverified = "" if value.checked else " (section number unverified)"
    about = [
        f"{md(axis.title)}: {md(axis.question)}",
        f"§{md(value.section)} of the survey{unverified}. {md(value.summary)}",
    ]
    about += [
        f"- {md(formula.name)}: {code(formula.formula)}{f' ({md(formula.note)})' if formula.note else ''}"
        for formula in value.formulas
    ]
    return _page(value.title, about, atlas, atlas.leaves[axis.id][value.id])


def apart(atlas: Atlas) -> list[tuple[str, str, str, list[Paper]]]:
    """Papers that stand on no leaf: file name, title, what they are, and which."""
    unplaced = [paper for paper in atlas.core if not any(paper.taxonomy.values())]
    return [
        (
            "without-a-leaf",
            "Named, without a leaf",
            "Papers that the lists name and that have no value on any axis.",
            unplaced,
        ),
        (
            "beyond-language-models",
            "Beyond language models",
            "Distillation of vision, speech, graph and other models: kept for their ideas, not counted on the axes.",
            atlas.beyond,
        ),
        ("surveys", "Surveys", "Overviews of the field.", atlas.surveys),
    ]


def index(atlas: Atlas) -> str:
    """All lists with their sizes."""
    lines = [
        "# Lists",
        "",
        NOTE,
        "",
        f"What every paper adds, leaf by leaf. [Back to the README]({UP}README.md).",
    ]
    for axis in atlas.catalog.taxonomy.values():
        rows = []
        for value in axis.values.values():
            found = atlas.coverage(atlas.leaves[axis.id][value.id])
            rows.append(
                [
                    f"[{md(value.title)}]({axis.id}-{value.id}.md)",
                    str(found.papers),
                    str(found.covered),
                    str(found.judged),
                ]
            )
        head = ("leaf", "papers", "with a method", "judged")
        lines += ["", f"## {md(axis.title)}", "", md(axis.question), "", *table(head, rows, right=(1, 2, 3))]
    others = [f"[{title}]({name}.md) ({len(papers)})" for name, title, _, papers in apart(atlas)]
    lines += ["", "## Apart", "", " · ".join([*others, "[Teachers' terms](teachers-terms.md)"])]
    return "\n".join(lines) + "\n"


def terms(catalog: Catalog) -> str:
    """Whether a model's outputs may train other models."""
    rows = []
    for teacher in catalog.teachers.values():
        seen = "read" if teacher.verified else "unverified"
        rows.append(
            [
                f"[{md(teacher.title)}]({link(teacher.terms_url)})",
                md(teacher.allows_training.replace("-", " ")),
                f"{seen}, {teacher.checked_on}" if teacher.checked_on else seen,
                md(teacher.note),
            ]
        )
    lines = [
        "# Teachers' terms",
        "",
        "<!-- Written by `make readme` from catalog/teachers.yaml. -->",
        "",
        "Whether a model's outputs may train other models, as far as we know. *read* means that we read the terms "
        "themselves on the day given; the rest is second-hand or remembered. Read the terms of the exact model before "
        "you train on what it wrote. None of this is legal advice.",
        "",
        *table(("teacher", "outputs may train others", "seen", "note"), rows),
    ]
    return "\n".join(lines) + "\n"


def _page(title: str, about: Sequence[str], atlas: Atlas, papers: Sequence[Paper]) -> str:
    found = atlas.coverage(papers)
    count = f"{found.papers} papers, {found.covered} with their method here, {found.judged} judged"
    lines = [f"# {md(title)}", "", NOTE, ""]
    for text in about:
        lines += [text, ""]
    lines += [f"{count}. [All lists](README.md) · [README]({UP}README.md)", ""]
    for paper in papers:
        lines += entry(atlas, paper)
    return "\n".join(lines).rstrip() + "\n"


def entry(atlas: Atlas, paper: Paper) -> Iterator[str]:
    """A paper with what it adds."""
    badge = atlas.badge(paper)
    if paper.id in atlas.views:
        badge = f"[{badge or 'can be run'}]({UP}reproductions/papers/{paper.id}.md)"
    venue = f"{md(paper.venue)}, {paper.date}"
    parts = [venue, links(paper.code, "code"), links(paper.data, "data"), badge]
    idle = "" if paper.distils else " †"
    after = f" Superseded by {code(paper.superseded_by)}." if paper.superseded_by else ""
    yield f"- **[{md(paper.title)}]({link(paper.url)})**{idle} {' · '.join(filter(None, parts))}<br>"
    yield f"  {code(paper.id)} {md(paper.adds)}{after}{_external(paper)}"


def _external(paper: Paper) -> str:
    """Where others wrote what they found, each with its kind and date."""
    found = [
        f"[{md(entry.kind)} {md(entry.date)}]({link(entry.url)}) ({entry.stance})" for entry in paper.external
    ]
    return f"<br>\n  ‡ {' · '.join(found)}" if found else ""
