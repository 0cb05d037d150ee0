"""Dials as a picture and as tables: a claim's difference over the values of a setting of the task."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape

from reproductions.engine.show.view import PERCENT, DialRow, PaperView, ScaleRow
from tools.pages.figures.forest import STYLE
from tools.pages.markdown import code, md, table
from tools.terminal import interval, number

ACROSS, WIDTH, HEIGHT = 2, 380, 200  # panels side by side, and the size of each
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 40, 34  # of a panel, around what is drawn
ROW = 14  # that a line of text takes
HEAD = ("value", "first", "second", f"difference, {PERCENT}", "seeds")


def drawn(view: PaperView) -> bool:
    """Whether anything is recorded at another value of a dial."""
    return any(scale.dials for scale in view.scales)


def picture(view: PaperView, *, standalone: bool = True) -> str:
    """A panel a claim and dial as SVG text, '' where nothing is recorded: differences with their intervals.

    Without `standalone` it takes its colours from the page it stands in.
    """
    panels = [panel for scale in view.scales for panel in _panels(scale.dials)]
    if not panels:
        return ""
    height = HEIGHT * -(-len(panels) // ACROSS)
    drawn_panels = "".join(
        f'<g transform="translate({WIDTH * (place % ACROSS)} {HEIGHT * (place // ACROSS)})">{_panel(rows)}</g>'
        for place, rows in enumerate(panels)
    )
    title = f"{view.paper}: differences with {PERCENT} intervals over values of the testbed's settings"
    style, name = (STYLE, "") if standalone else ("", ' class="forest"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * ACROSS} {height}" role="img"{name}>'
        f"<title>{escape(title)}</title>{style}{drawn_panels}</svg>\n"
    )


def tables(scale: ScaleRow) -> Iterator[str]:
    """The same in figures, as Markdown; nothing where nothing is recorded."""
    for rows in _panels(scale.dials):
        yield ""
        yield f"**{md(rows[0].claim)}** by {code(rows[0].dial)}"
        yield ""
        cells = [
            [
                f"**{md(row.value)}**" if row.own else md(row.value),
                number(row.better_mean),
                number(row.worse_mean),
                f"{number(row.difference)} {md(interval(row.interval))}",
                str(row.seeds),
            ]
            for row in rows
        ]
        yield from table(HEAD, cells, right=(1, 2))


def _panels(rows: Iterable[DialRow]) -> list[list[DialRow]]:
    found: dict[tuple[str, str], list[DialRow]] = {}
    for row in rows:
        found.setdefault((row.claim, row.dial), []).append(row)
    return list(found.values())


def _panel(rows: list[DialRow]) -> str:
    """One claim over one dial: values at equal distances, zero as a thin line, the testbed's own value filled."""
    bounds = [bound for row in rows if row.interval for bound in row.interval]
    low, high = min([0.0, *bounds]), max([0.0, *bounds])
    span = high - low or 1.0
    step = (WIDTH - LEFT - RIGHT) / len(rows)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / span * (HEIGHT - TOP - BOTTOM), 1)

    # Zero, and the ends of the axis that are not written over it.
    marks = [0.0, *(end for end in (low, high) if abs(y(end) - y(0.0)) > ROW)]
    parts = [
        _text(0, 14, rows[0].claim if len(rows[0].claim) < 52 else rows[0].claim[:51] + "…", "head"),
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(0)}" y2="{y(0)}"/>',
        *(_text(LEFT - 6, y(mark) + 4, number(mark), anchor="end") for mark in marks),
        _text(WIDTH - RIGHT, HEIGHT - 2, rows[0].dial, anchor="end"),
    ]
    for place, row in enumerate(rows):
        if row.interval is None or row.difference is None:
            continue
        x = round(LEFT + step * (place + 0.5), 1)
        first, last = row.interval
        kind = "reproduced" if first > 0 else "reversed" if last < 0 else "open"
        parts += [
            f'<line class="{kind}" x1="{x}" x2="{x}" y1="{y(first)}" y2="{y(last)}"/>',
            f'<circle class="{kind}" cx="{x}" cy="{y(row.difference)}" r="{5 if row.own else 4}"/>',
            _text(x, HEIGHT - BOTTOM + 16, row.value, "head" if row.own else "", anchor="middle"),
        ]
    return "".join(parts)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    about = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x}" y="{y}"{about}>{escape(text)}</text>'
