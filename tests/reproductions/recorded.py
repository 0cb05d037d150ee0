"""A copy of one paper that was really recorded, in a folder of the test's own, where every command then looks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from methods.recipe import teachers_of
from reproductions.engine.files import write_atomic
from reproductions.engine.plan.spec import SPEC_VERSION, key_of
from reproductions.engine.show import files, gather

ROOT = Path(__file__).resolve().parents[2]
PAPER, BED = "codi", "arithmetic"
ATTEMPT = ROOT / "reproductions" / "attempts" / f"{PAPER}.1.json"
FILES = (
    f"reproductions/papers/{PAPER}.yaml",
    f"reproductions/tuning/tiny/{PAPER}.json",
    f"reproductions/testbeds/{BED}.yaml",
    f"methods/recipes/{PAPER}.yaml",
    "methods/recipes/sft.yaml",
    "reproductions/results/stale.yaml",
)


def raw_figures(attempt: Path) -> list[str]:
    """The files that an attempt was judged by, relative to the repository: two an arm."""
    data = json.loads(attempt.read_text())
    keys = sorted({key for claim in data["claims"] for key in claim["keys"].values()})
    folder = f"reproductions/results/{data['testbed']}"
    return [f"{folder}/{key}.{kind}" for key in keys for kind in ("json", "parquet")]


def as_if_today(arm: Path, folder: Path) -> None:
    """An arm that was recorded when metrics belonged to a spec, under the key that its spec has without them."""
    data = json.loads(arm.read_text())
    data["spec"] = without_metrics(data["spec"])
    data["key"] = key_of(data["spec"])
    data["runs"] = ",\n".join(json.dumps(run, separators=(",", ":")) for run in data["runs"])
    runs = data.pop("runs")
    head = json.dumps(data, indent=1).removesuffix("\n}")
    write_atomic(folder / f"{data['key']}.json", f'{head},\n "runs": [\n{runs}\n ]\n}}\n')
    shutil.copy(arm.with_suffix(".parquet"), folder / f"{data['key']}.parquet")


def without_metrics(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec of version 2 as version 3 has it; one of today as it is."""
    if spec["version"] == SPEC_VERSION:
        return dict(spec)
    bed = {name: value for name, value in spec["testbed"].items() if name != "metrics"}
    bed["decoding"] = {k: v for k, v in bed["decoding"].items() if k not in ("batch", "samples")}
    asked = teachers_of(spec["method"])
    bed["teachers"] = {name: tree for name, tree in bed["teachers"].items() if name in asked}
    kept = {name: value for name, value in spec.items() if name != "curve"}
    return {**kept, "version": SPEC_VERSION, "testbed": bed}


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
    for path in map(Path, FILES):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    for name in raw_figures(ATTEMPT)[::2]:  # not what was recorded since, if anything was
        as_if_today(ROOT / name, folder / "reproductions" / "results" / BED)
    for name in ("papers", "results", "tuning", "testbeds"):
        monkeypatch.setattr(gather, name.upper(), folder / "reproductions" / name)
    monkeypatch.setattr(gather, "ATTEMPTS", folder / "reproductions" / "attempts")
    monkeypatch.setattr(gather, "GATES", folder / "reproductions" / "gates")
    monkeypatch.setattr(gather, "gate_on", lambda testbed: PassedGate())
    monkeypatch.setattr(gather, "RECIPES", folder / "methods" / "recipes")
    monkeypatch.setattr(gather, "ROOT", folder)
    monkeypatch.setattr(files, "FOLDER", folder / "reproductions" / "verdicts")
    return folder
