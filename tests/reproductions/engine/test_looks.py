"""Looks: seeds are added only to the arms that open claims need, and nothing is lost on the way."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from reproductions.engine import looks as looking
from reproductions.engine.prospect import prospect_of
from reproductions.engine.reproduce import DIFFERS, DONE, reproduce
from reproductions.engine.show import dials, files, gather
from reproductions.engine.show.cost import Costs
from reproductions.engine.store.pair import arm_path, read_arm
from reproductions.engine.verdicts import decide as deciding
from reproductions.engine.work.sessions.progress import SilentReporter

from .conftest import Events, copy_toy

DECIDED_AT = {"teacher-helps": 5, "noise-helps": 10, "less-noise-helps": 99}
CLAIM = "    less-noise-helps: {says: Less noise is better., better: ablation, worse: baseline}\n"
# In a process of its own the same rule decides: at how many seeds of its arms a claim is told.
COMMAND = """
import sys
from pathlib import Path
from tests.reproductions.engine.test_looks import decide
from reproductions.engine.verdicts import decide as deciding
deciding.decide = decide
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.reproduce import reproduce
plan = make_plan('toy', papers_root=Path(sys.argv[1]), cache=Path(sys.argv[2]))
sys.exit(reproduce(plan, workers=2, results_root=Path(sys.argv[3])).exit_code)
"""


def decide(claims, scale, results, *_, **__):
    """A claim is decided at the first look with as many seeds as DECIDED_AT says."""
    found = []
    for claim in claims.at(scale):
        seeds = min(len(results.runs(arm)) for arm in claim.contrast.weights) if results else 0
        looks = [look for look in (5, 10, 20, 40) if look <= seeds]
        told = next((look for look in looks if look >= DECIDED_AT[claim.id]), None)
        verdict = "reproduced" if told else "open"
        found.append(deciding.Decision(claim.id, scale, verdict, difference=1.0, seeds=told or seeds))
    return found


def with_looks(toy):
    """Looks at 5, 10 and 20 seeds, and a claim that is never decided."""
    toy.change("seeds: 3,", "seeds: {looks: [5, 10, 20]},")
    toy.change("better: baseline, worse: method}\n", "better: baseline, worse: method}\n" + CLAIM)
    return toy


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A session with all its looks: the toy, the outcome and what was heard; to be looked at only."""
    toy, events = with_looks(copy_toy(tmp_path_factory.mktemp("looks") / "toy")), Events()
    with pytest.MonkeyPatch.context() as patch:
        for module in (deciding, dials):
            patch.setattr(module, "decide", decide)
        outcome = reproduce(toy.plan(), workers=2, reporter=events, quiet=True, results_root=toy.results)
    return toy, outcome, events


@pytest.fixture
def looked(toy, monkeypatch):
    """The toy paper with looks as if it were the checkout's."""
    for name, folder in (("PAPERS", "papers"), ("TESTBEDS", "testbeds"), ("ROOT", "")):
        monkeypatch.setattr(gather, name, toy.root / folder)
    monkeypatch.setattr(gather, "RESULTS", toy.results)
    monkeypatch.setattr(gather, "TUNING", toy.root / "tuning")
    monkeypatch.setattr(files, "FOLDER", toy.root / "verdicts")
    for module in (deciding, dials):
        monkeypatch.setattr(module, "decide", decide)
    monkeypatch.setenv("KD_CACHE", str(toy.cache))
    return with_looks(toy)


@pytest.fixture
def full(looked, done):
    """The same with all runs of a whole session in its cache."""
    shutil.copytree(done[0].cache, looked.cache)
    return looked


def seeds_by_arm(toy):
    plan = toy.plan()
    found = {}
    for arm in ("method", "baseline", "ablation"):
        names = [path.name for path in (toy.cache / "runs" / plan.keys[arm]).glob("seed*.json")]
        found[arm] = sorted(int(name.removeprefix("seed").partition("-")[0]) for name in names)
    return found


def again(toy, plan=None, **options):
    return reproduce(
        plan or toy.plan(), workers=2, **{"reporter": SilentReporter(), "quiet": True, **options}
    )


def test_seeds_are_added_for_open_claims_alone(done):
    toy, outcome, events = done
    plan = toy.plan()
    assert plan.seeds == tuple(range(5)) and plan.scale.looks == (5, 10, 20) and len(plan.scale.seeds) == 20
    assert outcome.exit_code == DONE and outcome.complete
    assert looking.verdicts_of(outcome.view) == {
        "teacher-helps": "reproduced",
        "noise-helps": "reproduced",
        "less-noise-helps": "open",
    }
    # The method is in claims that five and ten seeds decide: it never gets an eleventh seed.
    assert {arm: len(seeds) for arm, seeds in seeds_by_arm(toy).items()} == {
        "method": 10,
        "baseline": 20,
        "ablation": 20,
    }
    first, second, third = outcome.looks
    assert (first.seeds, second.seeds, third.seeds) == (5, 10, 20)
    assert (first.decided, second.decided, third.decided) == (
        {"teacher-helps": "reproduced"},
        {"noise-helps": "reproduced"},
        {},
    )
    assert first.open == ("noise-helps", "less-noise-helps") and third.open == ("less-noise-helps",)
    assert (first.runs, second.runs, third.runs) == (15, 15, 20)
    assert len(events.of("started")) == 50 and {seed for _, seed in events.of("started")[:15]} == set(
        range(5)
    )
    toy.assert_no_worker_stays()


def test_a_seed_more_in_an_arm_of_a_decided_claim_is_seen_here(full, monkeypatch):
    """What the test above guards: were a decided claim to pull its arms along, the method would have 20 seeds."""
    real = looking.open_claims
    everything = lambda plan, verdicts: real(plan, dict.fromkeys(verdicts, "open"))  # noqa: E731
    monkeypatch.setattr(looking, "open_claims", everything)
    again(full)
    assert len(seeds_by_arm(full)["method"]) == 20


def test_fewer_looks_leave_claims_open_and_a_later_session_goes_on(full):
    for path in full.runs():
        if int(path.name.removeprefix("seed").partition("-")[0]) >= 5:
            path.unlink()
    events = Events()
    outcome = again(full, looks=1, reporter=events)
    assert outcome.exit_code == DONE and len(outcome.looks) == 1 and outcome.complete and events.heard == []
    assert len(again(full, looks=2, reporter=events).looks) == 2
    assert len(events.of("started")) == 15 and {seed for _, seed in events.of("started")} == set(range(5, 10))


def test_one_number_of_seeds_is_one_look(full):
    full.change("seeds: {looks: [5, 10, 20]},", "seeds: 6,")
    outcome = again(full)
    assert len(outcome.plan.runs) == 18 and len(outcome.looks) == 1 and outcome.complete
    full.change("seeds: 6,", "seeds: {looks: [5, 10, 20]},")
    plan = full.plan(seeds=10)
    assert plan.complete and not full.plan(seeds=7).complete and not full.plan(arms=["method"]).complete
    outcome = again(full, plan)
    assert len(outcome.plan.runs) == 30 and len(outcome.looks) == 1


@pytest.mark.parametrize("looks", ["[]", "5", "[5, 7]", "[10, 5]", "[10]", "[5, 5]", "[true]"])
def test_other_looks_are_refused(looked, looks):
    looked.change("looks: [5, 10, 20]", f"looks: {looks}")
    with pytest.raises(ValueError, match=r"toy\.yaml:\d+: \"looks\" are"):
        looked.plan()


def test_killed_and_interrupted_in_any_look_it_ends_with_the_same_figures(looked, done, monkeypatch):
    monkeypatch.setenv("TOY_SECONDS_A_STEP", "0.003")
    moments = random.Random(3)
    for enough, what in ((3, signal.SIGKILL), (20, signal.SIGKILL), (34, signal.SIGINT)):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, looked.papers, looked.cache, looked.results],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        until = time.monotonic() + 300
        while len(looked.runs()) < enough and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        time.sleep(moments.uniform(0.0, 0.2))
        assert process.poll() is None, process.communicate()[0]
        os.killpg(process.pid, what)
        said = process.communicate(timeout=300)[0]
        looked.assert_no_worker_stays()
    assert process.returncode == 130 and "runs are finished and kept" in said and "Traceback" not in said
    monkeypatch.delenv("TOY_SECONDS_A_STEP")
    kept, events = looked.figures(), Events()
    outcome = again(looked, reporter=events)
    assert outcome.exit_code == DONE and len(events.of("started")) == 50 - len(kept)
    assert looked.figures() == done[0].figures() and kept.items() <= looked.figures().items()


def test_recording_writes_uneven_arms_and_what_each_look_brought(full):
    outcome = again(full, record=True)
    assert outcome.message == f"recorded: 50 runs added to {full.results / 'line'}"
    plan = full.plan()
    seeds = {
        arm: len(read_arm(arm_path(full.results / "line", plan.keys[arm])).runs) for arm in plan.arms[:3]
    }
    assert seeds == {"baseline": 20, "method": 10, "ablation": 20}
    history = full.root / "reproductions" / "looks" / "toy.json"
    entries = json.loads(history.read_text())["scales"]["tiny"]
    assert [(entry["attempt"], entry["seeds"], entry["open"]) for entry in entries] == [
        (1, 5, ["noise-helps", "less-noise-helps"]),
        (1, 10, ["less-noise-helps"]),
        (1, 20, ["less-noise-helps"]),
    ]
    before = history.read_bytes()
    outcome = again(full, record=True)
    assert outcome.exit_code == DONE and outcome.message.endswith("every verdict is the recorded one")
    assert history.read_bytes() == before
    early = again(full, looks=1)
    assert early.agrees == {"teacher-helps": True, "noise-helps": None, "less-noise-helps": None}
    assert early.exit_code == DONE and early.message == "every verdict that was reached is the recorded one"


def test_a_first_look_may_be_recorded_and_completed_later(full):
    again(full, looks=1, record=True)
    assert again(full, looks=1).message == "every verdict is the recorded one"
    plan, folder = full.plan(), full.results / "line"
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    outcome = again(full, record=True)
    assert outcome.message.startswith("recorded: 35 runs added")
    now = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert first.items() <= now.items(), "no file of the first look is another one"
    added = {path.relative_to(folder).as_posix() for path in now.keys() - first.keys()}
    assert added == {f"{key}/1.{kind}" for key in plan.keys.values() for kind in ("json", "parquet")}
    nowhere = full.root / "nowhere"
    runs = {(key, seed) for key in plan.keys.values() for seed in (0, 7)}
    assert Costs(full.results, nowhere).of(plan).known_from == 20
    one = Costs(full.results, nowhere).spent(plan, {run for run in runs if run[1] == 0})
    assert Costs(full.results, nowhere).spent(plan, runs) > one > 0, "runs of additions took their time too"
    differing = {claim for claim, same in outcome.agrees.items() if same is False}
    assert differing == {"noise-helps"} and outcome.exit_code == DIFFERS


def test_the_cost_is_told_before_anything_runs(full, capsys):
    reproduce(full.plan(), workers=2, reporter=SilentReporter(), as_json=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "toy at scale tiny, look 1 of 3 (5 seeds): 3 arms, 15 runs: all are there",
        "toy at scale tiny, look 2 of 3 (10 seeds): open are noise-helps, less-noise-helps; 3 arms, 30 runs: "
        "all are there",
        "toy at scale tiny, look 3 of 3 (20 seeds): open are less-noise-helps; 3 arms, 50 runs: all are there",
    ]
    plan, nowhere = full.plan(), full.root / "nowhere"
    unknown = str(Costs(nowhere, nowhere).of(plan))
    assert unknown == (
        "3 arms, 15 runs: all to make; on the way 5 sft-start; about 12 CPU seconds, from the file's minutes"
    )
    some = Costs(nowhere, full.cache).of(plan, set(list(plan.runs)[:6]))
    assert str(some).startswith("3 arms, 15 runs: 6 are there, 9 to make; on the way 3 sft-start; about ")
    assert str(some).endswith("from 1 recorded run") and 0 < some.cpu_seconds < 60
    again(full, record=True)
    assert Costs(full.results, nowhere).of(plan).known_from == 20


def test_what_is_open_and_what_deciding_it_costs(full):
    def now():
        return prospect_of(full.plan(), Costs(full.results, full.cache))

    first = now()
    assert (first.recorded, first.to_make, first.seeds, first.next) == (0, 15, 0, 5)
    assert first.open == dict.fromkeys(DECIDED_AT, 5) and first.hours_recorded == 0
    again(full, looks=1, record=True)
    second = now()
    assert (second.recorded, second.to_make, second.seeds, second.next) == (15, 15, 5, 10)
    assert second.open == {"noise-helps": 10, "less-noise-helps": 10}
    assert second.hours_next is not None and second.hours_at_most >= second.hours_next
    again(full, record=True)
    third = now()
    assert (third.recorded, third.to_make, third.seeds, third.next) == (50, 0, 20, None)
    assert third.open == {"less-noise-helps": None} and third.hours_next == 0
