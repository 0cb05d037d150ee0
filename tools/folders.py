"""Folders that a verb writes as a whole: made anew beside what stands there, put in its place once they are done."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from catalog.errors import CatalogError


@contextmanager
def made_anew(out: Path, marker: str, whose: str, ask: str) -> Iterator[Path]:
    """A folder to fill, which then takes the place of `out`; nothing changes there where the filling fails.

    Raises CatalogError where `out` is a file, or holds something but no file `marker`, which says that it is `whose`;
    `ask` is what to do then ("give --out").
    """
    if out.exists() and not out.is_dir():
        raise CatalogError(f"is a file; {ask} a new folder", out)
    if out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise CatalogError(f"holds files that are not {whose}; {ask} a new or empty folder", out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".made-") as made:
        fresh = Path(made) / "made"
        fresh.mkdir()
        yield fresh
        if out.is_dir():
            shutil.rmtree(out)
        fresh.rename(out)
