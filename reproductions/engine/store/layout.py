"""Where an arm's recorded files are; the one place that knows. Each file is written once and never changed.

    results/<testbed>/<key>.json,     <key>.parquet       the first runs of a spec
    results/<testbed>/<key>/<n>.json, <key>/<n>.parquet   what was added to them later, n = 1, 2, ...

Of a pair the Parquet is written first: it counts when its JSON is there. No numpy here, no torch.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json

_ADDITION = re.compile(r"([1-9][0-9]*)\.(json|parquet)")
_NAMED = ("metrics", "claims", "made_with", "shared")  # what stands once in a file, by name


def arm_path(folder: Path, key: str) -> Path:
    """The JSON of an arm's first runs in the results folder of its testbed; an arm goes by it everywhere."""
    return folder / f"{key}.json"


def table_of(path: Path) -> Path:
    """The Parquet beside a JSON."""
    return path.with_suffix(".parquet")


def folder_of(path: Path) -> Path:
    """Where the additions to an arm are, there or not; `path`: the JSON of its first runs."""
    return path.with_suffix("")


def additions(path: Path) -> list[Path]:
    """The JSON of each addition to an arm, in the order in which they were made; `path`: that of its first runs.

    A last Parquet without its JSON is an interrupted write and no addition. Raises KDError naming the file where one is
    missing before another, or where one is none.
    """
    folder = folder_of(path)
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208 - names only, and fast
    except (FileNotFoundError, NotADirectoryError):
        return []
    numbers = []
    for name in sorted(names):
        found = _ADDITION.fullmatch(name)
        if found is None:
            raise KDError(
                f"{folder / name}: is no addition to {path.name}: they are named 1.json, 1.parquet, 2.json"
            )
        if found[2] == "json":
            numbers.append(int(found[1]))
    for place, number in enumerate(sorted(numbers), 1):
        if number != place:
            raise KDError(
                f"{folder / f'{place}.json'}: is missing, and {number}.json is there; none is ever removed"
            )
    if numbers and not path.exists():
        raise KDError(f"{path}: is missing, and {folder.name}/ holds additions to it")
    return [folder / f"{number}.json" for number in sorted(numbers)]


def next_addition(path: Path) -> Path:
    """The JSON that the next addition to an arm goes into. Raises KDError as `additions` does."""
    return folder_of(path) / f"{len(additions(path)) + 1}.json"


def files_of(folder: Path, key: str) -> list[Path]:
    """Every file of an arm, JSON before Parquet, in the order in which they were written; [] where it has none.

    Raises KDError as `additions` does.
    """
    path = arm_path(folder, key)
    if not path.exists():
        return []
    return [file for json in [path, *additions(path)] for file in (json, table_of(json))]


def arms_of(folder: Path) -> list[Path]:
    """Every arm in the results' folder of a testbed, by the JSON of its first runs."""
    return sorted(folder.glob("*.json"))


def arms_in(root: Path) -> list[Path]:
    """Every arm under the results' folder, over all testbeds, by the JSON of its first runs."""
    return sorted(root.glob("*/*.json"))


def strays(folder: Path) -> list[tuple[Path, str]]:
    """Files in the results' folder of a testbed that belong to no arm, each with what is wrong with it.

    An interrupted write leaves a Parquet without its JSON, which no reader sees; here it shows.
    """
    found = []
    for path in [*folder.glob("*.parquet"), *folder.glob("*/*.parquet")]:
        if not path.with_suffix(".json").is_file():
            found.append((path, "has no JSON beside it"))
    for inside in {path.parent for path in folder.glob("*/*.json")}:
        if not (arm := inside.with_suffix(".json")).is_file():
            found.append((inside, f"holds additions, and there is no {arm.name}"))
    return sorted(found)


def lines_of(path: Path) -> Any:
    """What the JSON of an arm and of its additions say, joined as one file; no figure is checked.

    For whoever needs times and circumstances alone: `pair.read_arm` reads and checks the figures. Raises KDError
    naming the file.
    """
    data = read_json(path)
    for more in additions(path):
        part = read_json(more)
        try:
            seeds = {run["seed"] for run in data["runs"]}
            own = [run for run in part["runs"] if run["seed"] not in seeds]
            joined = {name: {**part[name], **data.get(name, {})} for name in _NAMED}
            data = {**data, **joined, "runs": [*data["runs"], *own]}
        except (KeyError, TypeError, AttributeError) as error:
            raise KDError(f"{more}: no addition to the results of an arm: {error!r}") from None
    return data
