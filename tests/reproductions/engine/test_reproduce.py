"""From runs to verdicts beside the recorded ones: what is said, what is written, and with which exit code."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.engine.reproduce import BAD, DIFFERS, DONE, _Task, reproduce
from reproductions.engine.show import files, gather, report
from reproductions.engine.store.arm import digest_of, with_only
from reproductions.engine.store.pair import arm_path, read_arm, write_arm
from reproductions.engine.work.environment import cpu_name
from reproductions.engine.work.sessions.progress import SilentReporter

from ..recorded import PassedGate
from .conftest import RUNS, Events

FIGURES = {"error": {"baseline": 0.4, "teacher": 0.1}}
VERDICTS = {"teacher-helps": "reproduced", "noise-helps": "reversed"}


@pytest.fixture
def checkout(finished, toy, monkeypatch):
    """The toy paper as if it were the checkout's, all its runs in the cache."""
    shutil.copytree(finished[0].cache, toy.cache)
    for name, folder in (
        ("ROOT", ""),
        ("PAPERS", "papers"),
        ("RESULTS", "results"),
        ("TESTBEDS", "testbeds"),
    ):
        monkeypatch.setattr(gather, name, toy.root / folder)
    for name in ("TUNING", "GATES", "ATTEMPTS"):
        monkeypatch.setattr(gather, name, toy.root / name.lower())
    monkeypatch.setattr(gather, "gate_on", lambda testbed: PassedGate(figures=FIGURES))
    monkeypatch.setattr(files, "FOLDER", toy.root / "verdicts")
    monkeypatch.setenv("KD_CACHE", str(toy.cache))
    return toy


def again(toy, plan=None, **options):
    return reproduce(plan or toy.plan(), reporter=SilentReporter(), **{"quiet": True, **options})


def written(toy):
    """Everything outside the cache, by content."""
    return {
        str(path.relative_to(toy.root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(toy.root.rglob("*"))
        if path.is_file() and toy.cache not in path.parents and "__pycache__" not in path.parts
    }


def altered(toy, arm, change):
    """An arm's recorded files with other figures, whole in themselves: as another machine might have made them."""
    path = arm_path(toy.results / "line", toy.plan().keys[arm])
    recorded = read_arm(path)
    runs = {seed: change(run) for seed, run in recorded.runs.items()}
    runs = {seed: replace(run, digest=digest_of(run)) for seed, run in runs.items()}
    path.unlink()
    write_arm(path, replace(recorded, runs=runs))


def with_errors(factor, run):
    error = run.columns["error"] * factor
    return replace(
        run, columns={**run.columns, "error": error}, metrics={**run.metrics, "error": float(np.mean(error))}
    )


def test_a_first_look_says_so_and_writes_nothing(checkout):
    before = written(checkout)
    outcome = again(checkout)
    assert outcome.exit_code == DONE and outcome.complete and outcome.recorded is None
    assert outcome.message == "no results of toy at scale tiny are recorded: this is the first look at it"
    assert {claim.id: claim.outcomes[0].verdict for claim in outcome.view.claims} == VERDICTS
    assert outcome.agrees == dict.fromkeys(VERDICTS) and written(checkout) == before


def test_recording_adds_arms_and_the_verdicts_and_nothing_else(checkout):
    before, plan = written(checkout), checkout.plan()
    outcome = again(checkout, record=True)
    assert (
        outcome.exit_code == DONE
        and outcome.message == f"recorded: {RUNS} runs added to {checkout.results / 'line'}"
    )
    keys = sorted(
        {f"results/line/{key}.{ending}" for key in plan.keys.values() for ending in ("json", "parquet")}
    )
    assert sorted(written(checkout).keys() - before.keys()) == [*keys, "verdicts/toy.json"]
    assert before.items() <= written(checkout).items()
    arm = read_arm(arm_path(checkout.results / "line", plan.keys["method"]))
    assert list(arm.runs) == [0, 1, 2] and arm.spec == plan.specs["method"]
    assert set(arm.claims["toy/tiny"]) == set(VERDICTS)
    made = arm.runs[1].made_with
    assert (made["device_type"], made["threads"], made["data_revision"]) == ("cpu", 1, "revision-1")
    assert made["torch"] and made["python"] and made["commit"] and arm.runs[1].made_for["paper"] == "toy"
    assert arm.runs[1].started <= arm.runs[1].finished
    shown = files.read("toy")
    assert {claim.id: claim.outcomes[0].verdict for claim in shown.claims} == VERDICTS
    assert files.stale(["toy"]) == []


def test_afterwards_it_agrees_and_recording_again_changes_no_byte(checkout):
    again(checkout, record=True)
    before = written(checkout)
    outcome = again(checkout)
    assert outcome.exit_code == DONE and outcome.message == "every verdict is the recorded one"
    assert outcome.agrees == dict.fromkeys(VERDICTS, True) and outcome.recorded is not None
    assert "0 runs added" in again(checkout, record=True).message
    assert written(checkout) == before


def test_a_changed_python_makes_the_verdicts_stale(checkout):
    again(checkout, record=True)
    checkout.change("0.05 * torch.randn", "0.06 * torch.randn", "papers/toy.py")
    assert files.stale(["toy"]) == ["toy"]


def test_another_verdict_than_the_recorded_one_is_exit_code_1_and_changes_no_record(checkout):
    again(checkout, record=True)
    altered(checkout, "baseline", lambda run: with_errors(0.001, run))
    before = written(checkout)
    outcome = again(checkout)
    assert outcome.exit_code == DIFFERS and outcome.agrees == dict.fromkeys(VERDICTS, False)
    assert outcome.message == "2 of 2 verdicts differ from the recorded ones: teacher-helps, noise-helps"
    assert written(checkout) == before


def test_what_is_recorded_stands_and_is_not_made_again(checkout):
    """An arm of several papers was recorded on another kind of processor, where a training ends in other figures."""
    again(checkout, record=True)
    altered(checkout, "ablation", lambda run: with_errors(1.5, run))
    keys = checkout.plan().keys
    shutil.rmtree(checkout.cache / "runs" / keys["ablation"])
    before = written(checkout)
    for ending in (".json", ".parquet"):
        arm_path(checkout.results / "line", keys["baseline"]).with_suffix(ending).unlink()
    outcome = again(checkout, record=True)
    assert outcome.message.startswith("recorded: 3 runs added") and outcome.exit_code == DONE
    assert not (checkout.cache / "runs" / keys["ablation"]).exists() and files.stale(["toy"]) == []
    after = written(checkout)
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"verdicts/toy.json"}, "the verdicts are those of the recorded figures"


def test_a_key_with_other_figures_is_never_rewritten_and_nothing_is_written_beside_it(checkout):
    again(checkout, record=True)
    altered(checkout, "ablation", lambda run: with_errors(1.5, run))
    arm_path(checkout.results / "line", checkout.plan().keys["baseline"]).unlink()
    before = written(checkout)
    with pytest.raises(KDError, match="seed 0 was recorded with other figures; a key is never rewritten"):
        again(checkout, record=True, fresh=True)
    assert written(checkout) == before


def test_a_broken_record_is_said_before_anything_is_trained(checkout):
    again(checkout, record=True)
    path = arm_path(checkout.results / "line", checkout.plan().keys["method"])
    path.write_text(path.read_text()[:-30])
    shutil.rmtree(checkout.cache)
    for record in (False, True):
        with pytest.raises(KDError, match=f"{path.name}:\\d+: not JSON"):
            again(checkout, record=record)
    assert not checkout.cache.exists()


def test_a_record_that_lacks_runs_gives_no_verdict_to_compare_with_and_is_completed(checkout):
    """Writing it was interrupted, or the scale has got more seeds."""
    again(checkout, record=True)
    whole = written(checkout)
    arm_path(checkout.results / "line", checkout.plan().keys["method"]).unlink()
    outcome = again(checkout)
    assert outcome.exit_code == DONE and outcome.agrees == dict.fromkeys(VERDICTS)
    assert (
        "results of toy at scale tiny are incomplete: method seeds 0, 1, 2; --record adds" in outcome.message
    )
    assert outcome.message in said(checkout.plan(), outcome)
    assert again(checkout, record=True).message.startswith("recorded: 3 runs added")
    assert written(checkout) == whole


@pytest.mark.parametrize("part", [{"seeds": 2}, {"arms": ["method", "baseline"]}])
def test_a_part_is_shown_and_held_against_nothing_and_not_recorded(checkout, part):
    again(checkout, record=True)
    altered(checkout, "baseline", lambda run: with_errors(0.001, run))
    before = written(checkout)
    outcome = again(checkout, checkout.plan(**part))
    assert (
        outcome.exit_code == DONE
        and not outcome.complete
        and "a part of the arms or seeds" in outcome.message
    )
    assert set(outcome.agrees.values()) == {None}
    seeds = {claim.outcomes[0].seeds for claim in outcome.view.claims}
    assert seeds == {part.get("seeds", 3)}
    with pytest.raises(KDError, match="--record is for all arms and seeds of a scale"):
        again(checkout, checkout.plan(**part), record=True)
    assert written(checkout) == before


def test_a_best_rate_at_the_edge_is_not_recorded(checkout, monkeypatch):
    before = written(checkout)
    monkeypatch.setattr(
        "reproductions.engine.reproduce.at_an_edge", lambda *_: "the best rate of method is the last"
    )
    assert again(checkout).exit_code == DONE, "it may be tried"
    with pytest.raises(KDError, match="toy: the best rate of method is the last.* `kd tune` again"):
        again(checkout, record=True)
    assert written(checkout) == before


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({"cpu": "another processor"}, False),
        ({"torch": "2.0.0"}, False),  # its students may be the same: that shows when they are there
        ({"cpu": "another processor", "torch": "2.0.0"}, True),
    ],
)
def test_measures_that_a_second_training_here_cannot_give_are_said_before_it(
    checkout, monkeypatch, environment, refused
):
    again(checkout, record=True)
    read = read_arm

    def poorer(path):
        arm = read(path)
        runs = {
            seed: replace(run, made_with={**run.made_with, **environment}, metrics={})
            for seed, run in arm.runs.items()
        }
        return replace(arm, runs=runs)

    monkeypatch.setattr("reproductions.engine.reproduce.read_arm", poorer)
    task = _Task(checkout.plan(), gather.RESULTS, None)
    if not refused:
        task.check_recordable()
        return
    message = (
        r"arm baseline was recorded on another processor without .*error; this is .*, and torch 2.0.0, now "
    )
    with pytest.raises(KDError, match=message):
        task.check_recordable()


def test_a_measure_that_is_missing_is_taken_of_a_training_on_another_processor(checkout):
    """The judge sees then what is recorded: the first training's figures, and the second's for what they lack."""
    again(checkout, record=True)
    plan = checkout.plan()
    path = arm_path(gather.RESULTS / plan.scale.testbed, plan.keys["baseline"])
    whole = read_arm(path)
    first, others = "error", sorted(set(whole.metrics) - {"error"})

    def shifted(run):
        poorer = with_only(run, others)
        columns = {name: column + 0.25 for name, column in poorer.columns.items()}
        metrics = values(poorer.definitions, columns)
        made_with = {**run.made_with, "cpu": "another processor"}
        run = replace(poorer, columns=columns, metrics=metrics, made_with=made_with, student="5" * 64)
        return replace(run, digest=digest_of(run))

    runs = {seed: shifted(run) for seed, run in whole.runs.items()}
    metrics = {name: whole.metrics[name] for name in others}
    path.unlink()
    write_arm(path, replace(whole, runs=runs, metrics=metrics))
    kept = path.read_bytes()
    outcome = again(checkout, record=True)
    assert path.read_bytes() == kept and (path.with_suffix("") / "1.json").is_file()
    assert outcome.exit_code == DONE
    (row,) = outcome.view.scales
    assert f"{first} of {len(runs)} runs by a second training on another kind of processor" in row.made
    for seed, run in read_arm(path).runs.items():
        assert run.metrics[first] == whole.runs[seed].metrics[first]
        assert {name: run.metrics[name] for name in others} == runs[seed].metrics
        (entry,) = [part for part in run.made if part.get("retrained")]
        assert list(entry["metrics"]) == [first] and entry["environment"]["cpu"] == cpu_name()
    after = written(checkout)
    assert again(checkout, record=True).exit_code == DONE and written(checkout) == after


def test_a_part_without_an_arm_of_a_claim_leaves_it_not_run(checkout):
    outcome = again(checkout, checkout.plan(arms=["method", "ablation"]))
    assert {claim.outcomes[0].verdict for claim in outcome.view.claims} == {"not run"}
    text = said(checkout.plan(arms=["method", "ablation"]), outcome)
    assert "teacher-helps" not in text and outcome.message in text


def test_failures_are_exit_code_2_and_the_finished_runs_are_kept(checkout, monkeypatch, capsys):
    for path in (checkout.cache / "runs" / checkout.plan().keys["baseline"]).glob("seed1-*"):
        path.unlink()
    monkeypatch.setenv("TOY_FAULTS", "raise baseline 1")
    before, events = written(checkout), Events()
    outcome = reproduce(checkout.plan(), workers=1, record=True, reporter=events)
    assert outcome.exit_code == BAD and outcome.view is None and written(checkout) == before
    (failure,) = outcome.failures
    assert events.of("started") == [("baseline", 1)] and "8 finished runs are kept" in outcome.message
    printed = capsys.readouterr()
    assert failure.file in printed.err and "1 of 9 runs failed" in printed.err and printed.out == ""
    assert "Traceback" not in printed.err


def test_json_goes_to_stdout_alone(checkout, capsys):
    again(checkout, record=True)
    reproduce(checkout.plan(), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert (printed["exit_code"], printed["complete"]) == (DONE, True)
    assert printed["agrees"] == dict.fromkeys(VERDICTS, True)
    assert printed["view"]["claims"][0]["outcomes"][0]["verdict"] == "reproduced"


def said(plan, outcome, width=80):
    console = Console(file=io.StringIO(), width=width)
    report.show(plan, outcome, console)
    return console.file.getvalue()


def test_the_report_holds_paper_recorded_and_this_run_side_by_side_in_80_columns(checkout):
    again(checkout, record=True)
    altered(checkout, "baseline", lambda run: with_errors(0.001, run))
    plan = checkout.plan()
    text = said(plan, again(checkout))
    lines = text.splitlines()
    assert all(len(line) <= 80 for line in lines[:-1])
    (place,) = [
        n for n, line in enumerate(lines) if line.startswith("reproduced ") and "teacher-helps" in line
    ]
    about = [line.strip() for line in lines[place + 1 : place + 7]]
    assert about[0] == "claim     error: method - baseline > 0"
    assert about[1] == "paper     0.1, 0.4 (Error, 48 dimensions)"
    assert about[2].startswith("recorded  reversed, -") and about[2].endswith("; 3 seeds")
    assert about[3].startswith("this run  reproduced, +") and about[3].endswith("; 3 seeds")
    assert about[4] == "matters   from 0.15 (half of the paper's relative effect)"
    assert about[5] == "differs from the recorded verdict"
    assert lines[-1] == "2 of 2 verdicts differ from the recorded ones: teacher-helps, noise-helps"
