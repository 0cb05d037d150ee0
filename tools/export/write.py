"""Writes an export: a Parquet file a table, the card, what is its own. The same atlas gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from reproductions.engine.work.environment import commit
from tools.export import card, logbook
from tools.export.columns import TABLES, Column, Table
from tools.folders import made_anew
from tools.pages.atlas import Atlas
from tools.pages.atlas import atlas as read_atlas

MARKER = ".kd-atlas-data"  # lists the export's own files; a folder that holds others is not written over
ASK = "name"


def export(out: Path, logbooks: Iterable[str] = (), atlas: Atlas | None = None) -> dict[str, Any]:
    """Write all tables under `out`, and a logbook of each of some papers (`all`: of every judged one).

    Returns what was written: the commit, rows by table, logbooks. Raises CatalogError where `out` holds anything that
    no export wrote or a paper is not known, KDError where there is no package for logbooks.
    """
    _check_its_own(out)
    wanted = list(logbooks)
    logbook.check_installed(wanted)
    atlas = atlas or read_atlas()
    papers = logbook.papers_of(wanted, atlas)
    made = commit()
    with made_anew(out, MARKER, "an export's", ASK) as fresh:
        (fresh / "data").mkdir()
        counts = {one.name: _parquet(fresh / card.file_of(one.name), one, atlas) for one in TABLES}
        text = card.card(TABLES, counts, made["commit"], dirty=bool(made["dirty"]))
        (fresh / card.CARD).write_text(text, encoding="utf-8")
        for name in papers:
            logbook.write(fresh / logbook.FOLDER / name, atlas, name, made["commit"])
        own = sorted(path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file())
        (fresh / MARKER).write_text("".join(f"{name}\n" for name in own), encoding="utf-8")
    return {"folder": str(out), **made, "rows": counts, "logbooks": papers}


def _check_its_own(out: Path) -> None:
    """An export is replaced only where nobody has put anything beside it."""
    if not (out / MARKER).is_file():
        return
    own = {MARKER, *(out / MARKER).read_text(encoding="utf-8").splitlines()}
    for path in sorted(out.rglob("*")):
        if path.is_file() and path.relative_to(out).as_posix() not in own:
            raise CatalogError(f"is not of the export in {out.name}; {ASK} a new or empty folder", path)


def _parquet(path: Path, one: Table, atlas: Atlas) -> int:
    """The rows of a table as a file; how many there are."""
    import pyarrow
    import pyarrow.parquet

    rows = list(one.rows(atlas))
    columns = [
        pyarrow.array([_cell(column, row) for row in rows], type=_type(column.kind), from_pandas=False)
        for column in one.columns
    ]
    made = pyarrow.table(columns, names=[column.name for column in one.columns])
    pyarrow.parquet.write_table(made, path, compression="zstd")
    return len(rows)


def _cell(column: Column, row: Any) -> Any:
    """Nothing to say is null, in text too."""
    value = column.of(row)
    return None if value == "" else value


def _type(kind: Any) -> Any:
    import pyarrow

    if isinstance(kind, tuple):
        return pyarrow.list_(_type(kind[0]))
    if isinstance(kind, Mapping):
        return pyarrow.struct([(name, _type(of)) for name, of in kind.items()])
    return {
        "string": pyarrow.string(),
        "int64": pyarrow.int64(),
        "float64": pyarrow.float64(),
        "bool": pyarrow.bool_(),
    }[kind]
