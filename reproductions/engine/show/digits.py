"""How many digits a shown figure has: few enough that fresh and committed views are the same on every machine."""

from __future__ import annotations

from reproductions.engine.show.view import Interval

DIGITS = 6  # significant ones


def rounded(value: float) -> float:
    """To DIGITS significant digits."""
    return float(f"{value:.{DIGITS}g}")


def short(value: float | None) -> float | None:
    """As `rounded`, nothing where there is nothing."""
    return None if value is None else rounded(value)


def pair(bounds: Interval | None) -> Interval | None:
    """Both ends of an interval, rounded."""
    return None if bounds is None else (rounded(bounds[0]), rounded(bounds[1]))
