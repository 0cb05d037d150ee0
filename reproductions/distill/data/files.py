"""Rows as they lie in files, each with its place: JSON lines, JSON, CSV, Parquet, Arrow, folders, data sets of the hub.

Nothing is dropped here. What a file has beside rows (a byte-order mark, blank lines) is counted in `told`, a row that
cannot be read is a `BadRow` with its reason: who reads on decides whether that is an error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.errors import nearest
from reproductions.distill.data.spec import KINDS, DataSpec
from reproductions.engine.errors import KDError

SPLITS = ("train", "validation", "valid", "val", "dev", "test", "eval")
ARROW_FILES = (
    "dataset_dict.json",
    "dataset_info.json",
    "state.json",
)  # of a folder that `save_to_disk` wrote
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True)
class BadRow:
    """A row that is none: why, in a few words that are counted, and what exactly."""

    kind: str
    why: str
    line: int = 1  # of the text that was read


@dataclass
class Table:
    """Rows of a user, or why one is none, with the place of each, `file:line` where lines are known."""

    rows: list[dict[str, Any] | BadRow] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    told: Counter[str] = field(default_factory=Counter)

    def add(self, row: dict[str, Any] | BadRow, place: str) -> None:
        """One row more."""
        self.rows.append(row)
        self.places.append(place)

    @property
    def columns(self) -> list[str]:
        """Every column that a row has, in the order in which they first come."""
        return list(dict.fromkeys(name for row in self.rows if isinstance(row, dict) for name in row))


def read_table(spec: DataSpec) -> Table:
    """All rows of the data. Raises KDError, naming the place, for what is no data at all."""
    table = Table()
    if spec.place is None:
        _from_hub(spec, table)
    elif spec.place.is_dir():
        _from_folder(spec.place, spec.split, table)
    else:
        _from_file(spec.place, table)
    if spec.rows is not None:
        table.rows, table.places = table.rows[: spec.rows], table.places[: spec.rows]
    if not table.rows:
        raise KDError(f"{spec}: no rows")
    return table


def _from_hub(spec: DataSpec, table: Table) -> None:
    from reproductions.models.sources import load_rows

    found = load_rows(spec.hub, spec.split, (), config=spec.subset, limit=spec.rows)
    for number, row in enumerate(found, 1):
        table.add(row, f"hub:{spec.hub}, {spec.split} row {number}")


def _from_folder(folder: Path, split: str, table: Table) -> None:
    """A data set that `datasets` saved, or the files of a split."""
    if any((folder / name).is_file() for name in ARROW_FILES):
        _from_saved(folder, split, table)
        return
    files = sorted(path for path in folder.rglob("*") if path.is_file() and kind_of(path))
    files = [
        path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    own = [path for path in files if split in _words(path.relative_to(folder))]
    unnamed = [path for path in files if not _words(path.relative_to(folder)).intersection(SPLITS)]
    chosen = own or (unnamed if split == "train" else [])
    kinds = {kind_of(path) for path in chosen}
    if not chosen or len(kinds) > 1:
        there = ", ".join(str(path.relative_to(folder)) for path in files[:8]) or "no file of data"
        why = f"files of {len(kinds)} kinds" if chosen else f'no files of the split "{split}"'
        raise KDError(f"{folder}: {why}: it has {there}; name one file, or another split")
    for path in chosen:
        _from_file(path, table)


def _words(path: Path) -> set[str]:
    """'data/train-00000-of-1.parquet' -> data, train, 00000, ..."""
    text = str(path).lower()
    for mark in "/\\-_.":
        text = text.replace(mark, " ")
    return set(text.split())


def _from_saved(folder: Path, split: str, table: Table) -> None:
    from datasets import DatasetDict, load_from_disk

    try:
        data: Any = load_from_disk(str(folder))
    except Exception as error:  # pyarrow's and datasets' own kinds
        raise KDError(f"{folder}: cannot be read as a saved data set: {_short(error)}") from error
    if isinstance(data, DatasetDict):
        if split not in data:
            raise KDError(f'{folder}: no split "{split}"{nearest(split, data)}; it has {", ".join(data)}')
        data = data[split]
    for number, row in enumerate(data, 1):
        table.add(dict(row), f"{folder}: row {number}")


def kind_of(path: Path) -> str:
    """The ending that says how a file is read, '' where it says nothing."""
    name = path.name.lower().removesuffix(".gz")
    return next((kind for kind in KINDS if name.endswith(kind)), "")


def _from_file(path: Path, table: Table) -> None:
    kind = kind_of(path)
    if not kind:
        near = nearest(path.suffix, KINDS)
        raise KDError(
            f'{path}: no kind of data file ends with "{path.suffix}"{near}; known: {", ".join(KINDS)}'
        )
    if kind in (".parquet", ".arrow"):
        _from_columns(path, kind, table)
        return
    text = _text(path, table.told)
    if kind in (".csv", ".tsv"):
        _from_csv(path, text, "," if kind == ".csv" else "\t", table)
    elif kind == ".json" and text.lstrip().startswith("["):
        _from_array(path, text, table)
    else:
        _from_lines(path, text, table)


def _text(path: Path, told: Counter[str]) -> str:
    """What a file says, whatever its alphabet's marks and line ends. Raises KDError where it is not text."""
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.name.lower().endswith(".gz") else raw
    except (OSError, EOFError, zlib.error) as error:
        raise KDError(f"{path}: cannot be read: {_short(error)}") from error
    mark, encoding = next((pair for pair in _MARKS if raw.startswith(pair[0])), (b"", "utf-8"))
    told["byte-order marks"] += bool(mark)
    try:
        text = raw.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{raw[error.start]:02x}" if error.start < len(raw) else "its end"
        raise KDError(f"{path}:{line}: not UTF-8 ({what}); save the file as UTF-8") from error
    told["lines that end with CR LF"] += text.count("\r\n")
    return text.replace("\r\n", "\n")


def _from_lines(path: Path, text: str, table: Table) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            table.add(_object(_from_json(line)), f"{path}:{number}")
        elif number <= text.count("\n"):
            table.told["blank lines"] += 1


class _Object(dict[str, Any]):
    """An object of JSON that remembers a key that is given twice, in it or in an object within it."""

    twice: str | None = None


def _pairs(found: list[tuple[str, Any]]) -> _Object:
    made = _Object(found)
    if len(made) < len(found):
        made.twice = next(name for name, count in Counter(name for name, _ in found).items() if count > 1)
    else:
        made.twice = next(filter(None, (_twice_in(value) for value in made.values())), None)
    return made


def _twice_in(value: Any) -> str | None:
    if isinstance(value, list):
        return next(filter(None, map(_twice_in, value)), None)
    return value.twice if isinstance(value, _Object) else None


def _from_json(text: str) -> Any:
    """What a text says in JSON, or a BadRow with the line of the text."""
    try:
        return json.loads(text, object_pairs_hook=_pairs)
    except json.JSONDecodeError as error:
        return BadRow("not JSON", f"not JSON: {error.msg}", error.lineno)
    except RecursionError:
        return BadRow("not JSON", "not JSON: nested too deep")
    except ValueError:  # Python reads no longer ones
        return BadRow("not JSON", "not JSON that can be read: a number of thousands of digits")


def _object(row: Any) -> dict[str, Any] | BadRow:
    if isinstance(row, BadRow):
        return row
    if isinstance(row, _Object) and row.twice is not None:
        return BadRow("keys given twice", f'the key "{row.twice}" is given twice')
    if isinstance(row, dict):
        return row
    return BadRow("no object", f"a row is an object of columns, not {type(row).__name__}")


def _from_array(path: Path, text: str, table: Table) -> None:
    found = _from_json(text)
    if isinstance(found, BadRow):
        raise KDError(f"{path}:{found.line}: {found.why}")
    for number, row in enumerate(found, 1):
        table.add(_object(row), f"{path}: row {number}")


def _from_csv(path: Path, text: str, delimiter: str, table: Table) -> None:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    head: list[str] = []
    try:
        for line, cells in _csv_rows(reader, table.told):
            if not head:
                head = cells
                twice = next((name for name, count in Counter(head).items() if count > 1), None)
                if twice is not None:
                    raise KDError(f'{path}:{line}: two columns are called "{twice}"')
            elif len(cells) != len(head):
                why = f"{len(cells)} cells under {len(head)} columns"
                table.add(BadRow("cells that do not fit", why), f"{path}:{line}")
            else:
                table.add(dict(zip(head, cells, strict=True)), f"{path}:{line}")
    except csv.Error as error:
        raise KDError(f"{path}:{reader.line_num}: not {path.suffix[1:].upper()}: {error}") from error


def _csv_rows(reader: Any, told: Counter[str]) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line on which it begins."""
    begin = 1
    for cells in reader:
        if cells:
            yield begin, cells
        else:
            told["blank lines"] += 1
        begin = reader.line_num + 1


def _from_columns(path: Path, kind: str, table: Table) -> None:
    try:
        if kind == ".parquet":
            import pyarrow.parquet as parquet

            rows: list[Mapping[str, Any]] = parquet.read_table(path).to_pylist()
        else:
            from datasets import Dataset

            rows = Dataset.from_file(str(path)).to_list()
    except Exception as error:  # pyarrow's own kinds
        raise KDError(f"{path}: cannot be read as {kind[1:]}: {_short(error)}") from error
    for number, row in enumerate(rows, 1):
        table.add(dict(row), f"{path}: row {number}")


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
