"""What every verb's output shares: width, colour only on a terminal, tables that fit."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence

from reproductions.engine.verdicts.words import kind_of

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
# Control characters (escape sequences begin with one), and those that change the order in which text is read.
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
MARKS = {
    "reproduced": "✓",
    "weaker": "<",
    "no difference": "=",
    "reversed": "✗",
    "open": "?",
    "needs": "!",
    "not run": "·",
}
VERDICT_STYLES = {
    "reproduced": "green",
    "weaker": "green",
    "no difference": "bold",
    "reversed": "red",
    "open": "yellow",
    "needs": "dim",
    "not run": "dim",
}


def width() -> int:
    """Columns to write: the terminal's (or $COLUMNS), at most 100, 80 where unknown."""
    try:
        columns = int(os.environ["COLUMNS"])
    except (KeyError, ValueError):
        columns = 0
    if columns <= 0:
        try:  # not shutil's, which loads every kind of archive
            columns = os.get_terminal_size(sys.__stdout__.fileno()).columns or 80 if sys.__stdout__ else 80
        except (ValueError, OSError):
            columns = 80
    return max(40, min(columns, 100))


def style(text: str, *names: str) -> str:
    """`text` in colour on a terminal that has not asked for none (https://no-color.org), plain elsewhere."""
    if not names or "NO_COLOR" in os.environ or not sys.stdout.isatty():
        return text
    return f"\x1b[{';'.join(STYLES[name] for name in names)}m{text}\x1b[0m"


def verdict(name: str, text: str | None = None) -> str:
    """A verdict, or a text about it, in the verdict's colour."""
    return style(name if text is None else text, VERDICT_STYLES.get(kind_of(name), "bold"))


def visible(text: str) -> str:
    """`text` with every character that a terminal would obey, or not show, written out as its code."""
    return _UNPRINTED.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def fit(text: str, columns: int) -> str:
    """`text` in at most `columns`, an ellipsis where it was cut."""
    text = visible(text)
    return text if len(text) <= columns else text[: max(columns - 1, 0)].rstrip() + "…"


def wrap(text: str, indent: str = "", first: str | None = None) -> str:
    """`text` over lines of the terminal's width."""
    import textwrap

    return textwrap.fill(
        visible(" ".join(text.split())),
        width(),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def grid(rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of a table, two spaces between columns; columns whose index is in `right` are right-aligned."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))] if rows else []
    return [
        "  ".join(
            cell.rjust(size) if place in right else cell.ljust(size)
            for place, (cell, size) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def number(value: float | None) -> str:
    """Four significant digits at most, never an exponent for ordinary sizes; a dash for nothing."""
    return "-" if value is None else f"{value:.4g}"


def interval(bounds: Sequence[float] | None) -> str:
    """'[0.1, 0.4]', or a dash."""
    return "-" if bounds is None else f"[{number(bounds[0])}, {number(bounds[1])}]"


def thousands(count: float) -> str:
    """'114k', '1.2M': three significant digits."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:.0f}"
