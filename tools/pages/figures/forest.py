"""A forest plot as SVG text: every judged claim of a paper with its interval, against what it has to exceed."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from reproductions.engine.show.view import PERCENT, ClaimRow, Outcome, PaperView, scale_order
from tools.terminal import number

WIDTH, ROW, LEFT, RIGHT, TOP = 760, 22, 250, 470, 14
SIGNS = {"reproduced": "✓", "weaker": "<", "no difference": "=", "reversed": "✕", "open": "?", "needs": "!"}
# Mid tones that can be read on white and on black; a reader's dark mode reaches an SVG only in part.
STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#768390}.head{font-weight:600}line{stroke-width:2.5}"
    "line.axis,line.effect{stroke:#768390;stroke-width:1}line.effect{stroke-dasharray:2}.reproduced{stroke:#2da44e;fill:#2da44e}"
    ".weaker{stroke:#6cae7c;fill:#6cae7c}.no-difference{stroke:#539bf5;fill:#539bf5}"
    ".reversed{stroke:#e5534b;fill:#e5534b}.open{stroke:#b08800;fill:#b08800}.needs{stroke:#768390;fill:#768390}"
    "text.mark{stroke:none}</style>"
)


def forest(view: PaperView, *, standalone: bool = True) -> str:
    """The plot, '' where nothing was judged. Without `standalone` it takes its colours from the page it stands in.

    Claims on one metric at one scale share an axis; zero (or the margin) is the thin line, dashed ones stand at the
    smallest effect that matters. Differences are oriented: to the right is what the paper claims.
    """
    groups = _groups(view)
    if not groups:
        return ""
    parts, top = [], TOP
    for (scale, metric), rows in groups:
        parts.append(_text(0, top, f"{scale} scale, {metric}", "head"))
        top += ROW
        low, high = _span(rows)
        for claim, outcome in rows:
            parts += _row(claim, outcome, top, low, high)
            top += ROW
        parts.append(_text(LEFT, top - 4, number(low)) + _text(RIGHT, top - 4, number(high), anchor="end"))
        top += ROW
    title = f"Differences with {PERCENT} intervals of {len(view.claims)} claims of {view.paper}"
    style, name = (STYLE, "") if standalone else ("", ' class="forest"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top - ROW + 8}" role="img"{name}>'
        f"<title>{escape(title)}</title>{style}{''.join(parts)}</svg>\n"
    )


def drawn(view: PaperView) -> bool:
    """Whether there is anything to draw."""
    return bool(_groups(view))


def _groups(view: PaperView) -> list[tuple[tuple[str, str], list[tuple[ClaimRow, Outcome]]]]:
    found: dict[tuple[str, str], list[tuple[ClaimRow, Outcome]]] = {}
    for claim in view.claims:
        for outcome in claim.outcomes:
            if outcome.interval is not None and outcome.difference is not None:
                found.setdefault((outcome.scale, outcome.metric or claim.metric), []).append((claim, outcome))
    return sorted(found.items(), key=lambda item: (scale_order(item[0][0]), item[0][1]))


def _span(rows: Iterable[tuple[ClaimRow, Outcome]]) -> tuple[float, float]:
    """Least and greatest value that the axis shows; zero and the margins are among them."""
    values = [0.0]
    for claim, outcome in rows:
        assert outcome.interval is not None  # noqa: S101 - _groups keeps only those
        values += [*outcome.interval, claim.margin]
        values += [-claim.within, claim.within] if claim.within is not None else []
        values += _matters(claim, outcome)
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 1, high + 1)


def _matters(claim: ClaimRow, outcome: Outcome) -> list[float]:
    """Between which differences nothing that matters lies; nothing where no smallest effect is known."""
    return [] if outcome.effect is None else [claim.margin - outcome.effect, claim.margin + outcome.effect]


def _row(claim: ClaimRow, outcome: Outcome, top: int, low: float, high: float) -> list[str]:
    def x(value: float) -> float:
        return round(LEFT + (value - low) / (high - low) * (RIGHT - LEFT), 1)

    assert outcome.interval is not None and outcome.difference is not None  # noqa: S101 - as above
    kind, middle = outcome.kind.replace(" ", "-"), top - 4
    bounds = [claim.margin] if claim.within is None else [-claim.within, claim.within]
    first, last = outcome.interval
    told = f"{number(outcome.difference)}  [{number(first)}, {number(last)}]"
    return [
        _text(0, top, claim.id if len(claim.id) < 36 else claim.id[:35] + "…", "name"),
        *(
            f'<line class="axis" x1="{x(bound)}" x2="{x(bound)}" y1="{middle - 11}" y2="{middle + 11}"/>'
            for bound in bounds
        ),
        *(
            f'<line class="effect" x1="{x(bound)}" x2="{x(bound)}" y1="{middle - 7}" y2="{middle + 7}"/>'
            for bound in _matters(claim, outcome)
        ),
        f'<line class="{kind}" x1="{x(first)}" x2="{x(last)}" y1="{middle}" y2="{middle}"/>',
        f'<circle class="{kind}" cx="{x(outcome.difference)}" cy="{middle}" r="4"/>',
        _text(RIGHT + 14, top, SIGNS.get(outcome.kind, ""), f"mark {kind}"),
        _text(RIGHT + 34, top, told),
    ]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    about = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x}" y="{y}"{about}>{escape(text)}</text>'
