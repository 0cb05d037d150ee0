"""The one error that the catalog raises."""

from __future__ import annotations

from pathlib import Path


class CatalogError(ValueError):
    """Something in a data file is wrong: `str(error)` is one line, "file:line: what (did you mean ...?)"."""

    def __init__(self, message: str, path: Path | str | None = None, line: int | None = None) -> None:
        self.message, self.path, self.line = message, path, line
        place = "" if path is None else f"{_shown(Path(path))}:" + ("" if line is None else f"{line}:")
        super().__init__(f"{place} {message}" if place else message)


def _shown(path: Path) -> Path:
    """Relative to the working directory where that is shorter, as compilers do."""
    try:
        return path.resolve().relative_to(Path.cwd())
    except (ValueError, OSError):
        return path
