"""The one error that the catalog raises, and what its sentences are made of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class CatalogError(ValueError):
    """Something in a data file is wrong: `str(error)` is one line, "file:line: what (did you mean ...?)"."""

    def __init__(self, message: str, path: Path | str | None = None, line: int | None = None) -> None:
        self.message, self.path, self.line = message, path, line
        place = "" if path is None else f"{_shown(Path(path))}:" + ("" if line is None else f"{line}:")
        super().__init__(f"{place} {message}" if place else message)


def nearest(name: str, candidates: Iterable[str]) -> str:
    """' (did you mean "x"?)' for the candidate most like `name`, or '' where none is like it."""
    import difflib  # here: what is spelled right never needs it

    by_lower = {str(candidate).lower(): str(candidate) for candidate in candidates}
    wanted = str(name).lower()[:200]
    close = difflib.get_close_matches(wanted, by_lower, n=3, cutoff=0.6)
    if not close:
        return ""

    def alike(
        other: str,
    ) -> tuple[float, int]:  # of two equally alike, the one that begins alike: typos come late
        return difflib.SequenceMatcher(a=other, b=wanted).ratio(), same_start(wanted, other)

    return f' (did you mean "{by_lower[max(close, key=alike)]}"?)'


def same_start(one: str, other: str) -> int:
    """With how many equal letters two words begin."""
    return next(
        (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


def cut(text: object, length: int = 60) -> str:
    """The beginning of a text that somebody else wrote, so that no message is longer than a line or two."""
    shown = str(text)
    return shown if len(shown) <= length else f"{shown[:length]}..."


def _shown(path: Path) -> Path:
    """Relative to the working directory where that is shorter, as compilers do."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
