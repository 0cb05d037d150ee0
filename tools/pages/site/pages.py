"""What each kind of page shows: plain values, ready for its template."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog.queries import crosstab
from catalog.schema import AXES, HERE, Paper
from tools import evidence
from tools.evidence import ClaimRow
from tools.pages.atlas import NEWEST, Overview
from tools.paths import ROOT
from tools.verbs.show import BASIS, bibtex

WIDTH, EDGE = 144.0, 6.0  # of an interval's drawing, in its own units


def home(atlas: Overview) -> dict[str, Any]:
    """The front page."""
    outcomes = [outcome for rows in atlas.claims.values() for row in rows for outcome in row.outcomes]
    whole = atlas.coverage(atlas.papers)
    return {
        "newest": atlas.papers[:NEWEST],
        "numbers": [
            (len(atlas.papers), "papers"),
            (sum(len(values) for values in atlas.leaves.values()), "leaves on four axes"),
            (sum(bool(paper.code) for paper in atlas.papers), "with published code"),
            (whole.covered, "with a method here"),
            (len(outcomes), "judged claims"),
        ],
        "judged_papers": [paper for paper in atlas.papers if paper.id in atlas.judged],
    }


def matrix(atlas: Overview) -> dict[str, Any]:
    """The heat map as it stands before any script ran: elicitation down, algorithm across."""
    counts = crosstab(atlas.core, "elicitation", "algorithm")
    most = max(counts.values(), default=1)
    return {"counts": counts, "levels": {cell: heat(count, most) for cell, count in counts.items()}}


def heat(count: int, most: int) -> int:
    """0 to 5: the shade of a cell, by the root of its share of the fullest one (as matrix.js does)."""
    return 0 if count == 0 else 1 + min(4, int(5 * ((count - 0.5) / most) ** 0.5))


def timeline(atlas: Overview) -> dict[str, Any]:
    """Papers by year and elicitation, newest year first."""
    years = sorted({paper.date[:4] for paper in atlas.core}, reverse=True)
    rows: dict[str, dict[str, int]] = {year: dict.fromkeys(atlas.leaves["elicitation"], 0) for year in years}
    totals = dict.fromkeys(years, 0)
    for paper in atlas.core:
        totals[paper.date[:4]] += 1
        for value in paper.taxonomy["elicitation"]:
            rows[paper.date[:4]][value] += 1
    return {"years": rows, "totals": totals}


def paper_page(atlas: Overview, paper: Paper) -> dict[str, Any]:
    """One paper."""
    claims = atlas.claims.get(paper.id, ())
    plots = [(scale, plot) for scale, _, plot in evidence.reports(paper.id) if plot is not None]
    return {
        "paper": paper,
        "claims": claims,
        "drawings": _drawings(claims),
        "values": evidence.values(paper.id) if claims else [],
        "plots": [(scale, f"plots/{paper.id}-{scale}.png", *_size(plot)) for scale, plot in plots],
        "plot_files": {f"plots/{paper.id}-{scale}.png": plot for scale, plot in plots},
        "basis": BASIS.get(paper.basis or "", "from the paper") if paper.basis else "",
        "terms": [atlas.catalog.teachers[name] for name in paper.teacher_terms],
        "supersedes": atlas.supersedes.get(paper.id, []),
        "places": _places(paper),
        "scales": evidence.scales(paper.id),
        "bibtex": re.sub(r"\n {4}", " ", bibtex(paper)),  # in one piece: the page wraps it
        "axes": [axis for axis in AXES if paper.taxonomy[axis]],
    }


def _places(paper: Paper) -> list[tuple[str, str]]:
    places = [("record", HERE / "papers" / f"{paper.id}.yaml")]
    if evidence.folder(paper.id).is_dir():
        places.append(("reproduction", evidence.folder(paper.id)))
    places += [(f"raw figures, {path.stem}", path) for path in evidence.result_files(paper.id)]
    named = [(name, _relative(path)) for name, path in places]
    return [*named, *([("method", paper.method)] if paper.method else [])]


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() + ("/" if path.is_dir() else "")


def _drawings(claims: Sequence[ClaimRow]) -> dict[tuple[str, str], dict[str, float]]:
    """Where the parts of an interval's drawing stand, per claim and scale; zero is in the middle."""
    places = {}
    for claim in claims:
        for outcome in claim.outcomes:
            if outcome.interval is not None and outcome.difference is not None:
                at = {"low": outcome.interval[0], "high": outcome.interval[1]}
                at |= {"middle": outcome.difference, "margin": claim.margin}
                reach = max(map(abs, at.values())) or 1.0
                places[claim.id, outcome.scale] = {
                    name: round(WIDTH / 2 + value / reach * (WIDTH / 2 - EDGE), 1)
                    for name, value in at.items()
                }
    return places


def _size(png: Path) -> tuple[int, int]:
    """Width and height in pixels, from the header."""
    with png.open("rb") as file:
        width, height = struct.unpack(">II", file.read(24)[16:24])
    return width, height
