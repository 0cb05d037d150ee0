"""A copy of one paper that was really recorded, in a folder of the test's own, where every command then looks."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reproductions.engine.show import files, gather

ROOT = Path(__file__).resolve().parents[2]
PAPER, BED = "codi", "arithmetic"
FILES = (
    f"reproductions/papers/{PAPER}.yaml",
    f"reproductions/tuning/tiny/{PAPER}.json",
    f"reproductions/testbeds/{BED}.yaml",
    f"methods/recipes/{PAPER}.yaml",
    "methods/recipes/sft.yaml",
    "reproductions/results/stale.yaml",
)


@dataclass(frozen=True)
class PassedGate:
    """A gate that passed and measured every metric of the paper: with it, claims are judged."""

    passed: bool = True
    covers: frozenset[str] = frozenset({"headroom"})
    figures: Mapping[str, Mapping[str, float]] = field(
        default_factory=lambda: {
            "exact_match": {"baseline": 47.0, "teacher": 98.0},
            "decoding_steps": {"baseline": 10.0, "teacher": 3.0},
            "right_per_step": {"baseline": 9.8, "teacher": 15.7},
        }
    )


def copy_of_a_paper(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Experiment, recipe, testbed, sweep and results of `codi`; no verdict and no page of it is written yet.

    Its testbed has a gate that passed; no earlier attempt is known.
    """
    recorded = (path.relative_to(ROOT) for path in (ROOT / "reproductions" / "results" / BED).iterdir())
    for path in (*map(Path, FILES), *recorded):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    for name in ("papers", "results", "tuning", "testbeds"):
        monkeypatch.setattr(gather, name.upper(), folder / "reproductions" / name)
    monkeypatch.setattr(gather, "ATTEMPTS", folder / "reproductions" / "attempts")
    monkeypatch.setattr(gather, "GATES", folder / "reproductions" / "gates")
    monkeypatch.setattr(gather, "gate_on", lambda testbed: PassedGate())
    monkeypatch.setattr(gather, "RECIPES", folder / "methods" / "recipes")
    monkeypatch.setattr(gather, "ROOT", folder)
    monkeypatch.setattr(files, "FOLDER", folder / "reproductions" / "verdicts")
    return folder
