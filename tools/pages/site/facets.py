"""By what the site's papers can be narrowed, and the data that its scripts read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from catalog.queries import STATUSES
from catalog.schema import AXES, Paper
from reproductions.engine.show.view import VERDICTS
from tools.pages.atlas import Atlas

# What no page shows: control characters, and those that make text read differently from what it is. The catalog's
# reader refuses them; this holds for text from anywhere else (results, findings) too.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff"
    "\U000e0000-\U000e0fff]"
)


@dataclass(frozen=True)
class FacetValue:
    """One value that can be ticked, and how many papers have it."""

    id: str
    title: str
    group: str
    papers: int


@dataclass(frozen=True)
class Facet:
    """One question to every paper; `labels[paper id]` are the ids of its answers."""

    id: str
    title: str
    values: tuple[FacetValue, ...]
    labels: dict[str, tuple[str, ...]]

    @cached_property
    def places(self) -> dict[str, int]:
        """Where each value stands among the values."""
        return {value.id: place for place, value in enumerate(self.values)}


def facets(atlas: Atlas) -> list[Facet]:
    """Every facet, in the order in which the search page shows them."""
    found = []
    for axis_id in AXES:
        axis = atlas.catalog.taxonomy[axis_id]
        names = [(value.id, value.title, axis.groups.get(value.group, "")) for value in axis.values.values()]
        found.append(_facet(atlas, axis_id, axis.title, names, _axis(axis_id)))
    years = sorted({paper.date[:4] for paper in atlas.papers}, reverse=True)
    states = [(state, state.capitalize(), "") for state in STATUSES]
    verdicts = [(slug(name), name.capitalize(), "") for name in VERDICTS if name != "not run"]
    links = [
        ("code", "Code published", ""),
        ("data", "Data published", ""),
        ("method", "Method in this repository", ""),
        ("external", "What others found", ""),
    ]
    scopes = [
        ("llm", "Language models", ""),
        ("beyond-llm", "Beyond language models", ""),
        ("survey", "Surveys", ""),
    ]
    return [
        *found,
        _facet(atlas, "year", "Year", [(year, year, "") for year in years], lambda paper: [paper.date[:4]]),
        _facet(atlas, "status", "Status", states, lambda paper: [atlas.status(paper)]),
        _facet(atlas, "verdict", "Verdict", verdicts, lambda paper: map(slug, _verdicts(atlas, paper))),
        _facet(atlas, "has", "Comes with", links, _links),
        _facet(atlas, "scope", "Scope", scopes, lambda paper: [paper.scope]),
    ]


def _facet(
    atlas: Atlas,
    name: str,
    title: str,
    values: list[tuple[str, str, str]],
    answer: Callable[[Paper], Iterable[str]],
) -> Facet:
    known = {value for value, _, _ in values}
    labels = {paper.id: tuple(label for label in answer(paper) if label in known) for paper in atlas.papers}
    counts = dict.fromkeys(known, 0)
    for given in labels.values():
        for label in given:
            counts[label] += 1
    return Facet(name, title, tuple(FacetValue(*value, counts[value[0]]) for value in values), labels)


def _axis(axis_id: str) -> Callable[[Paper], Iterable[str]]:
    return lambda paper: paper.taxonomy[axis_id]


def _verdicts(atlas: Atlas, paper: Paper) -> list[str]:
    """Every verdict that a claim of the paper has at any scale: a filter finds it, the badge says where."""
    return list(dict.fromkeys(name for counts in atlas.tallies.get(paper.id, {}).values() for name in counts))


def _links(paper: Paper) -> list[str]:
    has = {"code": paper.code, "data": paper.data, "method": paper.method, "external": paper.external}
    return [name for name, value in has.items() if value]


def slug(text: str) -> str:
    """A verdict's name in an address or a class: 'no-difference'."""
    return text.replace(" ", "-")


def clean(text: str) -> str:
    """`text` without invisible and direction-changing characters."""
    return _INVISIBLE.sub("", text)


def data_script(atlas: Atlas, questions: list[Facet]) -> str:
    """What the scripts read, as a script, so that a page opened from disk needs no request."""
    papers = [
        {
            "id": paper.id,
            "title": clean(paper.title),
            "date": paper.date,
            "adds": clean(paper.adds),
            "authors": clean(" ".join(paper.authors)),
            "models": clean(" ".join(filter(None, (paper.teacher, paper.student, paper.venue)))),
            "facets": [[facet.places[label] for label in facet.labels[paper.id]] for facet in questions],
        }
        for paper in atlas.papers
    ]
    names = [
        {"id": facet.id, "title": facet.title, "values": [[value.id, value.title] for value in facet.values]}
        for facet in questions
    ]
    return f"window.KD_ATLAS = {script_json({'facets': names, 'papers': papers})};\n"


def script_json(value: Any) -> str:
    """JSON that no HTML parser can take for markup and no script parser for a line's end: ASCII, without <, > and &."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), sort_keys=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
