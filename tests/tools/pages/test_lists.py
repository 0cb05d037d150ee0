"""The lists with prose."""

from __future__ import annotations

import re

from catalog.schema import load_catalog
from tools.pages import lists
from tools.pages.atlas import Atlas, atlas
from tools.pages.documents import documents
from tools.pages.markdown import md


def test_every_paper_is_described_on_all_of_its_leaves_and_nowhere_else():
    shown = atlas()
    pages = lists.pages(shown)
    for paper in shown.papers:
        described = f"**[{md(paper.title)}]({paper.url})**"
        leaves = {f"{axis}-{value}.md" for axis, labels in paper.taxonomy.items() for value in labels}
        if paper.scope != "llm":
            leaves = {"beyond-language-models.md" if paper.scope == "beyond-llm" else "surveys.md"}
        found = {
            name
            for name, text in pages.items()
            if described in text and f"`{paper.id}` {md(paper.adds)}" in text
        }
        assert found == (leaves or {"without-a-leaf.md"}), paper.id


def test_a_list_links_the_page_of_a_judged_paper(judged):
    text = lists.pages(Atlas(load_catalog(), {"minillm": judged}))["elicitation-feature.md"]
    assert "[tiny: ✅ 1 🔄 1 · small: ❔ 1](../../reproductions/papers/minillm.md)" in text


def test_terms_say_whether_somebody_read_them():
    catalog = load_catalog()
    text = lists.terms(catalog)
    for teacher in catalog.teachers.values():
        row = next(line for line in text.splitlines() if line.startswith(f"| [{md(teacher.title)}]("))
        assert ("| read" in row) == teacher.verified


def test_links_between_documents_lead_somewhere():
    made, by_hand = documents(atlas()), ("CONTRIBUTING.md", "CHANGELOG.md", "reproductions/distill/DISTIL.md")
    for name, text in made.items():
        if not name.endswith(".md"):
            continue
        folder = name.rpartition("/")[0].split("/") if "/" in name else []
        for target in re.findall(r"\]\(((?!https://|#)[^)#]+\.(?:md|svg))\)", text):
            parts = list(folder)
            for part in target.split("/"):
                parts = parts[:-1] if part == ".." else [*parts, part]
            path = "/".join(parts)
            assert path in made or path in by_hand, f"{name}: {target}"


def test_a_list_leads_to_what_others_found():
    shown = atlas()
    text = lists.pages(shown)["elicitation-self-knowledge.md"]
    entry = text.split("**[Self-Distillation Enables Continual Learning]")[1].split("\n- ")[0]
    for found in shown.catalog.papers["sdft"].external:
        assert f"[{found.kind} {found.date}]({found.url}) ({found.stance})" in entry
    assert sum(line.startswith("  ‡ ") for line in text.splitlines()) == sum(
        bool(paper.external) for paper in shown.leaves["elicitation"]["self-knowledge"]
    )
