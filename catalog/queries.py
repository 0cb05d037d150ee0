"""Questions to the catalog: which papers, how many of each kind."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from catalog.errors import CatalogError
from catalog.reader import nearest
from catalog.schema import AXES, Axis, Catalog, Paper

STATUSES = ("catalogued", "implemented", "judged")


def status(paper: Paper, judged: Collection[str] = ()) -> str:
    """judged: its id is in `judged` (results are recorded); implemented: it names a method."""
    if paper.id in judged:
        return "judged"
    return "implemented" if paper.method else "catalogued"


def select(
    catalog: Catalog,
    *,
    wanted: Mapping[str, Sequence[str]] | None = None,
    statuses: Sequence[str] = (),
    search: str = "",
    judged: Collection[str] = (),
) -> list[Paper]:
    """Papers with any of the wanted values on every axis named, newest first; CatalogError on a wrong name.

    A skill may also be a group ("agent"), which stands for all its values.
    """
    for name in statuses:
        if name not in STATUSES:
            raise CatalogError(
                f'no status "{name}"{nearest(name, STATUSES) or "; known: " + ", ".join(STATUSES)}'
            )
    papers = [paper for paper in catalog.papers.values() if not statuses or status(paper, judged) in statuses]
    for axis_id, names in (wanted or {}).items():
        if names:
            values = {value for name in names for value in _values(catalog.taxonomy[axis_id], name)}
            papers = [paper for paper in papers if values & paper.taxonomy[axis_id].keys()]
    if search.strip():
        papers = find(papers, search)
    return sorted(papers, key=lambda paper: (paper.date, paper.id), reverse=True)


def find(papers: Iterable[Paper], text: str) -> list[Paper]:
    """Papers with `text` in id, title or what they add; where none has it, those with similar words."""
    papers = list(papers)
    needle = text.strip().lower()
    exact = [paper for paper in papers if needle in f"{paper.id} {paper.title} {paper.adds}".lower()]
    if exact:
        return exact
    words = _words(needle)
    return [
        paper
        for paper in papers
        if words and all(_has_like(word, _words(f"{paper.id} {paper.title} {paper.adds}")) for word in words)
    ]


def crosstab(papers: Iterable[Paper], rows: str, columns: str) -> dict[tuple[str, str], int]:
    """How many papers have each pair of values of two axes; a paper counts in every cell it belongs to."""
    counts: Counter[tuple[str, str]] = Counter()
    for paper in papers:
        counts.update((row, column) for row in paper.taxonomy[rows] for column in paper.taxonomy[columns])
    return dict(counts)


def axis_name(name: str) -> str:
    """`name` if it is an axis; CatalogError otherwise."""
    if name not in AXES:
        raise CatalogError(f'no axis "{name}"{nearest(name, AXES) or "; known: " + ", ".join(AXES)}')
    return name


def _values(axis: Axis, name: str) -> set[str]:
    if name in axis.values:
        return {name}
    if name in axis.groups:
        return {value.id for value in axis.values.values() if value.group == name}
    known = [*axis.values, *axis.groups]
    raise CatalogError(
        f'no value "{name}" of {axis.id}{nearest(name, known) or "; known: " + ", ".join(known)}'
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _has_like(word: str, words: list[str]) -> bool:
    return bool(difflib.get_close_matches(word, words, n=1, cutoff=0.75))
