"""Everything that is generated for readers of the repository: which files, with what text, written or compared.

A page of a paper belongs to whoever changes the paper, and a test holds that it is current. README and lists are made
of all papers: they carry a seal, so that a hand edit is found, and are brought up to date by whoever merges.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from reproductions.engine.show.view import PaperView
from reproductions.testbeds.spec import list_testbeds
from tools.pages import benchmarks, gallery, lists, papers, readme, testbeds
from tools.pages.atlas import Atlas
from tools.pages.evidence import disputes
from tools.pages.evidence import page as evidence
from tools.pages.figures import dials
from tools.pages.figures.forest import forest
from tools.pages.markdown import sealed
from tools.paths import ROOT
from tools.schemas import build as schemas

# Folders in which nothing else of that ending lies: what is there and not made any more goes.
OWNED = (
    ("catalog/lists", ".md"),
    ("reproductions/papers", ".md"),
    ("reproductions/papers/figures", ".svg"),
    ("reproductions/testbeds", ".md"),
    ("reproductions/figures", ".svg"),
    (schemas.FOLDER, schemas.SUFFIX),
)


def documents(atlas: Atlas) -> dict[str, str]:
    """Path from the root -> text, of every generated file."""
    return {**merged(atlas), **evidence.figures(atlas), **own(atlas), **beds(), **schemas.documents()}


def merged(atlas: Atlas) -> dict[str, str]:
    """What is made of all papers or of the code, README and lists among it; each sealed."""
    found = {
        "README.md": readme.render(atlas),
        "methods/GALLERY.md": gallery.page(),
        "benchmarks/README.md": benchmarks.page(),
        evidence.PATH: evidence.page(atlas),
        disputes.PATH: disputes.page(atlas),
        **{f"catalog/lists/{name}": text for name, text in lists.pages(atlas).items()},
    }
    return {path: sealed(text) for path, text in found.items()}


def own(atlas: Atlas) -> dict[str, str]:
    """What is made of one paper, or question: its page, and its figure where something was judged."""
    found = {}
    for paper_id, view in atlas.views.items():
        found[f"reproductions/papers/{paper_id}.md"] = papers.page(
            atlas, atlas.catalog.papers[paper_id], view
        )
        found |= _pictures(paper_id, view)
    for name, question in atlas.questions.items():
        found[f"reproductions/papers/{name}.md"] = papers.question_page(question)
        found |= _pictures(name, question.view)
    return found


def _pictures(name: str, view: PaperView) -> dict[str, str]:
    made = {f"{name}.svg": forest(view), f"{name}-dials.svg": dials.picture(view)}
    return {f"reproductions/papers/figures/{file}": text for file, text in made.items() if text}


def beds() -> dict[str, str]:
    """What is made of one testbed: its page, from its file and the record of its gate."""
    return {f"reproductions/testbeds/{name}.md": testbeds.page(name) for name in list_testbeds()}


def differing(texts: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """The paths whose file is not what it would be, or is there and should not be."""
    found = [path for path, text in texts.items() if _text(root / path) != text]
    return [*found, *_left_over(texts, root)]


def write(texts: Mapping[str, str], root: Path = ROOT) -> list[str]:
    """Write what differs, remove what is not made any more; the paths that changed."""
    changed = differing(texts, root)
    for path in changed:
        if path not in texts:
            (root / path).unlink()
            continue
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(texts[path], encoding="utf-8")
    return changed


def _left_over(texts: Mapping[str, str], root: Path) -> list[str]:
    return [
        f"{folder}/{path.name}"
        for folder, ending in OWNED
        for path in sorted((root / folder).glob(f"*{ending}"))
        if f"{folder}/{path.name}" not in texts
    ]


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None
