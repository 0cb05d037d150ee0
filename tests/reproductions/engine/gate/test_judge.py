"""A gate run, recorded and recomputed, with real worker processes on a toy: nothing lost, nothing made twice."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.gate.judge import problems
from reproductions.engine.gate.record import gate_path, read_gate
from reproductions.engine.gate.sweep import SEEDS, chosen, sweep
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.pair import add_runs, read_arm
from reproductions.testbeds import metrics_of

from ..conftest import Events
from .conftest import Place, copy_place

RUNS = 6 + 3 * 2  # baseline twice, worse, doubled; the better arm is the baseline
COMMAND = (
    "import sys; from pathlib import Path; from tests.reproductions.engine.gate.conftest import Place; "
    "from reproductions.engine.plan.code import load_code; place = Place(Path(sys.argv[1])); "
    "load_code(place.testbeds / 'toy.py'); sys.exit(place.run(workers=2, record=True).exit_code)"
)


@pytest.fixture
def copied(recorded, tmp_path) -> Place:
    """The recorded gate in folders that a test may change."""
    shutil.copytree(recorded[0].root, tmp_path / "toy")
    return Place(tmp_path / "toy")


def test_a_gate_runs_its_arms_and_says_what_came_out(recorded):
    place, outcome = recorded
    assert outcome.exit_code == 0 and outcome.record.passed, outcome.message
    assert outcome.record.covers == {"headroom"}
    assert [check.name for check in outcome.record.checks] == [
        *("baseline-between", "same-arm-twice", "must-exist", "plateau")
    ]
    assert outcome.record.seeds == (1000, 1001, 1002)
    assert outcome.record.arms["baseline"]["seeds"] == [1000, 1001, 1002, 1003, 1004, 1005]
    assert len(place.runs()) == RUNS
    assert outcome.recorded is None and set(outcome.agrees.values()) == {None}


def test_every_metric_is_in_the_figures_as_the_mean_over_the_first_seeds(recorded):
    place, outcome = recorded
    key = outcome.record.arms["baseline"]["key"]
    runs = read_arm(place.gates / "toy" / f"{key}.json").runs
    assert {"error", "accuracy", "ece"} <= set(outcome.record.figures) == set(metrics_of(place.bed()))
    for metric, figures in outcome.record.figures.items():
        assert set(figures) == {"baseline"}  # the toy has no teacher
        mean = sum(runs[seed].metrics[metric] for seed in (1000, 1001, 1002)) / 3
        assert figures["baseline"] == pytest.approx(mean, rel=1e-5)


def test_the_record_is_read_back_and_follows_from_its_raw_figures(recorded):
    place, outcome = recorded
    assert read_gate("toy", place.gates) == outcome.record
    assert problems(place.gate(), place.gates) == []


def test_a_second_run_makes_nothing_and_agrees(copied):
    events, before = Events(), gate_path("toy", copied.gates).read_text()
    outcome = copied.run(events)
    assert events.heard == [] and outcome.exit_code == 0
    assert set(outcome.agrees.values()) == {True}
    assert gate_path("toy", copied.gates).read_text() == before
    shutil.rmtree(copied.cache)
    again = copied.run(events, record=True)  # what is recorded is not made again, on whatever machine
    assert events.heard == [] and again.record == outcome.record


def test_a_check_that_comes_out_otherwise_than_recorded_is_exit_code_1(copied, monkeypatch):
    from reproductions.engine.gate.checks.noise import Plateau

    decide = Plateau.decide
    monkeypatch.setattr(
        Plateau, "decide", lambda self, measured: replace(decide(self, measured), passed=False)
    )
    outcome = copied.run()
    assert outcome.exit_code == 1 and "not as recorded: plateau" in outcome.message
    assert outcome.agrees["plateau"] is False and outcome.as_dict()["passed"] is False
    gate_path("toy", copied.gates).unlink()
    assert copied.run().exit_code == 1, "a gate that fails is no success where none is recorded either"
    assert copied.run(record=True).exit_code == 1 and not read_gate("toy", copied.gates).passed
    assert copied.run().exit_code == 0, "it fails as recorded"


def test_runs_that_are_added_have_files_of_their_own_and_strays_are_named(copied):
    folder = copied.gates / "toy"
    path = folder / f"{read_gate('toy', copied.gates).arms['baseline']['key']}.json"
    before, arm = path.read_bytes(), read_arm(path)
    run = replace(arm.runs[1000], seed=2000)
    add_runs(path, replace(arm, runs={2000: replace(run, digest=digest_of(run))}))
    assert path.read_bytes() == before and 2000 in read_arm(path).runs
    assert problems(copied.gate(), copied.gates) == []
    (path.with_suffix("") / "2.parquet").touch()
    assert problems(copied.gate(), copied.gates) == [
        f"{path.with_suffix('')}/2.parquet: has no JSON beside it"
    ]
    shutil.move(path.with_suffix(""), folder / "0123456789abcdef")
    told = " ".join(problems(copied.gate(), copied.gates))
    assert f"{folder}/0123456789abcdef: the record of the gate names no such arm" in told


@pytest.mark.parametrize("what", ["checks", "figures", "smallest_effect", "covered"])
def test_a_record_that_does_not_follow_from_the_raw_figures_is_found(copied, what):
    from reproductions.engine.gate.record import write_record

    record = read_gate("toy", copied.gates)
    changed = {
        "checks": {"checks": (replace(record.checks[0], passed=False), *record.checks[1:])},
        "figures": {"figures": {**record.figures, "accuracy": {"baseline": 1.0}}},
        "smallest_effect": {"smallest_effect": 7.0},
        "covered": {"properties": {**record.properties, "long-answers": ("plateau",)}},
    }[what]
    write_record(replace(record, **changed), copied.gates)
    name = "properties" if what == "covered" else what
    assert problems(copied.gate(), copied.gates) == [
        f"{gate_path('toy', copied.gates)}: {name} does not follow from the raw figures"
    ]


def test_raw_figures_that_nobody_names_or_that_are_gone_are_found(copied):
    (copied.gates / "toy" / "0123456789abcdef.json").write_text("{}")
    assert "the record of the gate names no such arm" in " ".join(problems(copied.gate(), copied.gates))
    for path in (copied.gates / "toy").iterdir():
        path.unlink()
    (found,) = problems(copied.gate(), copied.gates)
    assert "not all runs of baseline are there" in found


def test_a_changed_gate_is_outdated_until_recorded_again_and_the_old_outcome_stays_listed(copied):
    first = read_gate("toy", copied.gates)
    copied.change("low: 0.1", "low: 0.97")
    assert read_gate("toy", copied.gates).status == "outdated"
    outcome = copied.run(record=True)
    found = read_gate("toy", copied.gates)
    assert found == outcome.record and found.status == "failed" and found.failing == ("baseline-between",)
    (earlier,) = found.earlier
    assert earlier["passed"] and earlier["date"] == first.date and len(earlier["checks"]) == 4
    assert problems(copied.gate(), copied.gates) == []
    again = copied.run(record=True)
    assert again.record == found  # nothing grows by recording the same again


def test_no_gate_is_run_that_a_paper_judges(place):
    place.change("better: baseline, worse: method}", "better: baseline, worse: ablation}", "papers/toy.yaml")
    with pytest.raises(KDError, match="never judged there"):
        place.run()
    assert not place.runs()


def test_a_run_that_fails_is_exit_code_2_and_nothing_is_recorded(place, monkeypatch):
    monkeypatch.setenv("TOY_FAULTS", "raise ablation 1004")  # noise 1: the gate's baseline
    outcome = place.run(record=True, workers=2)
    assert outcome.exit_code == 2 and "1 of 12 runs failed" in outcome.message
    assert len(outcome.failures) == 1 and read_gate("toy", place.gates) is None
    monkeypatch.delenv("TOY_FAULTS")
    events = Events()
    assert place.run(events, record=True).exit_code == 0
    assert events.of("finished") == [("baseline", 1004)]


def test_killed_and_resumed_it_makes_nothing_twice_and_comes_to_the_same(recorded, place):
    environment = {**os.environ, "TOY_SECONDS_A_STEP": "0.005"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(place.root)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 300
    while len(place.runs()) < 3 and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.read_bytes() for path in place.runs()}
    assert 3 <= len(kept) < RUNS and read_gate("toy", place.gates) is None
    events = Events()
    outcome = place.run(events, record=True, workers=2)
    made = len(events.of("finished"))
    assert made <= RUNS - len(kept) and {path: path.read_bytes() for path in kept} == kept
    first = recorded[1].record
    assert replace(outcome.record, date=first.date, commit=first.commit) == first


def test_the_rate_is_swept_on_validation_and_must_lie_inside(place):
    place.change("learning_rate: 0.02", "learning_rate: [0.0001, 0.02, 3.0]")
    gate, said = place.gate(), []
    found = sweep(gate, place.cache, 2, said.append)
    assert found["best"] == 0.02 and found["seeds"] == list(SEEDS) and set(SEEDS).isdisjoint(gate.seeds)
    assert len(said) == 1 + 9
    assert sweep(gate, place.cache, 2, said.append) == found and len(said) == 1 + 9  # kept
    (file,) = (place.cache / "gates").iterdir()
    figures = json.loads(file.read_text())
    del figures["0.02"]["901"]  # interrupted there
    file.write_text(json.dumps(figures))
    assert sweep(gate, place.cache, 1, said.append) == found and len(said) == 1 + 9 + 2


def test_a_rate_on_the_edge_is_refused_with_the_line_to_edit(place):
    place.change("learning_rate: 0.02", "learning_rate: [0.01, 0.02, 0.04]")
    figures = {
        rate: dict.fromkeys(map(str, SEEDS), value)
        for rate, value in (("0.01", 1), ("0.02", 2), ("0.04", 2.1))
    }
    line = 1 + place.file.read_text().splitlines().index("  learning_rate: [0.01, 0.02, 0.04]")
    with pytest.raises(
        KDError, match=rf"toy\.yaml:{line}: the best rate, 0\.04, lies on the edge .*0\.02 2, 0\.04 2\.1"
    ):
        chosen(place.gate(), figures)
    figures["0.02"]["902"] = 2.5  # the mean decides, not one seed
    assert chosen(place.gate(), figures)["best"] == 0.02


def test_a_swept_gate_records_its_sweep(tmp_path):
    place = copy_place(tmp_path / "toy")
    place.change("learning_rate: 0.02", "learning_rate: [0.0001, 0.02, 3.0]")
    outcome = place.run(record=True, workers=2)
    assert outcome.record.learning_rate == 0.02 and outcome.record.swept["best"] == 0.02
    shutil.rmtree(place.cache)
    events = Events()
    assert place.run(events, record=True).record == outcome.record  # neither swept nor run again
    assert events.heard == []
