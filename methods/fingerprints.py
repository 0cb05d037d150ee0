"""How each component behaves, in a few figures: so that a code change says which results it made stale.

A component's figures are what a few steps of training with it do to a fixed toy student (`methods.behaviour`).
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
DIGITS = 6  # significant digits of a figure
# Relative to the largest figure of its group. The toy's arithmetic is float64: another processor, other threads, other
# kernels differ by 1e-7 (its first weights are drawn in float32); a slope that is 1 % off differs by 1e-2.
TOLERANCE = 1e-4

Figures = Sequence[Sequence[float]]  # groups of figures that are compared together


def recorded(file: Path | None = None) -> dict[str, Figures]:
    """The figures of every component, of the code as it is committed."""
    path = file or FILE
    return dict(_read(path, path.stat().st_mtime_ns)) if path.is_file() else {}


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, Figures]:
    return json.loads(path.read_text(encoding="utf-8"))


def fingerprint(figures: Figures) -> str:
    """8 hex digits."""
    return hashlib.sha256(json.dumps(_short(figures)).encode()).hexdigest()[:8]


def recorded_for(method: Mapping[str, Any], file: Path | None = None) -> dict[str, str]:
    """The fingerprints of a canonical method's components."""
    known = recorded(file)
    names = [f"{slot}/{name}" for slot, name in components_of(method)]
    return {name: fingerprint(known[name]) for name in names if name in known}


def stale(made_with: Mapping[str, str], method: Mapping[str, Any], file: Path | None = None) -> list[str]:
    """The components of a method that behave otherwise now than when a run was made, or are gone, or were not noted."""
    now = recorded_for(method, file)
    used = {f"{slot}/{name}" for slot, name in components_of(method)}
    return sorted(name for name in used if made_with.get(name) != now.get(name))


def same(one: Figures, other: Figures) -> bool:
    """Whether two components' figures show the same behaviour, on whatever machine; each group by its own size."""
    return [len(group) for group in one] == [len(group) for group in other] and all(
        _close(mine, theirs) for mine, theirs in zip(one, other, strict=True)
    )


def _close(one: Sequence[float], other: Sequence[float]) -> bool:
    size = max((abs(value) for value in (*one, *other)), default=0.0)
    return all(abs(a - b) <= TOLERANCE * size for a, b in zip(one, other, strict=True))


def differing(found: Mapping[str, Figures], file: Path | None = None) -> list[str]:
    """The components that behave otherwise than recorded, are not recorded, or are recorded and not there."""
    known = recorded(file)
    names = sorted({*found, *known})
    return [n for n in names if n not in found or n not in known or not same(known[n], found[n])]


def write(found: Mapping[str, Figures], file: Path | None = None) -> list[str]:
    """Write the figures of the code as it is; those that show no change stay as they are. Returns what changed."""
    before, changed = recorded(file), differing(found, file)
    kept = {name: _short(figures) if name in changed else before[name] for name, figures in found.items()}
    # A line each: two changes touch two lines.
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(kept[name])}" for name in sorted(kept))
    (file or FILE).write_text("{\n" + lines + "\n}\n", encoding="utf-8")
    return changed


def _short(figures: Figures) -> list[list[float]]:
    """With so many significant digits; what is nothing beside the rest of its group is nothing."""
    made = []
    for group in figures:
        size = max((abs(value) for value in group), default=0.0)
        made.append([float(f"{value:.{DIGITS}g}") if abs(value) > 1e-9 * size else 0.0 for value in group])
    return made
