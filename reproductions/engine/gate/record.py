"""What a gate came to: reproductions/gates/<testbed>.json, written by `kd gate TESTBED --record`; no torch here.

The record says of which testbed it was made (`identity`: a digest of task, models, defaults and gate); a testbed that
is another now has an outdated gate, which covers nothing. A record that was edited is refused: it bears a digest of
itself, and `kd check` makes it anew from the raw figures in reproductions/gates/<testbed>/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from reproductions.engine.errors import KDError
from reproductions.engine.files import digest, read_json, write_atomic
from reproductions.testbeds.spec import ROOT as TESTBEDS
from reproductions.testbeds.spec import gate_identity, read_testbed

ROOT = Path(__file__).resolve().parents[2] / "gates"
SCHEMA = 1
DIGITS = 16
HEADROOM = "headroom"  # the property that every claim needs

Status = Literal["passed", "failed", "outdated"]


@dataclass(frozen=True)
class Check:
    """A check and what came out: `measured` says it in words and figures, `figures` are those that decided it."""

    name: str
    passed: bool
    measured: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class GateRecord:
    """The outcome of a gate.

    `figures`: metric -> {"baseline": mean, "teacher": mean}, from which the default smallest effect of a claim follows
    (no "teacher" where the testbed has none). `properties`: property -> the checks that show it, as declared. `arms`:
    arm -> {"key", "seeds"}: the raw figures are in <testbed>/<key>.json beside the record. `swept`: the sweep of the
    learning rate, {} where it was written down. `earlier`: gates recorded for earlier states of the testbed, in short.
    """

    testbed: str
    metric: str
    date: str
    seeds: tuple[int, ...]
    learning_rate: float | None
    level: float
    smallest_effect: float
    figures: Mapping[str, Mapping[str, float]]
    checks: tuple[Check, ...]
    properties: Mapping[str, tuple[str, ...]]
    arms: Mapping[str, Mapping[str, Any]]
    identity: str
    swept: Mapping[str, Any] = field(default_factory=dict)
    commit: str | None = None
    earlier: tuple[Mapping[str, Any], ...] = ()
    current: bool = True  # whether the testbed is still the one that it was recorded for

    @property
    def passed(self) -> bool:
        """Whether claims may be judged on the testbed as it is now: every check of its headroom passed."""
        return HEADROOM in self.covers

    @property
    def covers(self) -> frozenset[str]:
        """The properties all of whose checks passed; none where the headroom's did not, or the testbed has changed."""
        good = {check.name for check in self.checks if check.passed}
        found = frozenset(name for name, checks in self.properties.items() if set(checks) <= good)
        return found if self.current and HEADROOM in found else frozenset()

    @property
    def failing(self) -> tuple[str, ...]:
        """The checks that did not pass."""
        return tuple(check.name for check in self.checks if not check.passed)

    @property
    def status(self) -> Status:
        """In one word."""
        return "outdated" if not self.current else "passed" if self.passed else "failed"

    @property
    def why(self) -> str:
        """In a sentence."""
        if not self.current:
            return (
                f"the gate of {self.testbed} was recorded for another {self.testbed}: {_again(self.testbed)}"
            )
        failed = f" ({', '.join(self.failing)})" if self.failing else ""
        covered = f"; it covers {', '.join(sorted(self.covers))}" if self.covers else ""
        return f"the gate of {self.testbed} {self.status}{failed}{covered}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data, without what is only known beside today's testbed."""
        found = asdict(self)
        del found["current"]
        return json.loads(json.dumps(found))


def read_gate(testbed: str | Mapping[str, Any], root: Path | None = None) -> GateRecord | None:
    """The recorded gate of a testbed, of a name or of what `read_testbed` gave; None where none is recorded.

    Look at `.passed` and `.covers`: a gate that failed, or was recorded for another state of the testbed, covers
    nothing. `root`: the folder of the records; testbeds are then those beside it. Raises KDError for a broken record.
    """
    path = gate_path(testbed if isinstance(testbed, str) else str(testbed["name"]), root)
    if not path.is_file():
        return None
    return read_record(path, identity_of(_spec(testbed, root or ROOT)))


def needs_gate(testbed: str | Mapping[str, Any], root: Path | None = None) -> str:
    """Why no claim may be judged on a testbed, in a sentence; '' where its gate passed."""
    found = read_gate(testbed, root)
    name = testbed if isinstance(testbed, str) else str(testbed["name"])
    if found is None:
        return f"no gate of {name} is recorded: {_again(name)}"
    return "" if found.passed else found.why


def identity_of(spec: Mapping[str, Any]) -> str:
    """The digest of what a gate's outcome follows from; `spec` is what `read_testbed` gave."""
    return digest(gate_identity(spec), DIGITS)


def gate_path(testbed: str, root: Path | None = None) -> Path:
    """Where the gate of a testbed is recorded."""
    return (root or ROOT) / f"{testbed}.json"


def gate_folder(testbed: str, root: Path | None = None) -> Path:
    """Where the raw figures of its runs are, arm by arm: apart from results, for they are never judged."""
    return (root or ROOT) / testbed


def write_record(record: GateRecord, root: Path | None = None) -> Path:
    """Writes the record, one check and one arm a line; returns its file."""
    path, body = gate_path(record.testbed, root), record.as_dict()
    whole = {"schema": SCHEMA, "digest": digest(body, DIGITS), **body}
    write_atomic(path, f"{{\n{_lines(whole)}\n}}\n")
    return path


def read_record(path: Path, identity: str) -> GateRecord:
    """The record in a file, beside the identity of today's testbed. Raises KDError where it was not written by us."""
    data = read_json(path)
    if not isinstance(data, dict) or data.pop("schema", None) != SCHEMA:
        raise KDError(f"{path}: not the record of a gate that this version reads (schema {SCHEMA})")
    if data.pop("digest", None) != digest(data, DIGITS):
        raise KDError(f"{path}: its content does not give its digest; records are never edited by hand")
    try:
        record = GateRecord(
            **{
                **data,
                "seeds": tuple(data["seeds"]),
                "earlier": tuple(data["earlier"]),
                "checks": tuple(Check(**item) for item in data["checks"]),
                "properties": {name: tuple(checks) for name, checks in data["properties"].items()},
            },
            current=data["identity"] == identity,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise KDError(f"{path}: not the record of a gate: {error!r}") from None
    if record.testbed != path.stem:
        raise KDError(f"{path}: is the record of {record.testbed}")
    return record


def _spec(testbed: str | Mapping[str, Any], root: Path) -> Mapping[str, Any]:
    if not isinstance(testbed, str):
        return testbed
    beside = root.parent / "testbeds"
    return read_testbed(testbed, beside if beside.is_dir() else TESTBEDS)


def _again(testbed: str) -> str:
    return f"`kd gate {testbed} --record` makes it"


def _lines(data: Mapping[str, Any]) -> str:
    """JSON with a line for each member of `checks`, `arms` and `figures`."""
    parts = []
    for name, value in data.items():
        if name in ("arms", "figures") and value:
            inside = ",\n  ".join(f"{json.dumps(key)}: {json.dumps(item)}" for key, item in value.items())
            parts.append(f" {json.dumps(name)}: {{\n  {inside}\n }}")
        elif name == "checks" and value:
            inside = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in value)
            parts.append(f" {json.dumps(name)}: [\n  {inside}\n ]")
        else:
            parts.append(f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}")
    return ",\n".join(parts)
