"""Runs that several papers have in common, made once: a baseline of `reproductions.arms` with the same settings.

Only an arm that is a function of that module, or a `functools.partial` of one with plain keywords, can be shared: what
it computes is known from its name, its keywords and the settings it reads. Results name the paper a run was made for.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Experiment
from reproductions.engine.files import canonical_json, digest, read_json, write_atomic

MODULE = "reproductions.arms"
# What those functions and the engine read of a scale's settings; another key makes no difference to them.
READ = (
    "training", "sft_start", "labelling", "precision", "curve_points", "curve_examples", "test_examples", "download",
    "plain_text", "lora",
)  # fmt: skip
MADE_WITH = ("torch", "transformers", "trl", "datasets", "device", "threads", "cpu")


def shared_key(
    experiment: Experiment, scale: str, arm: str, seed: int, setup: Mapping[str, Any]
) -> str | None:
    """A name for what a run computes, the same in every paper that has it; None where that is not known."""
    train = experiment.arm(arm).train
    keywords: dict[str, Any] = {}
    if isinstance(train, functools.partial):
        if train.args:
            return None
        keywords = dict(train.keywords)
        train = train.func
    if getattr(train, "__module__", None) != MODULE:
        return None
    settings = experiment.scale(scale).settings
    what = {
        "function": train.__qualname__,
        "keywords": keywords,
        "settings": {name: settings[name] for name in READ if name in settings},
        "own": settings.get("arms", {}).get(arm, {}),
        "testbed": experiment.scale(scale).testbed,
        "version": [importlib.import_module(MODULE).VERSION, experiment.method_version],
        "seed": seed,
        "data": setup["data_revision"],
        "metrics": setup["metrics"],
        "environment": {name: setup["environment"].get(name) for name in MADE_WITH},
    }
    try:
        return digest(json.loads(canonical_json(what)), 16)
    except KDError:  # a keyword that is not plain data
        return None


def find(root: Path, key: str | None) -> dict[str, Any] | None:
    """A run that another paper made, or None."""
    path = _path(root, key)
    if path is None or not path.is_file():
        return None
    try:
        saved = read_json(path)
        return dict(saved["record"]) | {"made_for": saved["paper"]}
    except (KDError, KeyError, TypeError):
        return None


def keep(root: Path, key: str | None, paper: str, record: Mapping[str, Any]) -> None:
    """Leave a finished run where other papers find it."""
    path = _path(root, key)
    if path is not None and not path.exists():
        write_atomic(path, json.dumps({"paper": paper, "record": record}) + "\n")


def _path(root: Path, key: str | None) -> Path | None:
    return None if key is None else root / "runs" / "shared" / f"{key}.json"
