"""Questions to the catalog: which papers, how many of each kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from catalog.errors import CatalogError, cut, nearest
from catalog.model import AXES, SCOPES, Axis, Catalog, Paper
from catalog.search import find as find

STATUSES = ("catalogued", "implemented", "judged")


def status(paper: Paper, judged: Collection[str] = ()) -> str:
    """judged: its id is in `judged` (results are recorded); implemented: it names a method."""
    if paper.id in judged:
        return "judged"
    return "implemented" if paper.method else "catalogued"


def reproducible(paper: Paper) -> bool:
    """Whether a method and claims belong to the paper: not to surveys, other fields, papers that distil nothing."""
    return paper.scope == "llm" and paper.distils


def select(
    catalog: Catalog,
    *,
    wanted: Mapping[str, Sequence[str]] | None = None,
    statuses: Sequence[str] = (),
    years: Sequence[str] = (),
    scopes: Sequence[str] = (),
    has_code: bool = False,
    external: bool = False,
    among: Collection[str] | None = None,
    search: str = "",
    judged: Collection[str] = (),
) -> list[Paper]:
    """Papers with any of the wanted values on every axis named, newest first; CatalogError on a wrong name.

    A skill may also be a group ("agent"), which stands for all its values. `years` are "2025", "2023-2025" or "2024-";
    `has_code`: the authors' code is linked; `external`: others have run it or written about its results; `among`: only
    these ids. With `search` the best match comes first.
    """
    papers = list(catalog.papers.values())
    if statuses:
        names = {_known(name, STATUSES, "status") for name in statuses}
        papers = [paper for paper in papers if status(paper, judged) in names]
    if scopes:
        names = {_known(name, SCOPES, "scope") for name in scopes}
        papers = [paper for paper in papers if paper.scope in names]
    if years:
        spans = [year_span(text) for text in years]
        papers = [p for p in papers if any(first <= int(p.date[:4]) <= last for first, last in spans)]
    if has_code:
        papers = [paper for paper in papers if paper.code]
    if external:
        papers = [paper for paper in papers if paper.external]
    if among is not None:
        papers = [paper for paper in papers if paper.id in among]
    for axis_id, values in (wanted or {}).items():
        if values:
            labels = {label for name in values for label in _labels(catalog.taxonomy[axis_id], name)}
            papers = [paper for paper in papers if labels & paper.taxonomy[axis_id].keys()]
    if search.strip():
        return find(papers, search)
    return sorted(papers, key=lambda paper: (paper.date, paper.id), reverse=True)


def crosstab(papers: Iterable[Paper], rows: str, columns: str) -> dict[tuple[str, str], int]:
    """How many papers have each pair of values of two axes; a paper counts in every cell it belongs to."""
    counts: Counter[tuple[str, str]] = Counter()
    for paper in papers:
        counts.update((row, column) for row in paper.taxonomy[rows] for column in paper.taxonomy[columns])
    return dict(counts)


def by_leaf(papers: Iterable[Paper], axis: str) -> dict[str, list[Paper]]:
    """The papers of each value of an axis that has any."""
    leaves: dict[str, list[Paper]] = {}
    for paper in papers:
        for value in paper.taxonomy[axis]:
            leaves.setdefault(value, []).append(paper)
    return leaves


def axis_name(name: str) -> str:
    """`name` if it is an axis; CatalogError otherwise."""
    return _known(name, AXES, "axis")


def year_span(text: str) -> tuple[int, int]:
    """First and last year of "2025", "2023-2025" or "2024-"; CatalogError otherwise."""
    found = re.fullmatch(r"(\d{4})(-(\d{4})?)?", text, re.ASCII)
    if not found:
        raise CatalogError(f'"{cut(text)}" is no year; write 2025, 2023-2025 or 2024-')
    first = int(found[1])
    last = int(found[3]) if found[3] else 9999 if found[2] else first
    if last < first:
        raise CatalogError(f'"{text}" ends before it begins; write {last}-{first}')
    return first, last


def _known(name: str, names: Sequence[str], what: str, of: str = "") -> str:
    if name not in names:
        hint = nearest(name, names) or "; known: " + ", ".join(names)
        raise CatalogError(f'no {what} "{cut(name)}"{of}{hint}')
    return name


def _labels(axis: Axis, name: str) -> set[str]:
    if name in axis.groups:
        return {value.id for value in axis.values.values() if value.group == name}
    return {_known(name, [*axis.values, *axis.groups], "value", f" of {axis.id}")}
