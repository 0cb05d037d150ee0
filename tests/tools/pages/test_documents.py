"""What is generated is there as generated: pages of papers are current, README and lists carry no hand edit."""

from __future__ import annotations

import pytest

from catalog.schema import load_catalog
from reproductions.engine.show import files
from tools.bench.catalog import JUDGED, large_atlas
from tools.cli import main
from tools.experiments import every_experiment
from tools.pages import documents
from tools.pages.atlas import Atlas, atlas
from tools.pages.markdown import seal_holds
from tools.paths import ROOT
from tools.schemas import build as schemas


def test_the_page_of_every_paper_is_current():
    """A paper's own files; README and lists, which all papers share, are compared by `kd readme --check`."""
    texts = {**documents.own(atlas()), **documents.beds(), **schemas.documents()}
    merged = ("catalog/lists/", "reproductions/figures/")
    wrong = [path for path in documents.differing(texts) if not path.startswith(merged)]
    assert not wrong, f"run `make readme`: {wrong}"
    known = every_experiment(load_catalog())
    assert files.stale(known) == [] and files.orphans(known) == []


def test_no_shared_document_was_edited_by_hand():
    for path in documents.merged(atlas()):
        assert seal_holds((ROOT / path).read_text(encoding="utf-8")), (
            f"{path}: run `make readme`; do not edit it"
        )


def test_every_document_of_a_large_catalog_can_be_shown_by_github():
    texts = documents.documents(large_atlas())
    assert sum(path.startswith("reproductions/papers/") and path.endswith(".md") for path in texts) == JUDGED
    assert all(
        len(text.encode()) < 500_000 for text in texts.values()
    )  # GitHub cuts Markdown at 512,000 bytes


@pytest.fixture
def small(tmp_path, monkeypatch, judged) -> Atlas:
    """One judged paper, written into an empty folder by `kd readme`."""
    shown = Atlas(load_catalog(), {"minillm": judged})
    monkeypatch.setattr(files, "FOLDER", tmp_path / "reproductions" / "verdicts")
    monkeypatch.setattr(files.gather, "ROOT", tmp_path)
    monkeypatch.setattr(files, "stale", lambda papers: [])
    monkeypatch.setattr("tools.pages.atlas.atlas", lambda catalog, views: shown)
    differing, write = documents.differing, documents.write
    monkeypatch.setattr(documents, "differing", lambda texts, root=tmp_path: differing(texts, root))
    monkeypatch.setattr(documents, "write", lambda texts: write(texts, tmp_path))
    return shown


def test_writing_twice_changes_nothing(small, tmp_path, capsys):
    assert main(["readme", "--check"]) == 1
    assert main(["readme"]) == 0
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(first) > 30 and tmp_path / "reproductions" / "papers" / "figures" / "minillm.svg" in first
    assert files.read("minillm") == small.views["minillm"]
    assert main(["readme"]) == 0 and capsys.readouterr().out.endswith("nothing to change\n")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == first
    assert main(["readme", "--check"]) == 0


def test_what_is_edited_comes_back_and_what_is_gone_goes(small, tmp_path, capsys):
    assert main(["readme"]) == 0
    page, gone = (tmp_path / "reproductions" / "papers" / f"{name}.md" for name in ("minillm", "gone"))
    page.write_text("edited by hand")
    gone.write_text("of a paper that is not there any more")
    capsys.readouterr()
    assert main(["readme", "--check"]) == 1
    out = capsys.readouterr().out
    assert "papers/minillm.md: differs" in out and "papers/gone.md: differs" in out and "README.md" not in out
    assert main(["readme"]) == 0
    assert page.read_text() != "edited by hand" and not gone.exists()
