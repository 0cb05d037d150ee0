"""The files of a teacher store, and how a write that was killed is continued.

    header.json        what it is made of; `complete` and the totals once everything is there; replaced atomically
    records.bin        one record per example, one after the other
    index.bin          one fixed-size entry per record, written after it: key, place, checksum, statistics
    ranks.npy          top-k: the ids' numbering, if another than the tokenizer's
    head.safetensors   hidden states: the teacher's LM head

A record counts once its entry stands in the index. What a killed writer left behind that is cut away.
"""

from __future__ import annotations

import fcntl
import json
import os
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from methods.errors import MethodError
from methods.teachers.identity import KEY_BYTES, Identity

HEADER, RECORDS, INDEX, LOCK = "header.json", "records.bin", "index.bin", "lock"
FORMAT, VERSION = "kd-atlas teacher store", 1
ENTRY = np.dtype(
    [
        ("key", f"V{KEY_BYTES}"),
        ("offset", "<u8"),
        ("size", "<u4"),
        ("checksum", "<u4"),
        ("rows", "<u4"),
        ("ids", "<u4"),  # kept, over all rows
        ("covered", "<f4"),  # sum over rows of the teacher's mass on the ids kept
        ("error", "<f4"),  # sum over rows of KL(merged teacher, what is read back), nats
        ("worst", "<f4"),  # largest of them
        ("spread", "<f4"),  # sum over rows of KL(teacher, what is read back with its tail spread evenly)
    ]
)
STATISTICS = ("ids", "covered", "error", "worst", "spread")


class StoreWriter:
    """Appends records to the folder of a store, or goes on with one that was not finished; a context manager.

    `content` says what the records are (kind, settings); `finish` makes the store readable. Raises MethodError for a
    folder that holds another store, or one that somebody else is writing.
    """

    def __init__(self, folder: str | Path, identity: Identity, content: dict[str, Any], *, batch: int = 64):
        self.folder, self.identity, self.content, self.batch = Path(folder), identity, content, batch
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise MethodError(f"another process is writing the teacher store {self.folder}") from error
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> None:
        if (self.folder / HEADER).exists():
            header = read_header(self.folder)
            Identity(**header["identity"]).refuse_unless(self.folder, **asdict(self.identity))
            if header["content"] != self.content:
                raise MethodError(
                    f"the teacher store {self.folder} has other settings: {_changes(header['content'], self.content)}"
                )
        elif (self.folder / RECORDS).exists():
            raise MethodError(
                f"{self.folder} has records but no {HEADER}: not a teacher store of this version"
            )
        else:
            self._write_header(None)
        self.entries = sound_entries(self.folder)
        self.keys = {entry["key"].tobytes() for entry in self.entries}
        self._end = int(self.entries["offset"][-1] + self.entries["size"][-1]) if len(self.entries) else 0
        self._records, self._index = (
            _opened(self.folder / name, size)
            for name, size in ((RECORDS, self._end), (INDEX, self.entries.nbytes))
        )
        self._waiting: list[np.ndarray] = []

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        for file in (self._records, self._index, self._lock):
            file.close()

    def add(self, key: bytes, record: bytes, rows: int, **statistics: float) -> None:
        """One more example; one that is there already is left as it is."""
        if key in self.keys:
            return
        entry = np.zeros((), ENTRY)
        values = {
            "key": np.void(key),
            "offset": self._end,
            "size": len(record),
            "checksum": zlib.crc32(record),
            "rows": rows,
        }
        for name, value in (values | statistics).items():
            entry[name] = value
        self._records.write(record)
        self._end += len(record)
        self.keys.add(key)
        self._waiting.append(entry)
        if len(self._waiting) >= self.batch:
            self.flush()

    def flush(self) -> None:
        """Make the records so far survive a kill: first they reach the disk, then their entries."""
        if not self._waiting:
            return
        _sync(self._records)
        entries = np.stack(self._waiting)
        self._index.write(entries.tobytes())
        _sync(self._index)
        self.entries = np.concatenate([self.entries, entries])
        self._waiting = []

    def finish(self) -> dict[str, Any]:
        """Declare the store complete; returns its totals."""
        self.flush()
        totals = totals_of(self.entries, self._end)
        self._write_header(totals)
        return totals

    def _write_header(self, totals: dict[str, Any] | None) -> None:
        header = {
            "format": FORMAT,
            "version": VERSION,
            "identity": asdict(self.identity),
            "content": self.content,
            "complete": totals is not None,
            "totals": totals,
        }
        write_atomically(self.folder / HEADER, (json.dumps(header, indent=1) + "\n").encode())


def totals_of(entries: np.ndarray, size: int) -> dict[str, Any]:
    """What a store holds and how good it is, per row (completion token); nats and bytes."""
    rows = int(entries["rows"].sum())
    sums = {name: float(entries[name].astype(np.float64).sum()) for name in STATISTICS}
    per_row = {name: sums[name] / max(rows, 1) for name in sums}
    return {
        "examples": len(entries),
        "rows": rows,
        "bytes_per_row": size / max(rows, 1),
        "ids_per_row": per_row["ids"],
        "covered_mass": per_row["covered"],
        "mean_error": per_row["error"],
        "max_error": float(entries["worst"].max()) if len(entries) else 0.0,
        "mean_error_even_tail": None if np.isnan(sums["spread"]) else per_row["spread"],
    }


def read_header(folder: Path) -> dict[str, Any]:
    """The header; raises MethodError where it is none."""
    path = folder / HEADER
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MethodError(f"there is no teacher store in {folder}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise MethodError(f"{path}: not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise MethodError(f"{path} is not the header of a teacher store")
    if header.get("version") != VERSION:
        raise MethodError(f"{path}: version {header.get('version')}; this library reads version {VERSION}")
    return header


def sound_entries(folder: Path) -> np.ndarray:
    """The index up to the first entry that its record does not bear out."""
    index, records = folder / INDEX, folder / RECORDS
    if not index.exists() or not records.exists():
        return np.empty(0, ENTRY)
    whole = index.stat().st_size // ENTRY.itemsize
    entries = np.fromfile(index, ENTRY, whole)
    ends = entries["offset"] + entries["size"]
    starts = np.concatenate([[0], ends[:-1]]) if whole else ends
    sound = (entries["offset"] == starts) & (ends <= records.stat().st_size)
    count = whole if sound.all() else int(np.argmin(sound))
    with records.open("rb") as file:
        while count:  # what was written last may not have reached the disk
            file.seek(int(entries["offset"][count - 1]))
            if zlib.crc32(file.read(int(entries["size"][count - 1]))) == entries["checksum"][count - 1]:
                break
            count -= 1
    return entries[:count]


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one step."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        file.write(data)
        _sync(file)
    part.replace(path)


def _opened(path: Path, size: int) -> Any:
    """The file cut to `size` bytes, to be appended to."""
    file = path.open("r+b" if path.exists() else "w+b")
    file.truncate(size)
    file.seek(size)
    return file


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _changes(there: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))
    return "; ".join(f"{name} is {there.get(name)}, not {wanted.get(name)}" for name in names)
