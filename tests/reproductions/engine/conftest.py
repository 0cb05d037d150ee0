"""A copy of the toy paper in a folder of the test's own, and the ways to run it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

TOY_PAPERS = Path(__file__).parent / "toy_papers"


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    """A papers root with the toy paper, free to be changed."""
    root = tmp_path / "papers"
    shutil.copytree(TOY_PAPERS, root, ignore=shutil.ignore_patterns("__pycache__"))
    return root


def change(papers: Path, old: str, new: str, file: str = "experiment.py") -> None:
    """Edits a file of the toy paper; the text must be there."""
    path = papers / "toy" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
