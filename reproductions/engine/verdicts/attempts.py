"""Attempts: every configuration under which a paper was judged before, reproductions/attempts/<paper>.<n>.json.

    {"paper", "number", "date", "engine", "scale", "testbed", "changed", "commit", "raw", "seeds", "verdicts",
     "claims": [{"claim", "verdict", "difference", "interval", "better", "worse", "metric", "keys": {arm: key},
                 "seeds"}]}

Written once (`freezing.py`), never edited. `seeds` of a claim: how many of the first it was decided with, all where it
is not said. `verdicts` counts the words of the engine that judged; `engine` 1 is the first edition's
bootstrap, whose intervals are about 1.5 times too wide. The raw figures stand in reproductions/results under `keys`, or
where these are empty in the history of this repository, in the file `raw` at the `commit`. An experiment that was
judged before says at its top level which attempt it is and what changed: `attempt: {number: 2, changed: "..."}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json
from reproductions.engine.store.arm import ArmResults, features
from reproductions.engine.store.pair import arm_path, read_arm
from reproductions.engine.verdicts import statistics
from reproductions.engine.verdicts.statistics import Estimate
from reproductions.engine.verdicts.units import units_of

TOLERANCE = 5e-6  # relative: half a unit of the last of the six digits that are frozen, at its largest
_FIELDS = {
    "paper": str,
    "number": int,
    "date": str,
    "engine": int,
    "scale": str,
    "testbed": str,
    "changed": str,
    "commit": str,
    "raw": (str, type(None)),
    "seeds": list,
    "verdicts": dict,
    "claims": list,
}
_CLAIM_FIELDS = {
    "claim": str,
    "verdict": str,
    "difference": (int, float),
    "interval": (list, type(None)),
    "better": str,
    "worse": str,
    "metric": str,
    "keys": dict,
}


@dataclass(frozen=True)
class Judged:
    """A claim as an earlier attempt judged it: arm `better` minus arm `worse`, + for the claim."""

    claim: str
    verdict: str
    difference: float
    interval: tuple[float, float] | None
    better: str
    worse: str
    metric: str
    keys: Mapping[str, str]
    seeds: int | None = None


@dataclass(frozen=True)
class Attempt:
    """An earlier configuration of a paper, with what came out of it."""

    paper: str
    number: int
    date: str
    engine: int
    scale: str
    testbed: str
    changed: str
    commit: str
    raw: str | None
    seeds: tuple[int, ...]
    verdicts: Mapping[str, int]
    claims: tuple[Judged, ...]


@dataclass(frozen=True)
class Recomputed:
    """A claim of an attempt, its figures read again: today's estimate, and whether the difference is the frozen one.

    `estimate` is None where the raw figures stand in the history only, or where they are `lost`.
    """

    judged: Judged
    estimate: Estimate | None
    lost: bool = False

    @property
    def agrees(self) -> bool:
        """Whether nothing speaks against the frozen difference."""
        if self.estimate is None:
            return not self.lost
        return math.isclose(
            self.estimate.difference, self.judged.difference, rel_tol=TOLERANCE, abs_tol=1e-12
        )


def paths(paper: str, folder: Path) -> list[Path]:
    """The files of a paper's attempts, by number."""
    found = {
        path: re.fullmatch(rf"{re.escape(paper)}\.([0-9]+)", path.stem) for path in folder.glob(f"{paper}.*")
    }
    return sorted((path for path, named in found.items() if named and path.suffix == ".json"), key=_number)


def read_attempts(paper: str, folder: Path) -> tuple[Attempt, ...]:
    """A paper's attempts, the first one first. Raises KDError naming the file, also where a number is missing."""
    found = tuple(_read(path, paper) for path in paths(paper, folder))
    for place, attempt in enumerate(found, 1):
        if attempt.number != place:
            raise KDError(f"{folder}: attempt {place} of {paper} is missing; attempts are never removed")
    return found


def recompute(
    attempt: Attempt, results: Path, known: Mapping[str, ArmResults] | None = None
) -> Iterator[Recomputed]:
    """Each claim of an attempt from the raw figures under `results`; `known`: arms by key that were read already.

    Raises KDError where a file is broken, or was not measured with the claim's metric and the attempt's seeds.
    """
    read: dict[str, ArmResults] = dict(known or {})
    for judged in attempt.claims:
        for key in judged.keys.values():
            path = arm_path(results / attempt.testbed, key)
            if key not in read and path.is_file():
                read[key] = read_arm(path)
        arms = [read.get(judged.keys.get(name, "")) for name in (judged.better, judged.worse)]
        there = [arm for arm in arms if arm is not None]
        if len(there) < len(arms):
            yield Recomputed(judged, None, lost=bool(judged.keys))
            continue
        what = f"attempt {attempt.number} of {attempt.paper}, claim {judged.claim}"
        yield Recomputed(judged, _estimate(judged, there, attempt.seeds[: judged.seeds], what))


def _estimate(judged: Judged, arms: list[ArmResults], seeds: tuple[int, ...], what: str) -> Estimate:
    tables = []
    for arm in arms:
        missing = [
            seed for seed in seeds if seed not in arm.runs or judged.metric not in arm.runs[seed].metrics
        ]
        if missing or judged.metric not in arm.metrics:
            raise KDError(f'{what}: {arm.key} lacks metric "{judged.metric}" or seeds {missing}')
        metric = arm.metrics[judged.metric]
        tables.append(features([arm.runs[seed] for seed in seeds], metric, what))
    units = units_of([arm.spec for arm in arms], seeds)
    return statistics.estimate(
        metric.kind,
        tables,
        [1.0, -1.0],
        higher_is_better=metric.higher_is_better,
        groups=units.groups,
        own_examples=units.own_examples,
    )


def current(data: Mapping[str, Any], lines: Lines, attempts: tuple[Attempt, ...]) -> tuple[int, str]:
    """Which attempt an experiment is, and what changed: (number, words); (0, "") where its file does not say.

    `data` is the experiment's file. Raises KDError with file and line.
    """
    found = data.get("attempt")
    if found is None and "attempt" not in data:
        return 0, ""
    if not isinstance(found, dict) or set(found) != {"number", "changed"}:
        raise KDError(str(lines.error('"attempt" is written {number: 2, changed: "..."}', "attempt")))
    if found["number"] != len(attempts) + 1 or isinstance(found["number"], bool):
        what = f"{len(attempts)} earlier attempts are recorded, so this is number {len(attempts) + 1}"
        raise KDError(str(lines.error(what, "attempt", "number")))
    if not isinstance(found["changed"], str) or not found["changed"].strip():
        raise KDError(str(lines.error('"changed" must say what changed', "attempt", "changed")))
    return found["number"], found["changed"].strip()


def _number(path: Path) -> int:
    return int(path.stem.rpartition(".")[2])


def _read(path: Path, paper: str) -> Attempt:
    data = read_json(path)
    _fields(path, "", data, _FIELDS)
    if (data["paper"], data["number"]) != (paper, _number(path)):
        raise KDError(f"{path}: holds attempt {data['number']} of {data['paper']}")
    claims = []
    for place, item in enumerate(data["claims"]):
        more = {"seeds": int} if isinstance(item, dict) and "seeds" in item else {}
        _fields(path, f"claims[{place}]: ", item, {**_CLAIM_FIELDS, **more})
        if item["keys"] and set(item["keys"]) != {item["better"], item["worse"]}:
            raise KDError(f"{path}: claims[{place}]: keys of {', '.join(item['keys'])}, not of its two arms")
        interval = item["interval"]
        claims.append(
            Judged(**{**item, "interval": None if interval is None else (interval[0], interval[1])})
        )
    counted: dict[str, int] = {}
    for judged in claims:
        counted[judged.verdict] = counted.get(judged.verdict, 0) + 1
    if claims and counted != data["verdicts"]:
        raise KDError(f"{path}: its claims have other verdicts than it counts")
    return Attempt(**{**data, "seeds": tuple(data["seeds"]), "claims": tuple(claims)})


def _fields(path: Path, where: str, data: Any, fields: Mapping[str, Any]) -> None:
    if not isinstance(data, dict):
        raise KDError(f"{path}: {where}must be an object")
    for name in data:
        if name not in fields:
            raise KDError(f'{path}: {where}unknown field "{name}"{nearest(name, fields)}')
    for name, kind in fields.items():
        if name not in data:
            raise KDError(f'{path}: {where}"{name}" is missing')
        if not isinstance(data[name], kind) or isinstance(data[name], bool):
            raise KDError(f'{path}: {where}"{name}" is of the wrong kind')
