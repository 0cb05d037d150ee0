"""What each kind of page shows: plain values, ready for its template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from catalog.queries import crosstab
from catalog.schema import AXES, Paper
from reproductions.engine.show.view import ClaimRow
from tools.pages.atlas import BASIS, NEWEST, Atlas, Question, places, question_places
from tools.pages.cite import bibtex
from tools.pages.figures import dials
from tools.pages.figures.forest import forest

WIDTH, EDGE = 144.0, 6.0  # of an interval's drawing, in its own units


def home(atlas: Atlas) -> dict[str, Any]:
    """The front page."""
    whole = atlas.coverage(atlas.papers)
    return {
        "newest": atlas.papers[:NEWEST],
        "numbers": [
            (len(atlas.papers), "papers"),
            (sum(len(values) for values in atlas.leaves.values()), "leaves on four axes"),
            (sum(bool(paper.code) for paper in atlas.papers), "with published code"),
            (whole.covered, "with a method here"),
            *((found.claims, f"claims judged at {scale}") for scale, found in atlas.evidence.items()),
        ],
        "judged_papers": [paper for paper in atlas.papers if paper.id in atlas.judged],
    }


def matrix(atlas: Atlas) -> dict[str, Any]:
    """The heat map as it stands before any script ran: elicitation down, algorithm across."""
    counts = crosstab(atlas.core, "elicitation", "algorithm")
    most = max(counts.values(), default=1)
    return {"counts": counts, "levels": {cell: heat(count, most) for cell, count in counts.items()}}


def heat(count: int, most: int) -> int:
    """0 to 5: the shade of a cell, by the root of its share of the fullest one (as matrix.js does)."""
    return 0 if count == 0 else 1 + min(4, int(5 * ((count - 0.5) / most) ** 0.5))


def timeline(atlas: Atlas) -> dict[str, Any]:
    """Papers by year and elicitation, newest year first."""
    years = sorted({paper.date[:4] for paper in atlas.core}, reverse=True)
    rows: dict[str, dict[str, int]] = {year: dict.fromkeys(atlas.leaves["elicitation"], 0) for year in years}
    totals = dict.fromkeys(years, 0)
    for paper in atlas.core:
        totals[paper.date[:4]] += 1
        for value in paper.taxonomy["elicitation"]:
            rows[paper.date[:4]][value] += 1
    return {"years": rows, "totals": totals}


def paper_page(atlas: Atlas, paper: Paper) -> dict[str, Any]:
    """One paper."""
    view = atlas.views.get(paper.id)
    claims = view.claims if view else ()
    return {
        "paper": paper,
        "view": view,
        "claims": claims,
        "drawings": _drawings(claims),
        # from our own template, every text in it escaped
        "forest": Markup(forest(view, standalone=False)) if view else "",  # noqa: S704
        "dials": Markup(dials.picture(view, standalone=False)) if view else "",  # noqa: S704
        "basis": BASIS.get(paper.basis or "", "from the paper") if paper.basis else "",
        "terms": [atlas.catalog.teachers[name] for name in paper.teacher_terms],
        "supersedes": atlas.supersedes.get(paper.id, []),
        "places": places(paper, view),
        "scales": [(scale.name, scale.minutes) for scale in view.scales] if view else [],
        "bibtex": bibtex(paper),
        "axes": [axis for axis in AXES if paper.taxonomy[axis]],
    }


def question_page(question: Question) -> dict[str, Any]:
    """A question of our own."""
    return {
        "question": question,
        "view": question.view,
        "forest": Markup(forest(question.view, standalone=False)),  # noqa: S704 - as above
        "dials": Markup(dials.picture(question.view, standalone=False)),  # noqa: S704 - as above
        "places": question_places(question),
    }


def _drawings(claims: Sequence[ClaimRow]) -> dict[tuple[str, str], dict[str, float]]:
    """Where the parts of an interval's drawing stand, per claim and scale; zero is in the middle."""
    drawn = {}
    for claim in claims:
        for outcome in claim.outcomes:
            if outcome.interval is not None and outcome.difference is not None:
                at = {"low": outcome.interval[0], "high": outcome.interval[1]}
                at |= {"middle": outcome.difference, "margin": claim.margin}
                reach = max(map(abs, at.values())) or 1.0
                drawn[claim.id, outcome.scale] = {
                    name: round(WIDTH / 2 + value / reach * (WIDTH / 2 - EDGE), 1)
                    for name, value in at.items()
                }
    return drawn
