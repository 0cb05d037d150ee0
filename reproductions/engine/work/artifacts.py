"""Content-addressed cache of what runs share: teachers, SFT starts, teacher-written data."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root, canonical_json, digest, file_lock, read_json, write_atomic

_META = "meta.json"
_VERSIONED = ("torch", "transformers", "trl", "datasets")


class Artifacts:
    """Folders named by what they were made from. A folder that is not whole is rebuilt, never used."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (Path(root) if root is not None else cache_root()) / "artifacts"
        self._verified: set[Path] = set()

    def path(self, kind: str, key: Mapping[str, Any]) -> Path:
        """The folder of an artifact, there or not. Raises KDError if the key is not plain JSON data."""
        return self.root / f"{kind}-{digest(dict(key), 16)}"

    def obtain(
        self,
        kind: str,
        key: Mapping[str, Any],
        build: Callable[[Path], Mapping[str, Any] | None],
        waiting: Callable[[], None] | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        """The artifact's folder and its meta data, built by `build(empty folder)` if nobody has done so yet.

        Two processes that ask for the same artifact: one builds, the other waits (`waiting` is called once).
        What `build` returns is kept in the meta data under "budget".
        """
        path = self.path(kind, key)
        with file_lock(self.root / "locks" / f"{path.name}.lock", waiting):
            meta = self._whole(path)
            if meta is None:
                meta = self._build(path, kind, key, build)
        return path, meta

    def prune(self, kind: str, limit: int, keep: Path) -> None:
        """Removes the oldest artifacts of a kind, but not `keep`, until they take `limit` bytes or less.

        Whoever reads one at that moment has its file open, or makes it again.
        """
        found = []
        for path in self.root.glob(f"{kind}-*"):
            if path.suffix:  # half made
                continue
            try:
                meta = path / _META
                files = read_json(meta)["files"].values()
                found.append((meta.stat().st_mtime_ns, sum(file["bytes"] for file in files), path))
            except (KDError, OSError, KeyError):  # being made, or gone
                continue
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= limit:
                break
            if path != keep:
                with file_lock(self.root / "locks" / f"{path.name}.lock"):
                    shutil.rmtree(path, ignore_errors=True)
                self._verified.discard(path)
                total -= size

    def _build(
        self, path: Path, kind: str, key: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any] | None]
    ) -> dict[str, Any]:
        partial = path.with_name(f"{path.name}.partial")
        for leftover in (partial, path):
            if leftover.exists():
                shutil.rmtree(leftover)
        partial.mkdir(parents=True)
        started = time.perf_counter()
        try:
            budget = build(partial)
            meta = {
                "kind": kind,
                "key": json.loads(canonical_json(dict(key))),
                "seconds": round(time.perf_counter() - started, 3),
                "budget": dict(budget or {}),
                "versions": {name: _version(name) for name in _VERSIONED},
                "files": {
                    str(file.relative_to(partial)): {"bytes": file.stat().st_size, "sha256": _sha256(file)}
                    for file in sorted(partial.rglob("*"))
                    if file.is_file()
                },
            }
            write_atomic(partial / _META, json.dumps(meta, indent=1, sort_keys=True) + "\n")
            partial.rename(path)
        except OSError as error:
            raise KDError(f"{partial}: cannot be written: {error.strerror or error}") from error
        self._verified.add(path)
        return meta

    def _whole(self, path: Path) -> dict[str, Any] | None:
        """The meta data of a folder whose files are all as they were written, else None."""
        try:
            meta = read_json(path / _META)
            files = meta["files"]
            if path not in self._verified:
                for name, expected in files.items():
                    file = path / name
                    if file.stat().st_size != expected["bytes"] or _sha256(file) != expected["sha256"]:
                        return None
                self._verified.add(path)
        except (KDError, OSError, KeyError, TypeError, AttributeError):
            return None
        return meta


def save_model(model: Any, folder: Path) -> None:
    """Writes a transformers model as safetensors."""
    model.save_pretrained(folder)
    if list(folder.rglob("*.bin")) or list(folder.rglob("*.pt")):
        raise KDError(f"{folder}: the model was not saved as safetensors")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
