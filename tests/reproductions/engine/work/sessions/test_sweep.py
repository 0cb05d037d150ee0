"""The sweep over learning rates: goes on where it stopped, and forgets what is of other arms than today's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.plan.rates import best_rate
from reproductions.engine.work.sessions import sweep

COMMAND = (
    "import sys; from pathlib import Path; from reproductions.engine.work.sessions.sweep import tune; "
    "tune('toy', arms=['baseline', 'method'], workers=2, papers_root=Path(sys.argv[1]), root=Path(sys.argv[2]))"
)
BOTH = ("baseline", "method")


@pytest.fixture
def here(toy, monkeypatch):
    """The toy paper, tuned in this process."""
    monkeypatch.setattr(sweep, "ProcessPoolExecutor", lambda workers, mp_context: ThreadPoolExecutor(1))
    monkeypatch.setenv("KD_CACHE", str(toy.cache))
    return toy


def record_of(toy):
    return toy.root / "tuning" / "tiny" / "toy.json"


def tune(toy, *arms):
    """The record, and the runs that were made for it."""
    said = []
    options = {"papers_root": toy.papers, "root": toy.root / "tuning", "say": said.append}
    record = sweep.tune("toy", arms=arms or BOTH, workers=1, **options)
    return record, [line.strip().partition(":")[0] for line in said[1:]]


def test_every_arm_has_the_same_grid_and_the_best_rate_is_read_from_the_record(here):
    record, made = tune(here)
    assert sorted(made) == sorted(f"{arm} at {rate}" for arm in BOTH for rate in ("0.01", "0.02"))
    assert record["tuning"] == {
        "seed": 100,
        "learning_rates": [0.01, 0.02],
        "metric": "error",
        "higher_is_better": False,
    }
    assert record["figures"]["method"]["0.02"] < record["figures"]["method"]["0.01"]
    assert best_rate("toy", "tiny", "method", here.root / "tuning") == 0.02
    assert not (here.cache / "runs").exists()  # a tuning seed is never judged: nothing of it among the runs


def test_a_sweep_goes_on_where_it_stopped(here):
    record, _ = tune(here)
    path = record_of(here)
    part = json.loads(path.read_text())
    del part["figures"]["method"]["0.01"]
    path.write_text(json.dumps(part))
    assert tune(here) == (record, ["method at 0.01"])
    assert tune(here) == (record, [])
    more, made = tune(here, "ablation")
    assert (
        made == ["ablation at 0.01", "ablation at 0.02"]
        and more["figures"].items() > record["figures"].items()
    )


def test_figures_of_an_arm_that_was_changed_are_forgotten_and_the_others_kept(here):
    before, _ = tune(here)
    here.change("noise: 20.0", "noise: 2.0")
    after, made = tune(here)
    assert sorted(made) == ["baseline at 0.01", "baseline at 0.02"]
    assert after["figures"]["method"] == before["figures"]["method"]
    assert after["figures"]["baseline"] != before["figures"]["baseline"]
    assert after["keys"]["baseline"] != before["keys"]["baseline"]


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ("seed: 100", "seed: 101", 4),
        ("metric: error", "metric: accuracy", 4),
        ("[0.01, 0.02]", "[0.01, 0.02, 0.04]", 2),  # a wider grid
        ("steps: 40}", "steps: 41}", 4),
    ],
)
def test_another_question_is_asked_afresh(here, old, new, made):
    tune(here)
    here.change(old, new, "testbeds/line.yaml")
    assert len(tune(here)[1]) == made


def test_one_that_fails_stops_no_other_and_is_named(here, monkeypatch):
    monkeypatch.setenv("TOY_FAULTS", "raise method 100")
    with pytest.raises(
        KDError, match=r"2 of 4 runs of the sweep failed: method at 0\.0\d: no such luck; method at"
    ):
        tune(here)
    assert list(json.loads(record_of(here).read_text())["figures"]) == ["baseline"]
    monkeypatch.delenv("TOY_FAULTS")
    assert sorted(tune(here)[1]) == ["method at 0.01", "method at 0.02"]


def test_a_seed_that_is_judged_or_no_tuning_at_all_is_refused(here):
    here.change("seed: 100", "seed: 2", "testbeds/line.yaml")
    with pytest.raises(KDError, match="the tuning seed 2 is one that the experiment judges"):
        tune(here)
    here.change(
        "  tuning: {seed: 2, learning_rates: [0.01, 0.02], metric: error}\n", "", "testbeds/line.yaml"
    )
    with pytest.raises(KDError, match='toy declares no "tuning" at scale "tiny", nor does testbed line'):
        tune(here)


def test_in_processes_interrupted_and_resumed_it_ends_with_the_same_record(toy, here, monkeypatch):
    monkeypatch.setenv("TOY_SECONDS_A_STEP", "0.02")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, here.papers, here.root / "tuning"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 300
    while not record_of(here).exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert record_of(here).exists(), process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=300)
    kept = json.loads(record_of(here).read_text())["figures"]
    monkeypatch.delenv("TOY_SECONDS_A_STEP")
    record, made = tune(here)
    assert len(made) == 4 - sum(map(len, kept.values()))
    assert all(record["figures"][arm].items() >= kept[arm].items() for arm in kept)
    record_of(here).unlink()
    assert tune(here)[0] == record
