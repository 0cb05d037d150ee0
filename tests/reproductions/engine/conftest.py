"""The toy paper in a folder of the test's own: experiments, testbeds, and a cache; worker processes make its runs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reproductions.engine.plan.plan import Plan, make_plan
from reproductions.engine.work.sessions.progress import SilentReporter
from reproductions.engine.work.sessions.session import Made, make_runs

TOY = Path(__file__).parent / "toy"
RUNS = 9  # three arms of different keys, three seeds


@dataclass(frozen=True)
class Toy:
    """Where a test's copy of the toy paper is."""

    root: Path

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def papers(self) -> Path:
        return self.root / "papers"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def plan(self, scale: str = "tiny", **options: Any) -> Plan:
        return make_plan("toy", scale, **{"papers_root": self.papers, "cache": self.cache, **options})

    def change(self, old: str, new: str, file: str = "papers/toy.yaml") -> None:
        """Edits a file; the text must be there."""
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def runs(self) -> list[Path]:
        """The files of finished runs."""
        return sorted((self.cache / "runs").glob("*/seed*.json"))

    def figures(self) -> dict[str, Any]:
        """All that finished runs measured, but times; by the name of the file: key, seed and environment."""
        found = {}
        for path in self.runs():
            record = json.loads(path.read_text())["record"]
            measured = {name: record[name] for name in ("metrics", "examples", "tokens", "rollouts")}
            found[str(path.relative_to(self.cache))] = {**measured, "shared": sorted(record["shared"])}
        return found

    def workers(self) -> list[int]:
        """Worker processes that serve this cache and still live."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes()
            except OSError:
                continue
            if b"reproductions.engine.work.sessions.worker" in words and str(self.cache).encode() in words:
                found.append(int(entry.parent.name))
        return found

    def assert_no_worker_stays(self) -> None:
        """A worker ends when its pipe closes: soon, not at once."""
        until = time.monotonic() + 60
        while self.workers():
            assert time.monotonic() < until, "workers outlived the reproduction"
            time.sleep(0.05)


class Events(SilentReporter):
    """Remembers what happened."""

    def __init__(self) -> None:
        self.heard: list[Mapping[str, Any]] = []

    def event(self, event: Mapping[str, Any]) -> None:
        self.heard.append(event)

    def of(self, kind: str) -> list[tuple[str, int]]:
        """The (arm, seed) of events of a kind."""
        return [(event["arm"], event["seed"]) for event in self.heard if event["event"] == kind]


def copy_toy(root: Path) -> Toy:
    """The toy paper in an empty folder."""
    for name in ("papers", "testbeds"):
        shutil.copytree(TOY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return Toy(root)


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    """A toy paper that is free to be changed."""
    return copy_toy(tmp_path / "toy")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, Made, Events]:
    """An uninterrupted session of two workers, to be looked at only; copy its cache to harm it."""
    toy, events = copy_toy(tmp_path_factory.mktemp("finished") / "toy"), Events()
    return toy, make_runs(toy.plan(), 2, events), events
