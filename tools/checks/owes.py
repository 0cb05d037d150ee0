"""What each record still owes, said on the record itself: `owes: [authors, basis, claims, method]`.

The flags are exact: a debt that is not said fails the tests, and so does one that is paid and still said. They stand in
the records, not in one file with counts, so that papers that come in side by side change nothing in common.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from catalog.model import OWES, Catalog, Paper
from catalog.queries import reproducible
from catalog.reader import read_yaml_with_lines
from catalog.schema import HERE
from reproductions.engine.show import gather

CLAIMS = re.compile(r"^claims:", re.MULTILINE)
FIELD = re.compile(r"^owes:[^\n]*\n(?:[ -][^\n]*\n)*", re.MULTILINE)


def owed(paper: Paper) -> tuple[str, ...]:
    """What a record lacks, in alphabetical order: its authors, a basis that was seen, claims and a method to run."""
    lacks = {"authors": not paper.authors}
    if reproducible(paper):
        lacks |= {
            "basis": not paper.models_verified,
            "claims": not _has_claims(gather.claims_file(paper.id)),
            "method": not paper.method,
        }
    return tuple(name for name in OWES if lacks.get(name))


def _has_claims(experiment: Path) -> bool:
    return experiment.is_file() and CLAIMS.search(experiment.read_text(encoding="utf-8")) is not None


def wrong(papers: Iterable[Paper]) -> Iterator[tuple[Paper, int, str]]:
    """Each record whose flags are not what it owes: the record, the line to edit and what to do."""
    for paper in papers:
        now = owed(paper)
        if set(paper.owes) != set(now):
            unsaid = [name for name in now if name not in paper.owes]
            paid = [name for name in paper.owes if name not in now]
            parts = [f"owes {', '.join(unsaid)} and does not say so"] if unsaid else []
            parts += [f"does not owe {', '.join(paid)} any more"] if paid else []
            yield paper, _line(paper), f"{' and '.join(parts)}: `kd check --owes --write`"


def counts(catalog: Catalog) -> dict[str, int]:
    """How many records say that they owe each."""
    return {name: sum(name in paper.owes for paper in catalog.papers.values()) for name in OWES}


def write(papers: Iterable[Paper]) -> list[str]:
    """Put the right flags into the records; the ids of those that changed."""
    changed = [paper for paper, _, _ in wrong(papers)]
    for paper in changed:
        path = HERE / "papers" / f"{paper.id}.yaml"
        path.write_text(with_flags(path.read_text(encoding="utf-8"), owed(paper)), encoding="utf-8")
    return [paper.id for paper in changed]


def with_flags(text: str, flags: Iterable[str]) -> str:
    """A record's text that owes exactly these; every other line stays as it is."""
    listed = ", ".join(flags)
    text = text if text.endswith("\n") else f"{text}\n"
    field = f"owes: [{listed}]\n" if listed else ""
    return FIELD.sub(field, text, count=1) if FIELD.search(text) else text + field


def _line(paper: Paper) -> int:
    data, lines = read_yaml_with_lines(HERE / "papers" / f"{paper.id}.yaml")
    return lines.at("owes") if "owes" in data else 1
