"""Small JSON files that only save time: whatever is wrong with one, it counts as absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FORMAT = 1
MAX_BYTES = 100_000_000
# A file that changed this shortly ago may change again without a new time of change; what is read from it is not kept.
SETTLED_NS = 2_000_000_000


def folder() -> Path | None:
    """$KD_CACHE, else ~/.cache/kd-atlas; None where there is no home."""
    try:
        return Path(os.environ.get("KD_CACHE") or Path.home() / ".cache" / "kd-atlas").expanduser()
    except RuntimeError:
        return None


def file_for(kind: str, root: Path) -> Path | None:
    """The cache file of one checkout: several may share a cache folder."""
    place = folder()
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    return None if place is None else place / f"{kind}-{name}.json"


def read(path: Path | None, key: str) -> Any:
    """What `write` put there under the same key; None for an absent, cut, altered or unreadable file."""
    try:
        if path is None or not stat.S_ISREG(path.stat().st_mode) or path.stat().st_size > MAX_BYTES:
            return None
        head, _, body = path.read_bytes().partition(b"\n")
        return json.loads(body) if head == _head(key, body) else None
    except (OSError, ValueError, RecursionError):
        return None


def write(path: Path | None, key: str, value: Any) -> None:
    """Keep `value`, the whole of it or nothing; where it cannot be kept, nothing is said."""
    if path is None:
        return
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(_head(key, body) + b"\n" + body)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()


def signature(status: os.stat_result) -> list[int]:
    """What is different after a file was written: size, times of change, inode."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def settled(status: os.stat_result) -> bool:
    """Whether a later change would be seen in the signature."""
    return status.st_mtime_ns < time.time_ns() - SETTLED_NS


def source_key(paths: Iterable[Path]) -> str:
    """A digest of program text: another version of the code keeps nothing of the old one's."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _head(key: str, body: bytes) -> bytes:
    return f"kd-atlas {FORMAT} {key} {hashlib.sha256(body).hexdigest()}".encode()
