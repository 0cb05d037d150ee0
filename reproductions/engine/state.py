"""The state folder of a reproduction: one small file per finished run, so that nothing is ever computed twice.

$KD_CACHE/runs/<paper>/<scale>-<config hash>/
    <arm>-seed<k>.json   a finished run              setup.json     what the runs were made with
    failed/              tracebacks                  sessions.json  when somebody worked on it
    logs/                what workers printed        lock           held while somebody does
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json, write_atomic

SCHEMA = 1
_FIXED = ("data_revision", "device_type", "python", "torch", "transformers", "trl", "datasets")


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class State:
    """Reads and writes one state folder. `root` is the cache's root."""

    def __init__(self, root: Path, paper: str, scale: str, config_hash: str) -> None:
        self.folder = root / "runs" / paper / f"{scale}-{config_hash}"
        self.identity = {"schema": SCHEMA, "paper": paper, "scale": scale, "config_hash": config_hash}

    def run_path(self, arm: str, seed: int) -> Path:
        """Where a finished run is recorded."""
        return self.folder / f"{arm}-seed{seed}.json"

    def failure_path(self, arm: str, seed: int) -> Path:
        """Where the traceback of a failed run is written."""
        return self.folder / "failed" / f"{arm}-seed{seed}.txt"

    def write_run(self, record: Mapping[str, Any], started: str) -> None:
        """Records a finished run, whole or not at all."""
        path = self.run_path(record["arm"], record["seed"])
        write_atomic(
            path,
            json.dumps({**self.identity, "started": started, "finished": now(), "record": record}) + "\n",
        )
        self.failure_path(record["arm"], record["seed"]).unlink(missing_ok=True)

    def read_run(self, arm: str, seed: int) -> dict[str, Any] | None:
        """A finished run, or None. A file that is not whole is set aside, and the run is made again."""
        path = self.run_path(arm, seed)
        if not path.exists():
            return None
        try:
            saved = read_json(path)
            whole = all(saved[name] == value for name, value in self.identity.items())
            whole &= saved["record"]["arm"] == arm and saved["record"]["seed"] == seed
            whole &= {"metrics", "examples", "curve", "seconds", "tokens"} <= set(saved["record"])
        except (KDError, KeyError, TypeError):
            whole = False
        if not whole:
            path.replace(path.with_suffix(".broken"))
            return None
        return saved

    def forget(self) -> None:
        """Removes every recorded run: the next reproduction starts from nothing."""
        for path in [*self.folder.glob("*-seed*.json"), *self.folder.glob("*.json")]:
            path.unlink(missing_ok=True)

    def setup(self) -> dict[str, Any] | None:
        """What the recorded runs were made with: data revision, metrics, environment."""
        path = self.folder / "setup.json"
        return read_json(path) if path.exists() else None

    def check_setup(self, setup: Mapping[str, Any]) -> None:
        """Keeps the first setup; raises KDError when a later one would mix figures that do not compare."""
        recorded = self.setup()
        if recorded is None or not list(self.folder.glob("*-seed*.json")):
            write_atomic(self.folder / "setup.json", json.dumps(setup, indent=1) + "\n")
            return
        for name in _FIXED:
            then, today = _lookup(recorded, name), _lookup(setup, name)
            if then != today:
                raise KDError(
                    f"{self.folder}: its finished runs were made with {name} {then}, now it is {today}; "
                    "go back to what it was, or remove that folder to start again"
                )

    def session(self, begun: str, clock: float) -> None:
        """Notes how long this session has worked; called after each run, so that a kill loses little."""
        path = self.folder / "sessions.json"
        sessions = [entry for entry in self._sessions() if entry["started"] != begun]
        entry = {"started": begun, "finished": now(), "wall_seconds": round(time.monotonic() - clock, 1)}
        write_atomic(path, json.dumps([*sessions, entry]) + "\n")

    def wall_seconds(self) -> float:
        """Seconds worked in all sessions."""
        return round(sum(entry["wall_seconds"] for entry in self._sessions()), 1)

    def _sessions(self) -> list[dict[str, Any]]:
        path = self.folder / "sessions.json"
        return read_json(path) if path.exists() else []


def _lookup(setup: Mapping[str, Any], name: str) -> Any:
    return setup[name] if name in setup else setup.get("environment", {}).get(name)
