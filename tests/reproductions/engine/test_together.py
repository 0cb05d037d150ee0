"""Several papers with one pool: what they share is made once and first, and one that fails stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reproductions.engine.reproduce import BAD, DIFFERS, DONE, INTERRUPTED, worst

from .conftest import copy_toy
from .test_looks import CLAIM, with_looks

ROOT = Path(__file__).resolve().parents[3]
CODE = "from tests.reproductions.engine.toy.papers.toy import *\n"


@pytest.fixture
def two(tmp_path):
    """The toy with looks, and a twin with two of its arms and a headline of its own."""
    toy = with_looks(copy_toy(tmp_path / "toy"))
    text = (toy.papers / "toy.yaml").read_text().replace("paper: toy", "paper: twin")
    text = text.replace("headline: [error, accuracy, ece]", "headline: [error, size]")
    start, end = text.index("  ablation:"), text.index("\nscales:")
    (toy.papers / "twin.yaml").write_text((text[:start] + text[end:]).replace(CLAIM, ""))
    for name in ("toy.py", "twin.py"):
        (toy.papers / name).write_text(CODE)
    return toy


def together(toy, environment=None, **options):
    done = subprocess.run(
        [sys.executable, "-m", "tests.reproductions.engine.together", str(toy.root), json.dumps(options)],
        cwd=ROOT,
        env={**os.environ, "KD_CACHE": str(toy.cache), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def codes(told):
    return {paper: outcome["exit_code"] for paper, outcome in told["outcomes"].items()}


def test_what_papers_share_is_made_once_and_first_and_recorded_as_if_alone(two):
    told = together(two, looks=1)
    assert told["same_key"] and codes(told) == {"toy": DONE, "twin": DONE}
    assert len(told["finished"]) == 15, "the twin brings no run of its own"
    started = [arm for arm, _ in told["started"]]
    assert set(started) == {"toy/baseline", "toy/method", "toy/ablation"}
    assert "toy/ablation" not in started[:5], (
        "what one worker was handed may be told after what the other was"
    )
    runs = two.figures().values()
    assert {tuple(sorted(run["metrics"])) for run in runs} == {
        ("accuracy", "ece", "error", "size"),
        ("accuracy", "ece", "error"),
    }
    alone = together(two, alone="twin", looks=1)
    assert alone["started"] == [] and alone["outcomes"]["twin"]["view"] == told["outcomes"]["twin"]["view"]
    recorded = together(two, looks=1, record=True)
    messages = {paper: outcome["message"] for paper, outcome in recorded["outcomes"].items()}
    assert messages["toy"].startswith("recorded: 15 runs added")
    assert messages["twin"].startswith("recorded: 0 runs added") and recorded["stale"] == []
    again = together(two, looks=1)
    assert {tuple(outcome["agrees"].values()) for outcome in again["outcomes"].values()} == {
        (True, True, True),
        (True, True),
    }
    two.assert_no_worker_stays()


def test_a_paper_that_fails_stops_no_other(two):
    told = together(two, {"TOY_FAULTS": "raise ablation 1"}, looks=1)
    assert codes(told) == {"toy": BAD, "twin": DONE}
    assert "1 of 15 runs failed" in told["outcomes"]["toy"]["message"]
    (failure,) = told["outcomes"]["toy"]["failures"]
    assert "no such luck" in Path(failure["file"]).read_text()
    bed = (two.root / "testbeds" / "line.yaml").read_text()
    (two.root / "testbeds" / "other.yaml").write_text(bed.replace("revision-1", "revision-9"))
    two.change("testbed: line", "testbed: other", "papers/twin.yaml")
    told = together(two, looks=1)
    assert codes(told) == {"toy": DONE, "twin": BAD} and len(told["finished"]) == 1
    assert "other: its data have the revision revision-1" in told["outcomes"]["twin"]["message"]


def test_the_worst_code_is_that_of_all():
    assert worst([0, 1, 2]) == BAD and worst([0, 1]) == DIFFERS and worst([]) == DONE
    assert worst([2, INTERRUPTED, 1]) == INTERRUPTED
