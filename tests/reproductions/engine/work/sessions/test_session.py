"""Sessions with real worker processes: equal figures however they ran, and nothing lost whatever happens."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import Metric, values
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.store.arm import same_training
from reproductions.engine.store.cache import keep_run
from reproductions.engine.work.environment import decisive
from reproductions.engine.work.sessions.finished import finished_runs
from reproductions.engine.work.sessions.progress import SilentReporter
from reproductions.engine.work.sessions.session import make_runs
from reproductions.testbeds import metrics_of

from ...conftest import RUNS, Events, Toy
from ...store.made import levels, made_run

COMMAND = (
    "import sys; from pathlib import Path; from reproductions.engine.plan.plan import make_plan; "
    "from reproductions.engine.reproduce import reproduce; "
    "plan = make_plan('toy', papers_root=Path(sys.argv[1]), cache=Path(sys.argv[2])); "
    "sys.exit(reproduce(plan, workers=int(sys.argv[3]), results_root=Path(sys.argv[4])).exit_code)"
)
DEADLINE = 300  # seconds until a test gives up: no test waits for them


def start(toy: Toy, workers: int) -> subprocess.Popen:
    """A reproduction in a process of its own, as a user has it."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, toy.papers, toy.cache, str(workers), toy.results],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(what, process: subprocess.Popen) -> None:
    """Until it is so or the process has ended."""
    until = time.monotonic() + DEADLINE
    while not what() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)


def test_arms_of_one_key_are_made_once_and_no_worker_stays(finished):
    toy, made, events = finished
    assert not made.failures and not made.interrupted
    assert len(events.of("started")) == len(events.of("finished")) == len(made.runs) == RUNS
    assert {arm for arm, _ in events.of("started")} == {"baseline", "method", "ablation"}
    plan = toy.plan()
    assert len(plan.tasks) == 12 and plan.keys["again"] == plan.keys["ablation"]
    toy.assert_no_worker_stays()


def test_the_teacher_was_made_once_and_every_run_says_what_it_used(finished):
    toy, made, events = finished
    assert len(events.of("making")) == 1 and events.of("making")[0][0] == "method"
    (teacher,) = {name for run in made.runs.values() for name in run.shared}
    assert (toy.cache / "artifacts" / teacher / "model.safetensors").is_file()
    keys = toy.plan().keys
    assert {key for (key, _), run in made.runs.items() if run.shared} == {keys["method"]}


def test_a_second_session_makes_nothing(finished):
    toy, made, _ = finished
    before, events = toy.figures(), Events()
    again = make_runs(toy.plan(), 2, events)
    assert events.heard == [] and set(again.runs) == set(made.runs) and toy.figures() == before


def test_one_worker_in_another_order_gives_the_same_figures(finished, toy):
    """Everything afresh. Roles decide who comes first and nothing else."""
    shutil.copytree(finished[0].cache, toy.cache)
    toy.change("role: method,", "role: baseline,")
    toy.change("{title: Noisy labels,", "{title: Noisy labels, role: method,")
    times, events = {path: path.stat().st_mtime_ns for path in toy.runs()}, Events()
    made = make_runs(toy.plan(), 1, events, fresh=True)
    assert events.of("started")[0] == ("baseline", 0) and len(made.runs) == RUNS
    assert toy.figures() == finished[0].figures()
    assert times.keys() == set(toy.runs()) and all(path.stat().st_mtime_ns > times[path] for path in times)


def test_killed_and_interrupted_at_any_moment_it_ends_with_the_same_figures(finished, toy, monkeypatch):
    monkeypatch.setenv("TOY_SECONDS_A_STEP", "0.01")
    moments = random.Random(7)
    for workers, enough in ((2, 1), (1, 3)):
        process = start(toy, workers)
        wait_for(lambda: len(toy.runs()) >= enough, process)  # noqa: B023 - asked at once
        time.sleep(moments.uniform(0.0, 0.5))
        process.kill()
        process.communicate()
        toy.assert_no_worker_stays()
    kept = toy.figures()
    process = start(toy, 2)
    wait_for(lambda: len(toy.runs()) > len(kept), process)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C sends: to the runner's whole group
    said = process.communicate(timeout=DEADLINE)[0]
    if process.returncode != 0:  # else it had just ended
        assert process.returncode == 130
        assert "runs are finished and kept" in said and "Traceback" not in said
    toy.assert_no_worker_stays()
    kept, events = toy.figures(), Events()
    monkeypatch.delenv("TOY_SECONDS_A_STEP")
    make_runs(toy.plan(), 1, events)
    assert len(events.of("started")) == RUNS - len(kept)
    assert toy.figures() == finished[0].figures() and kept.items() <= toy.figures().items()


def test_a_run_that_raises_or_kills_its_worker_stops_no_other(finished, toy, monkeypatch):
    monkeypatch.setenv("TOY_FAULTS", "raise baseline 1;kill ablation 2")
    events = Events()
    made = make_runs(toy.plan(), 2, events)
    killed, raised = sorted(made.failures, key=lambda failure: failure.arm)
    assert (raised.arm, raised.seed, raised.message) == ("baseline", 1, "RuntimeError: no such luck")
    assert "Traceback" in Path(raised.file).read_text() and "no such luck" in Path(raised.file).read_text()
    assert (killed.arm, killed.seed) == ("ablation", 2) and "SIGKILL (out of memory?)" in killed.message
    assert len(made.runs) == len(toy.runs()) == RUNS - 2
    assert sorted(events.of("failed")) == [("ablation", 2), ("baseline", 1)]
    monkeypatch.delenv("TOY_FAULTS")
    events = Events()
    assert not make_runs(toy.plan(), 1, events).failures
    assert sorted(events.of("started")) == [("ablation", 2), ("baseline", 1)]
    assert toy.figures() == finished[0].figures()
    assert not Path(raised.file).exists() and not Path(killed.file).exists()


def other(toy: Toy, arm: str, seed: int, **made_with) -> Path:
    """The finished run of an arm as if something else had made it."""
    plan = toy.plan()
    key = plan.keys[arm]
    (path,) = (toy.cache / "runs" / key).glob(f"seed{seed}-*.json")
    kept = json.loads(path.read_text())
    path.unlink()
    record = {name: value for name, value in kept["record"].items() if name != "digest"}
    metrics = {
        run: kept["metrics"][run] | {"columns": tuple(kept["metrics"][run]["columns"])}
        for run in kept["metrics"]
    }
    return keep_run(
        toy.cache,
        key,
        record,
        made_with={**kept["made_with"], **made_with},
        metrics={name: Metric(**item) for name, item in metrics.items()},
        started=kept["started"],
        finished=kept["finished"],
        how=plan.how,
        testbed=plan.scale.testbed,
    )


def test_a_broken_run_and_one_that_something_else_made_are_made_again(finished, toy):
    shutil.copytree(finished[0].cache, toy.cache)
    (broken,) = (toy.cache / "runs" / toy.plan().keys["method"]).glob("seed2-*.json")
    broken.write_text(broken.read_text().replace("0.", "1.", 1))
    older = other(toy, "baseline", 1, torch="1.0.0")
    behaved = other(toy, "ablation", 0, fingerprints={"trainer/toy-fit": "00000000"})
    assert finished_runs(toy.plan(), "cpu").keys() == finished[1].runs.keys() - {
        (toy.plan().keys[arm], seed) for arm, seed in (("method", 2), ("baseline", 1), ("ablation", 0))
    }
    assert broken.with_suffix(".broken").exists() and not broken.exists()
    events = Events()
    made = make_runs(toy.plan(), 1, events)
    assert sorted(events.of("started")) == [("ablation", 0), ("baseline", 1), ("method", 2)]
    assert len(made.runs) == RUNS and older.exists() and behaved.exists()
    assert finished[0].figures().items() <= toy.figures().items()


def test_a_second_session_at_the_same_time_is_told_who_works_there(toy, monkeypatch):
    monkeypatch.setenv("TOY_SECONDS_A_STEP", "0.5")
    process = start(toy, 1)
    try:
        wait_for(lambda: list(toy.cache.glob("reproduce/toy/tiny/logs/*")), process)
        with pytest.raises(KDError, match=f"already being worked on by process {process.pid}"):
            make_runs(toy.plan(), 1, SilentReporter())
    finally:
        process.terminate()  # SIGTERM ends it as Ctrl-C does
        said = process.communicate(timeout=DEADLINE)[0]
    assert process.returncode == 130 and "0 of 9 runs are finished and kept" in said
    toy.assert_no_worker_stays()


def test_what_no_run_can_do_without_is_one_error(toy):
    plan = toy.plan()
    toy.change('REVISION = "revision-1"', 'REVISION = "revision-2"', "papers/toy.py")
    with pytest.raises(KDError, match=r"^\S+toy\.py was changed after the runs were planned; start again$"):
        make_runs(plan, 1, SilentReporter())
    with pytest.raises(
        KDError, match="^line: its data have the revision revision-2, the testbed is about revision-1$"
    ):
        make_runs(toy.plan(), 1, SilentReporter())
    toy.assert_no_worker_stays()
    assert not toy.runs()


def test_a_metric_nobody_asks_for_is_not_measured_and_one_asked_for_later_is_added(finished, toy):
    """The toy's students cannot be read back: they are trained again, to the same weights."""
    shutil.copytree(finished[0].cache, toy.cache)
    before, runs = toy.figures(), finished_runs(toy.plan(), "cpu")
    assert all(set(run.metrics) == {"error", "accuracy", "ece"} for run in runs.values())
    assert all(
        run.student and [set(part["metrics"]) for part in run.made] == [set(run.metrics)]
        for run in runs.values()
    )
    toy.change("headline: [error, accuracy, ece]", "headline: [error, accuracy, ece, size]")
    assert toy.plan().keys == finished[0].plan().keys and finished_runs(toy.plan(), "cpu") == {}
    events = Events()
    made = make_runs(toy.plan(), 2, events)
    assert len(events.of("finished")) == len(made.runs) == RUNS and not made.failures
    for name, run in made.runs.items():
        assert {**runs[name].metrics, "size": run.metrics["size"]} == run.metrics
        assert run.student == runs[name].student and same_training(run, runs[name])
        first, second = run.made
        assert first == runs[name].made[0] and list(second["metrics"]) == ["size"] and second["again"]
        assert second["student"] == run.student and second["environment"]["python"] and second["date"]
    after = toy.figures()
    for name, figures in before.items():
        assert figures["examples"].items() <= after[name]["examples"].items()
    toy.change("headline: [error, accuracy, ece, size]", "headline: [error, size]")
    events = Events()
    assert make_runs(toy.plan(), 2, events).runs.keys() == made.runs.keys() and events.heard == []


def test_a_metric_measured_in_another_way_is_measured_again(finished, toy):
    shutil.copytree(finished[0].cache, toy.cache)
    toy.change("toy-size: {}", "toy-size: {twice: true}", "testbeds/line.yaml")
    assert len(finished_runs(toy.plan(), "cpu")) == RUNS, "nobody asks for it"
    toy.change("toy-errors: {}", "toy-errors: {spread: 0.2}", "testbeds/line.yaml")
    assert toy.plan().keys == finished[0].plan().keys and finished_runs(toy.plan(), "cpu") == {}
    made = make_runs(toy.plan(), 2, Events())
    assert len(made.runs) == RUNS and len(toy.runs()) == RUNS
    name = (toy.plan().keys["method"], 0)
    assert made.runs[name].metrics["accuracy"] != finished[1].runs[name].metrics["accuracy"]
    assert made.runs[name].student == finished[1].runs[name].student


def test_papers_with_one_arm_have_its_runs_in_common(tmp_path):
    akl, minillm = (
        make_plan(paper, arms=[arm], cache=tmp_path)
        for paper, arm in (("akl", "fkl"), ("minillm", "word-kd"))
    )
    key = akl.keys["fkl"]
    made_with = decisive("cpu", akl.testbed["revision"], akl.specs["fkl"]["method"])
    definitions = metrics_of(akl.testbed)
    wanted = {name: definitions[name] for name in akl.wanted(key, 0)}
    for seed in akl.seeds[:3]:
        columns = {column: [1.0, 0.5] for metric in wanted.values() for column in metric.columns}
        run = replace(made_run(seed, levels(1.0)[0]), metrics=values(wanted, columns))
        record = {
            name: getattr(run, name) for name in ("seed", "metrics", "curve", "seconds", "tokens", "rollouts")
        }
        record |= {"examples": columns, "shared": {}}
        about = {"made_with": made_with, "metrics": wanted, "started": "then", "finished": "later"}
        keep_run(tmp_path, key, record, **about, how=akl.how, testbed=akl.scale.testbed)
    assert "excess_error" in minillm.wanted(key, 0) and "excess_error" not in wanted
    assert finished_runs(minillm, "cpu") == {}, "another headline: a metric is missing"
    assert finished_runs(akl, "cpu").keys() == {(key, seed) for seed in akl.seeds[:3]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": "tine"}, 'no scale "tine" (did you mean "tiny"?)'),
        ({"arms": ["metod"]}, 'no arm "metod" (did you mean "method"?)'),
        ({"seeds": 9}, "declares 3"),
        ({"seeds": 0}, "declares 3"),
    ],
)
def test_bad_requests_are_refused_by_the_plan(toy, options, message):
    with pytest.raises(KDError) as error:
        toy.plan(**options)
    assert message in str(error.value) and not toy.cache.exists()


def test_no_room_or_no_right_to_write_is_said_before_starting(toy, monkeypatch):
    (toy.root / "file").write_text("")
    with pytest.raises(KDError, match="cannot be written.*set KD_CACHE"):
        make_runs(toy.plan(cache=toy.root / "file" / "cache"), 1, SilentReporter())
    usage = shutil.disk_usage(toy.root)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 2**20))
    with pytest.raises(KDError, match="10 MiB free, at least 200 MiB are needed"):
        make_runs(toy.plan(), 1, SilentReporter())
