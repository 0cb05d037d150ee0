"""A catalog of a thousand records of which 440 are judged, made of those that are there: what pages must carry."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from catalog.schema import Catalog, load_catalog
from reproductions.engine.show import files
from tools.pages.atlas import Atlas

PAPERS, JUDGED = 1000, 440


@cache
def large_atlas() -> Atlas:
    """Real records and real views under other ids, in turn; each has the length that a real one has."""
    catalog = load_catalog()
    records = sorted(catalog.papers.values(), key=lambda paper: paper.id)
    views = sorted(files.views(catalog.papers).items())
    papers = {}
    for number in range(PAPERS):
        record = records[number % len(records)]
        name = record.id if number < len(records) else f"{record.id}-ii"
        papers[name] = replace(record, id=name, superseded_by=None)
    llm = [name for name, paper in papers.items() if paper.scope == "llm" and paper.distils]
    judged = {
        name: replace(views[place % len(views)][1], paper=name) for place, name in enumerate(llm[:JUDGED])
    }
    return Atlas(Catalog(catalog.taxonomy, catalog.teachers, papers), judged)
