"""A replicate: all runs that another machine made of a paper at a scale, in one file that anybody can check.

The file is a zip: manifest.json (paper, scale, testbed, arms by key, where and when it was made, the SHA-256 of every
other file) and each arm's JSON and Parquet as `pair.py` writes them. Nothing in it is believed: whoever reads it
recomputes every metric from the columns and every digest from the figures.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import write_atomic
from reproductions.engine.plan.spec import key_of
from reproductions.engine.store.arm import ArmResults
from reproductions.engine.store.pair import arm_path, read_arm, write_arm

if TYPE_CHECKING:
    from reproductions.engine.plan.plan import Plan

SCHEMA = 1
MANIFEST = "manifest.json"
LARGEST = 2**30  # bytes unpacked: a file that says it holds more is no replicate
_NAME = re.compile(r"[0-9a-f]{16}\.(json|parquet)")
_FIELDS = {"schema": int, "paper": str, "scale": str, "testbed": str, "arms": dict, "files": dict}
_STILL = (1980, 1, 1, 0, 0, 0)  # no clock in the file: the same runs give the same bytes


@dataclass(frozen=True, eq=False)
class Replicate:
    """A checked file. `arms`: results by the name that the maker's experiment gave the arm."""

    name: str
    paper: str
    scale: str
    testbed: str
    arms: Mapping[str, ArmResults]

    @property
    def about(self) -> str:
        """Where it was made: 'cpu, torch 2.13.0, 2026-11-28'."""
        runs = [run for arm in self.arms.values() for run in arm.runs.values()]
        devices = sorted({str(run.made_with.get("cpu") or run.made_with.get("device")) for run in runs})
        torch = sorted({str(run.made_with.get("torch")) for run in runs})
        days = sorted({run.finished[:10] for run in runs if run.finished})
        return ", ".join([*devices, f"torch {' and '.join(torch)}", *days[-1:]])


def write_replicate(path: Path, plan: Plan, arms: Iterable[tuple[str, ArmResults]]) -> None:
    """Writes the runs of a plan as one file, whole or not at all."""
    named = dict(arms)
    contents: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / plan.scale.testbed
        folder.mkdir()
        for results in {arm.key: arm for arm in named.values()}.values():
            target = arm_path(folder, results.key)
            write_arm(target, results)
            for file in (target, target.with_suffix(".parquet")):
                contents[file.name] = file.read_bytes()
    manifest = {
        "schema": SCHEMA,
        "paper": plan.paper,
        "scale": plan.scale.name,
        "testbed": plan.scale.testbed,
        "arms": {name: results.key for name, results in named.items()},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        head = json.dumps(manifest, indent=1).encode() + b"\n"
        for name, data in [(MANIFEST, head), *sorted(contents.items())]:
            kind = zipfile.ZIP_STORED if name.endswith(".parquet") else zipfile.ZIP_DEFLATED
            packed.writestr(zipfile.ZipInfo(name, _STILL), data, kind, 9)
    write_atomic(path, buffer.getvalue())


def read_replicate(path: Path) -> Replicate:
    """A file, checked: every metric recomputed, every digest and key. KDError names the file and the fault."""
    try:
        contents = _unpacked(path)
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, zlib.error) as error:
        raise KDError(f"{path}: cannot be read as a replicate: {error}") from error
    manifest = _manifest(path, contents.pop(MANIFEST, None))
    if set(contents) != set(manifest["files"]):
        raise KDError(f"{path}: holds other files than its manifest names")
    for name, data in contents.items():
        if hashlib.sha256(data).hexdigest() != manifest["files"][name]:
            raise KDError(f"{path}: {name} is not what the manifest says")
    arms = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / manifest["testbed"]
        folder.mkdir()
        for name, data in contents.items():
            (folder / name).write_bytes(data)
        for arm, key in manifest["arms"].items():
            if f"{key}.json" not in contents:
                raise KDError(f'{path}: arm "{arm}" has no results {key}')
            try:
                arms[arm] = read_arm(arm_path(folder, key))
            except KDError as error:
                raise KDError(str(error).replace(f"{folder}/", f"{path}: ")) from error
            if key_of(arms[arm].spec) != key:
                raise KDError(f"{path}: {key}: its spec has the key {key_of(arms[arm].spec)}")
    return Replicate(path.stem, manifest["paper"], manifest["scale"], manifest["testbed"], arms)


def _unpacked(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as packed:
        listed = packed.infolist()
        strange = [
            item.filename
            for item in listed
            if item.filename != MANIFEST and not _NAME.fullmatch(item.filename)
        ]
        if strange or len({item.filename for item in listed}) != len(listed):
            raise KDError(f"{path}: holds what no replicate does: {', '.join(strange) or 'a file twice'}")
        if sum(item.file_size for item in listed) > LARGEST:
            raise KDError(f"{path}: unpacks to more than {LARGEST // 2**20} MiB")
        return {item.filename: packed.read(item) for item in listed}


def _manifest(path: Path, data: bytes | None) -> dict[str, Any]:
    try:
        manifest = json.loads(data or b"")
    except ValueError as error:
        raise KDError(f"{path}: {MANIFEST} is missing or not JSON") from error
    for name, kind in _FIELDS.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise KDError(f"{path}: {MANIFEST}: {name} is missing or not {kind.__name__}")
    if manifest["schema"] != SCHEMA:
        raise KDError(f"{path}: schema {manifest['schema']}; this version reads schema {SCHEMA}")
    plain = [manifest["testbed"], *manifest["arms"].values()]
    if any(not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or ".." in name for name in plain):
        raise KDError(f"{path}: {MANIFEST}: a testbed or key is no plain name")
    return manifest
