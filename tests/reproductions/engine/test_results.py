import json
from dataclasses import replace

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.results import (
    assemble,
    check_config,
    dumps,
    figures,
    list_results,
    read_results,
    write_results,
)

from .test_claims import levels, load_experiment, results


@pytest.fixture
def recorded(papers):
    path = papers / "toy" / "results" / "tiny.json"
    made = results(papers, {"method": levels(1, 1.1), "baseline": levels(2, 2.2)})
    write_results(path, made)
    return path


def test_what_is_written_is_read_back_one_run_a_line(recorded, papers):
    made = read_results(recorded)
    assert dumps(made) == recorded.read_text()
    assert sum(line.startswith('  {"arm":') for line in recorded.read_text().splitlines()) == 4
    assert list_results(papers_root=papers) == [("toy", "tiny", recorded)]


def test_equal_figures_leave_the_file_alone_and_others_replace_it(recorded):
    made = read_results(recorded)
    made["environment"], made["runs"][0]["seconds"]["train"] = {"finished": "later"}, 99.0
    assert write_results(recorded, made) is False
    made["runs"][0]["tokens"]["student"] = 2
    assert write_results(recorded, made) is True and read_results(recorded) == made


def test_an_experiment_may_keep_the_metrics_it_names_and_no_others(papers):
    """Figures of one run in a results file: those of `headline` and `metrics`, wherever a run reports any."""
    experiment = replace(
        load_experiment("toy", papers), headline=("error",), metrics=(), only_named_metrics=True
    )
    metric = {"kind": "mean", "higher_is_better": False, "title": "t", "unit": ""}
    setup = {
        "data_revision": "r",
        "environment": {},
        "metrics": {"error": metric | {"columns": ["wrong"]}, "ece": metric | {"columns": ["sure"]}},
    }
    both = {"error": 1.0, "ece": 2.0}
    record = {
        "arm": "method",
        "seed": 0,
        "metrics": both,
        "examples": {"wrong": [1.0], "sure": [2.0]},
        "curve": [{"step": 1, "metrics": both}],
        "seconds": {},
        "tokens": {},
        "rollouts": {},
    }
    saved = [{"record": record, "started": "", "finished": ""}]
    made = assemble(experiment, "tiny", setup, saved, workers=1, wall_seconds=0)
    assert list(made["metrics"]) == ["error"]
    run = made["runs"][0]
    assert run["metrics"] == {"error": 1.0} and run["examples"] == {"wrong": [1.0]}
    assert run["curve"] == [{"step": 1, "metrics": {"error": 1.0}}]
    whole = assemble(
        replace(experiment, only_named_metrics=False), "tiny", setup, saved, workers=1, wall_seconds=0
    )
    assert whole["runs"][0]["metrics"] == both and set(whole["runs"][0]["examples"]) == {"wrong", "sure"}


@pytest.mark.parametrize("path", [path for *_, path in list_results()], ids=lambda path: path.parts[-3])
def test_recorded_files_stay_small_enough_to_review(path):
    assert path.stat().st_size < 1_000_000, "name fewer metrics: Experiment.only_named_metrics"


def test_figures_are_without_times_and_machine(recorded):
    made = read_results(recorded)
    made["shared"] = {
        "teacher-1": {"kind": "teacher", "seconds": 3.0, "train_seconds": 2.0, "student_tokens": 5}
    }
    made["runs"][0]["curve"] = [{"step": 1, "train_seconds": 0.5, "metrics": {"error": 1.0}}]
    kept = figures(made)
    assert kept["shared"] == {"teacher-1": {"kind": "teacher", "student_tokens": 5}}
    assert kept["runs"][0]["curve"] == [{"step": 1, "metrics": {"error": 1.0}}]
    assert "environment" not in kept and "seconds" not in kept["runs"][0]
    assert "seconds" in made["runs"][0]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda made: made.pop("metrics"), "metrics is missing"),
        (lambda made: made.update(schema=2), "schema 2; this version reads schema 1"),
        (lambda made: made.update(verdict="reproduced"), "unknown field verdict"),
        (lambda made: made.update(runs={}), "runs must be list, not dict"),
        (lambda made: made["runs"][1].pop("seed"), r"runs[1].seed is missing"),
        (lambda made: made["runs"].append(made["runs"][0]), "stands twice"),
        (
            lambda made: made["runs"][0]["metrics"].update(error=0.1),
            "runs[0].metrics.error is 0.1, its examples give",
        ),
        (lambda made: made["runs"][0]["examples"]["error"].pop(), "equally long"),
        (lambda made: made["runs"][2]["examples"].pop("correct"), 'needs column "correct"'),
        (lambda made: made["metrics"]["error"].update(kind="median"), 'unknown metric kind "median"'),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_an_error_with_its_name(recorded, damage, message):
    made = json.loads(recorded.read_text())
    damage(made)
    recorded.write_text(json.dumps(made))
    if message == "equally long":
        with pytest.raises(KDError, match="tiny.json: .*its examples give"):
            read_results(recorded)
        return
    with pytest.raises(KDError) as error:
        read_results(recorded)
    assert "tiny.json: " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda runs: [run for run in runs if run["seed"] != 2],
            "of the 9 declared runs, missing: 3, among them arm baseline with seed 2;",
        ),
        (lambda runs: [run for run in runs if run["arm"] != "method"], "arm method with seed 0, 1, 2;"),
        (lambda runs: runs[1:], "missing: 1, among them arm baseline with seed 0;"),
        (lambda runs: [], "missing: 9, "),
        (
            lambda runs: [*runs, runs[0] | {"seed": 9}],
            "beyond those that the experiment declares: 1, among them arm baseline with seed 9;",
        ),
    ],
)
def test_a_file_with_runs_taken_out_or_put_in_is_refused(papers, damage, message):
    """Without the seeds that spoke against it, a claim that was not reproduced became inconclusive."""
    experiment, path = load_experiment("toy", papers), papers / "toy" / "results" / "tiny.json"
    whole = results(papers, {arm: levels(1, 1.1, 1.2) for arm in experiment.arms})
    check_config(path, whole, experiment)
    with pytest.raises(KDError) as error:
        check_config(path, whole | {"runs": damage(whole["runs"])}, experiment)
    assert f"{path}: " in str(error.value) and message in str(error.value)


def test_a_file_in_the_wrong_place_is_noticed(recorded, papers):
    moved = recorded.rename(recorded.with_name("paper.json"))
    with pytest.raises(KDError, match="holds results of toy at scale tiny"):
        check_config(moved, read_results(moved), load_experiment("toy", papers))
