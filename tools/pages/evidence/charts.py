"""Charts as SVG text without a script: drawn in percent of their width, so that a phone shows them as they are.

Texts in them are escaped here; colours come from the page's sheet, or from STYLE where a chart stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from reproductions.engine.atlas.record import Row, Table
from tools.pages.site.facets import clean
from tools.terminal import number

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 30, 40
TICKS = 4
FEWEST = 8  # arms: fewer are read faster in their table
STYLE = (
    "<style>text{font:11px system-ui,sans-serif;fill:#768390}line{stroke:#768390;stroke-opacity:.5}"
    "circle{fill:#539bf5;fill-opacity:.75}path{fill:#768390}text.named{fill:#768390;font-weight:600}</style>"
)

Scale = Callable[[float], float]


def axis(
    values: Iterable[float], start: float, end: float, *, room: float = 0.05
) -> tuple[float, float, Scale]:
    """Least and greatest value shown, with some room, and where a value stands between `start` and `end`."""
    found = list(values)
    low, high = min(found), max(found)
    if low == high:
        low, high = low - 1, high + 1
    low, high = low - room * (high - low), high + room * (high - low)
    return low, high, lambda value: round(start + (value - low) / (high - low) * (end - start), 2)


def interval(
    at: Scale, kind: str, *, middle: float, bounds: tuple[float, float] | None,
    band: tuple[float, float] | None = None, zero: float | None = 0.0, wide: tuple[float, float] | None = None,
    dots: Sequence[float] = (), limits: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """One row of a forest plot, the full width of what it stands in. `at` gives percents.

    `band`: what is too small to matter; `wide`: a prediction interval; `dots`: single contrasts; `limits`: what of the
    axis is shown: an interval that goes beyond ends in an arrow.
    """
    low, high = limits or (float("-inf"), float("inf"))

    def x(value: float) -> str:
        return f"{at(min(max(value, low), high)):g}%"

    parts = []
    if band is not None:
        first, last = (at(min(max(end, low), high)) for end in band)
        parts.append(f'<rect class="band" x="{first:g}%" width="{last - first:g}%" y="0" height="20"/>')
    if zero is not None:
        parts.append(f'<line class="zero" x1="{x(zero)}" x2="{x(zero)}" y1="0" y2="20"/>')
    if wide is not None:
        parts.append(f'<line class="wide" x1="{x(wide[0])}" x2="{x(wide[1])}" y1="10" y2="10"/>')
    if bounds is not None:
        parts.append(f'<line class="bar" x1="{x(bounds[0])}" x2="{x(bounds[1])}" y1="10" y2="10"/>')
        if bounds[0] < low:
            parts.append('<text class="beyond" x="0" y="14">‹</text>')
        if bounds[1] > high:
            parts.append('<text class="beyond" x="100%" y="14" text-anchor="end">›</text>')
    parts += [f'<circle class="dot" cx="{x(dot)}" cy="10" r="2.5"/>' for dot in dots]
    parts.append(f'<circle class="middle" cx="{x(middle)}" cy="10" r="4"/>')
    shown = "".join(parts)
    return f'<svg class="span {escape(kind)}" height="20" aria-hidden="true" focusable="false">{shown}</svg>'


def sharpness(table: Table, other: str, *, standalone: bool = True) -> str:
    """Arms by confidence (across) and a metric (up); '' where fewer than FEWEST arms have both.

    Arms far below the others (three times the quartiles' distance under the lower one) would leave no room for the
    rest: they stand at the lower edge as triangles.
    """
    points = list(_points(table, other))
    if len(points) < FEWEST:
        return ""
    ups = sorted(up for _, _, up in points)
    lower, upper = ups[len(ups) // 4], ups[(3 * len(ups)) // 4]
    floor = lower - 3 * max(upper - lower, 1e-9)
    shown = [point for point in points if point[2] >= floor]
    far = [point for point in points if point[2] < floor]
    left, right, x = axis([across for _, across, _ in points], LEFT, WIDTH - RIGHT)
    low, high, y = axis([up for _, _, up in shown], HEIGHT - BOTTOM, TOP)
    column = next(column for column in table.columns if column.metric == other)
    title = f"{column.title} against confidence, {len(points)} arms of {table.name}"
    parts = [*_grid(left, right, x, low, high, y)]
    for row, across, up in shown:
        parts.append(
            f'<circle cx="{x(across)}" cy="{y(up)}" r="4.5"><title>{_told(row, across, up)}</title></circle>'
        )
    edge = HEIGHT - BOTTOM
    for row, across, up in far:
        a = x(across)
        parts.append(
            f'<path d="M{a - 5:g} {edge - 9}h10l-5 8z"><title>{_told(row, across, up)}</title></path>'
        )
    parts += _names(shown, x, y)
    parts.append(
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, "probability of the greedy answer, %", "middle")
    )
    parts.append(_text(LEFT - 38, 12, f"{column.title}{', ' + column.unit if column.unit else ''}"))
    style, name = (STYLE, "") if standalone else ("", ' class="scatter"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"{name}>'
        f"<title>{escape(clean(title))}</title>{style}{''.join(parts)}</svg>\n"
    )


def _points(table: Table, other: str) -> Iterator[tuple[Row, float, float]]:
    """Each arm that has both: (arm, its confidence in percent, its figure)."""
    for row in table.rows:
        sure, figure = row.cell("confidence"), row.cell(other)
        if sure is not None and figure is not None:
            yield row, sure.mean * 100, figure.mean


def _grid(left: float, right: float, x: Scale, low: float, high: float, y: Scale) -> Iterable[str]:
    for tick in ticks(left, right):
        yield f'<line x1="{x(tick)}" x2="{x(tick)}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield _text(x(tick), HEIGHT - BOTTOM + 14, f"{tick:g}", "middle")
    for tick in ticks(low, high):
        yield f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick)}" y2="{y(tick)}"/>'
        yield _text(LEFT - 6, y(tick) + 4, f"{tick:g}", "end")


def ticks(low: float, high: float) -> list[float]:
    """Round numbers between two values, about TICKS of them."""
    rough = (high - low) / TICKS
    power = 10.0 ** len(str(int(rough))) / 10 if rough >= 1 else 10.0 ** -_places(rough)
    step = min((power * factor for factor in (1, 2, 5, 10)), key=lambda size: abs(size - rough))
    first = -(-low // step) * step
    return [round(first + step * place, 10) for place in range(int((high - first) / step) + 1)]


def _places(value: float) -> int:
    count = 0
    while value < 1 and count < 12:
        value, count = value * 10, count + 1
    return count


def _names(points: Sequence[tuple[Row, float, float]], x: Scale, y: Scale) -> list[str]:
    """The names of the best and the sharpest arm, where they have room."""
    best = max(points, key=lambda point: point[2])
    sharp = max(points, key=lambda point: point[1])
    found = []
    for row, across, up in [best, sharp] if best[0] is not sharp[0] else [best]:
        place = x(across)
        anchor = "end" if place > WIDTH / 2 else "start"
        text = row.title if len(row.title) < 34 else row.title[:33] + "…"
        found.append(_text(place + (-8 if anchor == "end" else 8), y(up) - 6, text, anchor, "named"))
    return found


def _told(row: Row, across: float, up: float) -> str:
    return escape(f"{clean(row.title)}: confidence {number(across)} %, {number(up)}")


def _text(x: float, y: float, text: str, anchor: str = "", kind: str = "") -> str:
    about = (f' text-anchor="{anchor}"' if anchor else "") + (f' class="{kind}"' if kind else "")
    return f'<text x="{x:g}" y="{y:g}"{about}>{escape(clean(text))}</text>'
