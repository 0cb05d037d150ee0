"""The sweep over learning rates: shared by arms, goes on where it stopped, grows where an optimum lies on an edge."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from methods.errors import Broken, NotYet
from reproductions.engine.errors import KDError
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.plan.rates import Tuning, arm_tuning_path, best_rate, rate_name, sweep_of
from reproductions.engine.plan.spec import UnsweptError, read_testbed_of, specs_at, sweep_keys
from reproductions.engine.show import gather
from reproductions.engine.work.sessions import sweep
from reproductions.engine.work.sessions.worker import Job, is_broken, validated
from tools.checks import results

COMMAND = (
    "import sys; from pathlib import Path; from reproductions.engine.work.sessions.sweep import tune; "
    "tune('toy', arms=['baseline', 'method'], workers=2, papers_root=Path(sys.argv[1]), root=Path(sys.argv[2]))"
)
BOTH = ("baseline", "method")


def at_once(trials, workers):
    """Each trial in this process."""
    for trial in trials:
        job = Job(cache=os.environ["KD_CACHE"], device="cpu", threads=1, number=0)
        try:
            metrics, _ = validated(job, trial.work, trial.seed, lambda event: None)
        except RuntimeError as error:
            yield trial, None, str(error)
        else:
            yield trial, metrics["error"], ""


@pytest.fixture
def here(toy, monkeypatch):
    """The toy paper with a sweep of two seeds."""
    monkeypatch.setenv("KD_CACHE", str(toy.cache))
    toy.change("seed: 100", "seeds: [100, 101]", "testbeds/line.yaml")
    return toy


def tune(toy, *arms, measure=at_once):
    """The record, and the trials that were made for it."""
    said = []
    options = {"papers_root": toy.papers, "root": toy.root / "tuning", "say": said.append}
    record = sweep.tune("toy", arms=arms or BOTH, measure=measure, **options)
    return record, [line.strip().partition(":")[0] for line in said if line.startswith("  ")]


def files(toy):
    return sorted((toy.root / "tuning" / "line").glob("*.json"))


def key_of_sweep(toy, arm):
    experiment = load_experiment("toy", toy.papers)
    return sweep_keys(experiment, "tiny", read_testbed_of(experiment, experiment.scale("tiny")))[arm]


def test_every_arm_has_the_same_grid_and_seeds_and_the_mean_decides(here):
    record, made = tune(here)
    assert sorted(made) == sorted(
        f"{arm} at {rate} seed {seed}" for arm in BOTH for rate in ("0.01", "0.02") for seed in (100, 101)
    )
    assert record["tuning"] == {
        "seeds": [100, 101],
        "learning_rates": [0.01, 0.02],
        "metric": "error",
        "higher_is_better": False,
    }
    by_seed, means = record["by_seed"]["method"], record["figures"]["method"]
    assert means["0.02"] == pytest.approx(sum(by_seed["0.02"].values()) / 2) and len(by_seed["0.02"]) == 2
    assert means["0.02"] < means["0.01"] and record["best"]["method"] == 0.02
    assert len(files(here)) == 2 and not (here.cache / "runs").exists(), "a tuning seed is never judged"
    assert record["edges"] == ["baseline", "method"] or "method" in record["edges"]


def test_a_swept_rate_comes_from_the_record_and_a_missing_one_is_said(here, monkeypatch):
    here.change("learning_rate: 0.02, minutes", "learning_rate: swept, minutes")
    waits = here.plan()
    assert re.match(r"toy at scale tiny: 16 runs of its sweep are not recorded .*kd tune toy", waits.unswept)
    assert {spec["training"]["learning_rate"] for spec in waits.specs.values()} == {"swept"}
    with pytest.raises(UnsweptError, match="16 runs of its sweep are not recorded"):
        specs_at(waits.experiment, "tiny")
    monkeypatch.setattr("reproductions.engine.plan.rates.ROOT", here.root / "tuning")
    record, made = tune(here, "baseline", "method", "ablation", "again")
    assert len(made) == 12 and len(files(here)) == 3, "arms of one key are swept once"
    specs = here.plan().specs
    assert not here.plan().unswept
    assert {arm: specs[arm]["training"]["learning_rate"] for arm in specs} == record["best"]


def test_a_sweep_goes_on_where_it_stopped(here):
    record, _ = tune(here)
    path = arm_tuning_path("line", key_of_sweep(here, "method"), here.root / "tuning")
    part = json.loads(path.read_text())
    del part["metrics"]["error"]["figures"]["0.01"]["101"]
    path.write_text(json.dumps(part))
    assert tune(here) == (record, ["method at 0.01 seed 101"])
    assert tune(here) == (record, [])
    more, made = tune(here, "ablation")
    assert len(made) == 4 and len(files(here)) == 3 and set(more["figures"]) == {"ablation"}


def test_a_changed_arm_is_another_and_the_others_figures_are_kept(here):
    before, _ = tune(here)
    here.change("noise: 20.0", "noise: 2.0")
    after, made = tune(here)
    assert len(made) == 4 and all(name.startswith("baseline") for name in made)
    assert after["figures"]["method"] == before["figures"]["method"] and len(files(here)) == 3


@pytest.mark.parametrize(
    ("old", "new", "made"),
    [
        ("[100, 101]", "[100, 102]", 4),
        ("metric: error", "metric: size", 8),
        ("[0.01, 0.02]", "[0.01, 0.02, 0.04]", 4),
        ("steps: 40}", "steps: 41}", 8),
    ],
)
def test_another_question_asks_for_what_is_missing(here, old, new, made):
    tune(here)
    here.change(old, new, "testbeds/line.yaml")
    said = lambda trials, workers: [(trial, 1.0, "") for trial in trials]  # noqa: E731
    assert len(tune(here, measure=said)[1]) == made


def bowl(best):
    """Figures with an optimum at a rate, for every trial."""

    def measure(trials, workers):
        for trial in trials:
            at = best[trial.arm]
            yield trial, abs(trial.rate - at) + 0.001 * (trial.seed - 100), ""

    return measure


def test_the_grid_grows_for_all_arms_until_every_optimum_lies_inside(here):
    here.change("metric: error", "metric: error, widen: 3", "testbeds/line.yaml")
    record, made = tune(here, measure=bowl({"baseline": 0.005, "method": 0.02}))
    assert record["tuning"]["learning_rates"] == [0.0025, 0.005, 0.01, 0.02, 0.04]
    assert record["best"] == {"baseline": 0.005, "method": 0.02} and record["edges"] == []
    assert len(made) == 2 * 2 * 5, "equal effort"


def test_a_grid_that_may_not_grow_names_the_edge_and_check_does(here, monkeypatch):
    here.change("metric: error", "metric: error, widen: 1", "testbeds/line.yaml")
    here.change("learning_rate: 0.02, minutes", "learning_rate: swept, minutes")
    every = ("baseline", "method", "ablation", "again")
    at = dict.fromkeys(every, 0.02) | {"baseline": 1.0}
    record, _ = tune(here, *every, measure=bowl(at))
    assert record["tuning"]["learning_rates"] == [0.01, 0.02, 0.04] and record["edges"] == ["baseline"]
    monkeypatch.setattr(gather, "TUNING", here.root / "tuning")
    ((_, what),) = results.edges(load_experiment("toy", here.papers), "tiny")
    assert (
        what == "at scale tiny the best rate of baseline is the last of the grid 0.01, 0.02, 0.04: widen it"
    )


def test_figures_that_another_paper_brought_widen_no_grid():
    """A shared arm that was swept more widely elsewhere has no better chance here."""
    figures = {
        "a": {rate_name(r): {"1": -abs(r - 0.08)} for r in (0.01, 0.02, 0.04, 0.08)},
        "b": {rate_name(r): {"1": -abs(r - 0.02)} for r in (0.01, 0.02, 0.04)},
    }
    narrow = sweep_of(Tuning((1,), (0.01, 0.02, 0.04), "m", 0, True), figures, True)
    assert narrow.best == {"a": 0.04, "b": 0.02} and narrow.edges == ("a",)
    wide = sweep_of(Tuning((1,), (0.01, 0.02, 0.04), "m", 1, True), figures, True)
    assert wide.missing == {"b": ((0.08, 1),)} and wide.grid == (0.01, 0.02, 0.04, 0.08)


def test_an_arm_that_no_rate_moves_lies_on_no_edge():
    """A teacher that is measured as it is says the same at every rate; one that moves is on the edge beside it."""
    rates = ("0.01", "0.02", "0.04")
    figures = {
        "teacher": {rate: {"1": 50.0} for rate in rates},
        "a": dict(zip(rates, ({"1": n} for n in (3, 2, 1)), strict=True)),
    }
    found = sweep_of(Tuning((1,), (0.01, 0.02, 0.04), "m", 0, True), figures, True)
    assert found.edges == ("a",) and found.best == {"teacher": 0.01, "a": 0.01}


@pytest.mark.parametrize(("flat", "edge"), [(0.0, True), (0.4, True), (0.6, False)])
def test_an_edge_that_an_inner_rate_comes_close_to_is_none(flat, edge):
    """The grid grows for what is better than `flat` alone; the best rate stays the best one."""
    figures = {"a": {rate_name(r): {"1": v} for r, v in ((0.01, 50.0), (0.02, 49.5), (0.04, 40.0))}}
    narrow = sweep_of(Tuning((1,), (0.01, 0.02, 0.04), "m", 0, True, flat), figures, True)
    assert narrow.best == {"a": 0.01} and narrow.edges == (("a",) if edge else ())
    wide = sweep_of(Tuning((1,), (0.01, 0.02, 0.04), "m", 1, True, flat), figures, True)
    assert wide.missing == ({"a": ((0.005, 1),)} if edge else {})


def test_two_edges_that_are_alike_say_nothing_of_what_lies_between():
    """A valley: no inner rate is as good, so the grid grows."""
    figures = {"a": {rate_name(r): {"1": v} for r, v in ((0.01, 50.0), (0.02, 40.0), (0.04, 49.9))}}
    assert sweep_of(Tuning((1,), (0.01, 0.02, 0.04), "m", 0, True, 0.6), figures, True).edges == ("a",)


def swept(curves, cliff, widen=0):
    """The sweep of arms whose figure at the n-th rate of a doubling grid is the curve's, run as far as it asks."""
    grid = tuple(0.01 * 2**n for n in range(6))
    figures = {arm: {} for arm in curves}
    while (found := sweep_of(Tuning((1, 2), grid, "m", widen, True, 0.5, cliff), figures, True)).missing:
        for arm, runs in found.missing.items():
            for rate, seed in runs:
                assert str(seed) not in figures[arm].get(rate_name(rate), {}), "nothing is asked twice"
                figures[arm].setdefault(rate_name(rate), {})[str(seed)] = curves[arm](
                    round(math.log2(rate / 0.01))
                )
    return found, {arm: sorted(map(float, rates)) for arm, rates in figures.items()}


@pytest.mark.parametrize("breaks", range(7))
@pytest.mark.parametrize("top", range(-1, 7))
def test_beyond_a_rate_at_which_training_broke_down_none_is_run(top, breaks):
    """A hill that falls off a cliff: the best rate is that of the whole grid, whatever its side is spared."""
    curves = {
        "a": lambda n: 0.0 if n >= breaks else 60 - 3 * (n - top) ** 2 / 4,
        "b": lambda n: 50 - abs(n - 2),
    }
    whole, every = swept(curves, 0.0)
    found, runs = swept(curves, 25)
    assert found.best == whole.best and found.edges == whole.edges
    assert len(every["a"]) == 6 and set(runs["a"]) <= set(every["a"]) and runs["b"] == every["b"]
    if 3 <= breaks < 5:
        assert runs["a"] == every["a"][: breaks + 1], "of what broke down the first is run alone"


def test_a_grid_that_grows_for_one_arm_grows_for_no_arm_that_broke_down_before():
    curves = {"grows": lambda n: 40.0 + n, "breaks": lambda n: 0.0 if n >= 4 else 40.0 - n}
    found, runs = swept(curves, 15, widen=1)
    assert found.grid[-1] == 0.64 and max(runs["grows"]) == 0.64 and max(runs["breaks"]) == 0.16


FLOOR = Tuning((1, 2), (0.01, 0.02, 0.04), "m", 0, True, 0.5, 0.0, True)


def test_an_arm_below_its_start_is_given_lower_rates_until_it_is_not():
    """It breaks at every rate of the grid; at a sixteenth of the lowest it leaves its start as it is."""
    curves = {"a": lambda rate: 35.0 if rate < 0.001 else 5.0, "b": lambda rate: 40.0 + 100 * min(rate, 0.02)}
    starts = {"a": {"1": 35.2, "2": 35.2}, "b": {"1": 35.2, "2": 35.2}}
    figures = {"a": {}, "b": {}}
    while (found := sweep_of(FLOOR, figures, True, starts)).missing:
        for arm, runs in found.missing.items():
            for rate, seed in runs:
                figures[arm].setdefault(rate_name(rate), {})[str(seed)] = curves[arm](rate)
    assert found.grid == (0.000625, 0.0025, 0.01, 0.02, 0.04) and found.best["a"] == 0.000625
    assert list(figures["b"]) == ["0.01", "0.02", "0.04"], "an arm that learns is not run there"
    assert sweep_of(replace(FLOOR, floor=False), figures, True, starts).grid == (0.01, 0.02, 0.04)


def test_within_flat_of_its_start_an_arm_is_not_below_it_and_the_least_rate_ends_the_search():
    at = lambda value: {rate_name(r): {"1": value, "2": value} for r in (0.01, 0.02, 0.04)}  # noqa: E731
    near = sweep_of(FLOOR, {"a": at(34.8)}, True, {"a": {"1": 35.2, "2": 35.2}})
    assert not near.missing and near.grid == (0.01, 0.02, 0.04)
    figures, start = {"a": at(5.0)}, {"a": {"1": 35.2, "2": 35.2}}
    while (found := sweep_of(FLOOR, figures, True, start)).missing:
        figures["a"] |= {rate_name(rate): {"1": 5.0, "2": 5.0} for rate, _ in found.missing["a"]}
    assert 1e-9 <= found.grid[0] < 4e-9


def test_a_start_is_asked_for_first_and_less_is_worse_where_less_is_better():
    figures = {"a": {rate_name(r): {"1": 3.0, "2": 3.0} for r in (0.01, 0.02, 0.04)}}
    asked = sweep_of(FLOOR, figures, False, {"a": {"1": 1.0}})
    assert asked.starts == {"a": (2,)} and not asked.best and not asked.missing
    assert sweep_of(FLOOR, figures, False, {"a": {"1": 1.0, "2": 1.0}}).missing == {
        "a": ((0.0025, 1), (0.0025, 2))
    }
    assert not sweep_of(FLOOR, figures, True, {"a": {"1": 1.0, "2": 1.0}}).missing


def test_arms_of_one_start_are_measured_there_once_and_a_sweep_waits_for_it(here, monkeypatch):
    here.change("metric: error", "metric: error, floor: start", "testbeds/line.yaml")
    here.change("learning_rate: 0.02, minutes", "learning_rate: swept, minutes")
    monkeypatch.setattr("reproductions.engine.plan.rates.ROOT", here.root / "tuning")

    def said(trials, workers):
        """The start has an error of 4; training doubles it but at low rates."""
        for trial in trials:
            yield trial, 4.0 if trial.rate == 0 else 8.0 if trial.rate > 0.001 else 3.0, ""

    _, made = tune(here, "method", measure=said)
    assert made[:2] == ["start of method at 0 seed 100", "start of method at 0 seed 101"]
    assert len(files(here)) == 2 and made[2:] == [
        f"method at {rate} seed {seed}"
        for rates in (("0.01", "0.02"), ("0.0025",), ("0.000625",))
        for rate in rates
        for seed in (100, 101)
    ]
    record, made = tune(here, "method", "baseline", measure=said)
    assert not [name for name in made if name.startswith("start")] and record["best"]["method"] == 0.000625
    assert "0.0025" in record["figures"]["baseline"]
    for path in files(here):
        if json.loads(path.read_text())["spec"]["training"].get("max_steps") == 1:
            path.unlink()
    assert re.match(r"toy at scale tiny: .*the start of baseline", here.plan().unswept)


@pytest.mark.parametrize(
    ("old", "new"), [("metric: error", "metric: error, floor: 35"), ("seeds: [100, 101]", "seed: 100")]
)
def test_a_floor_that_is_no_start_or_of_one_seed_is_refused(here, old, new):
    here.change("metric: error", "metric: error, floor: start", "testbeds/line.yaml")
    here.change("metric: error, floor: start" if old == "metric: error" else old, new, "testbeds/line.yaml")
    with pytest.raises(KDError, match='"floor" of "tuning" is start'):
        tune(here)


def test_a_sweep_of_one_seed_that_was_recorded_by_paper_is_read(here):
    here.change("seeds: [100, 101]", "seed: 100", "testbeds/line.yaml")
    path = here.root / "tuning" / "tiny" / "toy.json"
    path.parent.mkdir(parents=True)
    told = {"seed": 100, "learning_rates": [0.01, 0.02], "metric": "error", "higher_is_better": False}
    figures = {arm: {"0.01": 1.0, "0.02": 2.0} for arm in BOTH}
    path.write_text(json.dumps({"paper": "toy", "scale": "tiny", "tuning": told, "figures": figures}))
    record, made = tune(here)
    assert made == [] and record["figures"] == figures
    assert best_rate("toy", "tiny", "method", here.root / "tuning") == 0.01
    del figures["method"]["0.02"]
    path.write_text(json.dumps({"paper": "toy", "scale": "tiny", "tuning": told, "figures": figures}))
    assert len(tune(here)[1]) == 4, "one that is not whole is made again, by arm"


def test_one_that_fails_stops_no_other_and_is_named(here, monkeypatch):
    monkeypatch.setenv("TOY_FAULTS", "raise method 100")
    with pytest.raises(
        KDError, match=r"2 of 8 runs of the sweep failed: method at 0\.01 seed 100: no such luck; method at"
    ):
        tune(here)
    monkeypatch.delenv("TOY_FAULTS")
    assert sorted(tune(here)[1]) == ["method at 0.01 seed 100", "method at 0.02 seed 100"]


def test_a_seed_that_is_judged_or_no_tuning_at_all_is_refused(here):
    here.change("[100, 101]", "[100, 2]", "testbeds/line.yaml")
    with pytest.raises(KDError, match="the tuning seed 2 is one that the experiment judges"):
        tune(here)
    here.change("seeds: [100, 2]", "seeds: 100", "testbeds/line.yaml")
    with pytest.raises(KDError, match='"tuning" is {seeds'):
        tune(here)
    here.change(
        "  tuning: {seeds: 100, learning_rates: [0.01, 0.02], metric: error}\n", "", "testbeds/line.yaml"
    )
    with pytest.raises(KDError, match='toy declares no "tuning" at scale "tiny", nor does testbed line'):
        tune(here)


def test_in_processes_interrupted_and_resumed_it_ends_with_the_same_record(here, monkeypatch):
    monkeypatch.setenv("TOY_SECONDS_A_STEP", "0.02")
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, here.papers, here.root / "tuning"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 300
    while not files(here) and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    assert files(here), process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=300)
    here.assert_no_worker_stays()
    kept = sum(
        len(seeds)
        for path in files(here)
        for seeds in json.loads(path.read_text())["metrics"]["error"]["figures"].values()
    )
    monkeypatch.delenv("TOY_SECONDS_A_STEP")
    record, made = tune(here)
    assert len(made) == 8 - kept < 8
    for path in files(here):
        path.unlink()
    assert tune(here)[0] == record


def test_specs_of_a_scale_without_a_swept_arm_ask_for_no_sweep(here):
    experiment = load_experiment("toy", here.papers)
    assert len(specs_at(experiment, "tiny")) == 4


def breaking_at(*rates):
    """Each trial in this process; at these rates seed 101 breaks."""

    def measure(trials, workers):
        for trial, value, why in at_once(trials, workers):
            if trial.rate in rates and trial.seed == 101:
                value, why = math.nan, "none of 3 answers is right"
            yield trial, value, why

    return measure


def test_a_rate_that_breaks_a_run_is_the_worst(here):
    record, made = tune(here, "method", measure=breaking_at(0.02))
    assert record["best"]["method"] == 0.01 and set(record["figures"]["method"]) == {"0.01"}
    assert set(record["by_seed"]["method"]["0.02"]) == {"100"}
    kept = json.loads(files(here)[0].read_text())["metrics"]["error"]
    assert kept["ended"] == {"0.02": {"101": "none of 3 answers is right"}}
    assert "101" not in kept["figures"]["0.02"]
    assert "method at 0.02 seed 101" in made and tune(here, "method") == (record, []), "it is not tried again"


def test_an_arm_that_every_rate_breaks_is_said(here):
    with pytest.raises(KDError, match="the sweep of method: every rate broke a run"):
        tune(here, "method", measure=breaking_at(0.01, 0.02))


def test_what_a_rate_broke_is_told_from_every_other_failure():
    wrapped = KDError("the arm method")
    wrapped.__cause__ = Broken("none of 3 answers is right")
    told = [is_broken(error) for error in (wrapped.__cause__, wrapped, NotYet("no row"), OSError("full"))]
    assert told == [True, True, False, False]
