"""What every file of the engine goes through: atomic writes, canonical JSON, locks, the cache's place."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError

_FREE_BYTES_NEEDED = 200 * 2**20


def canonical_json(value: Any) -> str:
    """JSON text that is equal for equal values: sorted keys, no spaces, no NaN. Raises KDError."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise KDError(f"not plain JSON data: {error}") from error


def digest(value: Any, length: int) -> str:
    """The first `length` hex digits of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def content_digest(place: Path) -> str:
    """16 hex digits over what a file holds, or over the visible files directly in a folder; not over where it lies."""
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
        return digest([[file.name, content_digest(file)] for file in files], 16)
    with place.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def write_atomic(path: Path, text: str | bytes) -> None:
    """Writes the whole file or nothing: temporary file beside it, fsync, rename. Raises KDError."""
    data = text.encode("utf-8") if isinstance(text, str) else text
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
            temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise KDError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises KDError naming the file and the line."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KDError(f"{path}: cannot be read: {error.strerror or error}") from error
    except json.JSONDecodeError as error:
        raise KDError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise KDError(f"{path}: not UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise KDError(f"{path}: not JSON that can be read: too many digits, or nested too deep") from error


def significant(value: float, digits: int) -> float:
    """`value` rounded to so many significant digits; not finite values stay as they are."""
    return float(f"{value:.{digits}g}") if math.isfinite(value) else value


def cache_root() -> Path:
    """Where artifacts and run states live: $KD_CACHE, else ~/.cache/kd-atlas."""
    return Path(os.environ.get("KD_CACHE") or Path.home() / ".cache" / "kd-atlas").expanduser()


def check_disk(folder: Path, needed: int = _FREE_BYTES_NEEDED) -> None:
    """Raises KDError when the folder cannot be written or has fewer than `needed` bytes free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-"):
            pass
    except OSError as error:
        raise KDError(
            f"{folder}: cannot be written ({error.strerror or error}); set KD_CACHE to a folder that can"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise KDError(
            f"{folder}: {free / 2**20:.0f} MiB free, at least {needed / 2**20:.0f} MiB are needed; "
            "make room or set KD_CACHE to another disk"
        )


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or made in the closest one around it that is there; None: it can."""
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            return f"{folder} is a file, not a folder"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".write-test-") as file:
            file.write(b"0" * 4096)  # a full disk still makes empty files
    except OSError as error:
        return error.strerror or str(error)
    return None


@contextlib.contextmanager
def file_lock(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds an exclusive lock on a file; the kernel drops it when the holder dies, however it dies.

    `waiting` is called once when somebody else holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield  # closing the file unlocks it


@contextlib.contextmanager
def sole_user(path: Path, what: str) -> Iterator[None]:
    """Holds a lock or says who does. Raises KDError naming the other process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise KDError(f"{what} is already being worked on by process {owner} (lock: {path})") from None
        handle.truncate(0)
        handle.write(str(os.getpid()))
        handle.flush()
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
