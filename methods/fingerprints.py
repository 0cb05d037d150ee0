"""How each component behaves, in a few figures: so that a code change says which results it made stale.

A component's figures are what two steps of training with it do to a fixed toy student (`methods.behaviour`).
methods/fingerprints.json holds them for the code as it is; the fingerprint is their hash. A change that alters no
figure keeps it. One that does fails a test, and once its new figures are written (`kd check --fingerprints --write`),
every recorded run with the old fingerprint is stale, and `kd check` names it. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from methods.recipe import components_of

FILE = Path(__file__).with_name("fingerprints.json")
DIGITS = 5  # significant digits of a figure
TOLERANCE = 2e-3  # relative: another processor's arithmetic is no change of behaviour

Figures = Mapping[str, Sequence[float]]  # "slot/name" -> figures


def recorded(file: Path | None = None) -> dict[str, list[float]]:
    """The figures of every component, of the code as it is committed."""
    path = file or FILE
    return dict(_read(path, path.stat().st_mtime_ns)) if path.is_file() else {}


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, list[float]]:
    return json.loads(path.read_text(encoding="utf-8"))


def fingerprint(figures: Sequence[float]) -> str:
    """8 hex digits."""
    return hashlib.sha256(json.dumps([short(value) for value in figures]).encode()).hexdigest()[:8]


def recorded_for(method: Mapping[str, Any], file: Path | None = None) -> dict[str, str]:
    """The fingerprints of a canonical method's components."""
    known = recorded(file)
    names = [f"{slot}/{name}" for slot, name in components_of(method)]
    return {name: fingerprint(known[name]) for name in names if name in known}


def stale(made_with: Mapping[str, str], method: Mapping[str, Any], file: Path | None = None) -> list[str]:
    """The components of a method that behave otherwise now than when a run was made."""
    now = recorded_for(method, file)
    return [name for name, before in sorted(made_with.items()) if name in now and now[name] != before]


def same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two sets of figures show the same behaviour, on whatever machine."""
    size = max((abs(value) for value in [*one, *other]), default=0.0)
    return len(one) == len(other) and all(
        abs(a - b) <= TOLERANCE * size for a, b in zip(one, other, strict=True)
    )


def write(found: Figures, file: Path | None = None) -> list[str]:
    """Write the figures of the code as it is; those that show no change stay as they are. Returns what changed."""
    before = recorded(file)
    kept = {
        n: before[n] if n in before and same(before[n], f) else [short(v) for v in f]
        for n, f in found.items()
    }
    changed = [name for name in sorted(kept) if kept[name] != before.get(name)]
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(kept[name])}" for name in sorted(kept))
    (file or FILE).write_text(
        "{\n" + lines + "\n}\n", encoding="utf-8"
    )  # a line each: two changes touch two lines
    return changed


def short(value: float) -> float:
    """A figure with so many significant digits."""
    return float(f"{value:.{DIGITS}g}")
