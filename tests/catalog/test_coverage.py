"""Every paper of the list that the catalog began with has its record, and what was corrected says so."""

from __future__ import annotations

from pathlib import Path

from catalog.schema import load_catalog

LISTED = [
    line.split()
    for line in (Path(__file__).parent / "awesome_list.txt").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]
PAPERS = load_catalog().papers


def test_the_list_is_whole():
    assert len(LISTED) == 320 and len({name for name, _ in LISTED}) == 320
    assert sum(arxiv == "-" for _, arxiv in LISTED) == 12


def has_record(name: str, arxiv: str) -> bool:
    """By arXiv id whatever the record is called; by name where a correction says what was listed, or nothing was."""
    if arxiv != "-" and any(paper.arxiv == arxiv for paper in PAPERS.values()):
        return True
    paper = PAPERS.get(name)
    return paper is not None and (arxiv == "-" or any(arxiv in text for text in paper.corrections))


def test_every_listed_paper_has_a_record():
    missing = [f"{name} {arxiv}" for name, arxiv in LISTED if not has_record(name, arxiv)]
    assert not missing, f"{len(missing)} of {len(LISTED)} have no record: {', '.join(missing)}"


def test_the_catalog_goes_beyond_the_list():
    listed = {arxiv for _, arxiv in LISTED} | {name for name, _ in LISTED}
    found = [paper for paper in PAPERS.values() if paper.arxiv not in listed and paper.id not in listed]
    assert len(LISTED) + len(found) >= 380
