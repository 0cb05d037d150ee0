"""A toy testbed with a gate, its own Python beside it: runs of a tenth of a second, in worker processes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from reproductions.engine.gate.judge import GateOutcome, run_gate
from reproductions.engine.gate.spec import Gate, gate_of
from reproductions.engine.plan.code import load_code
from reproductions.engine.work.sessions.progress import SilentReporter
from reproductions.testbeds import read_testbed

from ..conftest import TOY

#: The student learns a line from labels with little noise; the gate's metric is the share of points that it hits.
GATE = """
gate:
  metric: accuracy
  seeds: 3
  baseline: {teacher: null, trainer: {name: toy-fit, noise: 1.0}}
  learning_rate: 0.02
  smallest_effect: 0.6
  checks:
    baseline-between: {low: 0.1, high: 0.99}
    same-arm-twice: {}
    must-exist:
      better: {teacher: null, trainer: {name: toy-fit, noise: 1.0}}
      worse: {teacher: null, trainer: {name: toy-fit, noise: 20.0}}
      because: its labels have less noise
    plateau: {}
  covers:
    headroom: [baseline-between, same-arm-twice, must-exist, plateau]
"""


@dataclass(frozen=True)
class Place:
    """Folders of a test: testbeds with `toy`, experiments, records, a cache."""

    root: Path

    @property
    def testbeds(self) -> Path:
        return self.root / "testbeds"

    @property
    def papers(self) -> Path:
        return self.root / "papers"

    @property
    def gates(self) -> Path:
        return self.root / "gates"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def file(self) -> Path:
        return self.testbeds / "toy.yaml"

    def change(self, old: str, new: str, file: str = "testbeds/toy.yaml") -> None:
        """Edits a file; the text must be there."""
        path = self.root / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    def bed(self) -> dict:
        return read_testbed("toy", self.testbeds)

    def gate(self) -> Gate:
        gate = gate_of("toy", self.testbeds)
        assert gate is not None
        return gate

    def run(self, reporter=None, **options) -> GateOutcome:
        places = {"root": self.gates, "papers": self.papers, "cache": self.cache}
        say = lambda line: None  # noqa: E731
        return run_gate(self.gate(), reporter=reporter or SilentReporter(), say=say, **places, **options)

    def runs(self) -> list[Path]:
        """The files of finished runs."""
        return sorted((self.cache / "runs").glob("*/seed*.json"))


def copy_place(root: Path) -> Place:
    """The toy with a gate in an empty folder, its Python in the name of the testbed too."""
    for name in ("papers", "testbeds"):
        shutil.copytree(TOY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    place = Place(root)
    shutil.copy(root / "papers" / "toy.py", place.testbeds / "toy.py")
    (place.testbeds / "line.yaml").rename(place.file)  # its Python is found by its name
    place.change("testbed: line,", "testbed: toy,", "papers/toy.yaml")
    place.file.write_text(place.file.read_text() + GATE)
    load_code(place.testbeds / "toy.py")  # the task and the metric that the testbed names
    return place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A toy that is free to be changed."""
    return copy_place(tmp_path / "toy")


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, GateOutcome]:
    """A gate that has run and is recorded, to be looked at only; copy its folders to change them."""
    place = copy_place(tmp_path_factory.mktemp("recorded") / "toy")
    return place, place.run(record=True, workers=2)
