"""How each component behaves, as a few rounded figures: so that a code change says which results it made stale.

A component's fingerprint is the hash of what a two-step training with it does to a fixed toy student, rounded to five
digits: a change that alters no figure keeps it, one that does gives another. methods/fingerprints.json holds those of
the code as it is (`kd check --fingerprints --write`; a test holds it to the code), and every run records those it was
made with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from methods.recipe import components_of

FILE = Path(__file__).with_name("fingerprints.json")


def recorded(file: Path | None = None) -> dict[str, str]:
    """ "slot/name" -> fingerprint, of the code as it is committed."""
    path = file or FILE
    return dict(_read(path, path.stat().st_mtime_ns)) if path.is_file() else {}


@lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, str]:
    return json.loads(path.read_text(encoding="utf-8"))


def recorded_for(method: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprints of a canonical method's components, those that have one."""
    known = recorded()
    names = [f"{slot}/{name}" for slot, name in components_of(method)]
    return {name: known[name] for name in names if name in known}


def write(found: Mapping[str, str], file: Path | None = None) -> None:
    """One line a component, so that two changes touch two lines."""
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in sorted(found.items()))
    (file or FILE).write_text("{\n" + lines + "\n}\n", encoding="utf-8")
