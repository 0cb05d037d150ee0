"""What a teacher has answered so far, kept batch by batch: whoever is killed in between loses one batch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines: what it is about, then an entry for each batch, on the disk before the next is begun.

    `entries` are those of before. A file about something else begins anew, and a line that was not written to its end
    is cut off. `told` hears how many of how many batches there are.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any], told: Callable[[int, int], None] = lambda done, of: None
    ) -> None:
        self._path, self._told = path, told
        text = json.dumps(about, sort_keys=True)
        first = json.dumps({"about": hashlib.sha256(text.encode()).hexdigest()})
        lines = path.read_bytes().split(b"\n") if path.is_file() else []
        self.entries: list[dict[str, Any]] = []
        whole = [*lines[:1]] if lines[:1] == [first.encode()] else []
        for line in lines[1:-1] if whole else ():  # behind the last line break stands nothing, or half a line
            try:
                self.entries.append(json.loads(line))
            except ValueError:
                break
            whole.append(line)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.partial")
        fresh.write_bytes(b"\n".join([*(whole or [first.encode()]), b""]))
        fresh.replace(path)

    def add(self, entry: Mapping[str, Any], of: int) -> None:
        """Keep the next of `of` entries."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries.append(json.loads(json.dumps(entry)))
        self._told(len(self.entries), of)
