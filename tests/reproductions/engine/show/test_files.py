"""From a results file to the view that everybody prints, through the real judge, and to the committed verdicts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from reproductions.engine.experiment import config, config_hash, load_experiment

from reproductions.engine.errors import KDError
from reproductions.engine.show import files, gather
from reproductions.engine.show.view import PaperView
from tools import cli
from tools.verbs import verify

EXPERIMENT = """
from reproductions.engine.experiment import Arm, Experiment, Scale

EXPERIMENT = Experiment(
    paper="toy-paper",
    title="A toy",
    arms={name: Arm(name, lambda run: None, role) for name, role in [("good", "method"), ("plain", "baseline")]},
    scales={
        "tiny": Scale("nothing", (1, 2, 3, 4, 5), {"steps": 3}),
        "small": Scale("nothing", (1, 2, 3), {"steps": 4}),
    },
    headline=("accuracy",),
)
"""
CLAIMS = """
claims:
  - id: good-wins
    statement: The good arm is more often right.
    source: {arxiv: "2401.00001", version: 2, where: Table 1}
    metric: accuracy
    better: good
    worse: plain
    margin: 0
    scales: [tiny, small]
    paper_numbers: {better: 0.9, worse: 0.7, setting: large models}
  - id: plain-wins
    statement: The plain arm is more often right.
    source: {arxiv: "2401.00001", version: 2, where: Table 2}
    metric: accuracy
    better: plain
    worse: good
    margin: 0
    scales: [tiny]
findings:
  - {claim: plain-wins, scale: tiny, explanation: It was made up.}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch) -> Path:
    """A paper with an experiment and claims, and no results."""
    folder = tmp_path / "toy_paper"
    (folder / "results").mkdir(parents=True)
    (folder / "experiment.py").write_text(EXPERIMENT)
    (folder / "claims.yaml").write_text(CLAIMS)
    monkeypatch.setattr(gather, "PAPERS", tmp_path)
    monkeypatch.setattr(files, "FOLDER", tmp_path / "verdicts")
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    return folder


def record(folder: Path, **changes: object) -> None:
    """A tiny results file: "good" is right on 80 of 100 examples, "plain" on 60."""
    experiment = load_experiment("toy-paper", folder.parent)
    runs = []
    for arm, right in (("good", 80), ("plain", 60)):
        for seed in (1, 2, 3, 4, 5):
            correct = [1.0 if (place + seed) % 100 < right else 0.0 for place in range(100)]
            runs.append(
                {
                    "arm": arm,
                    "seed": seed,
                    "metrics": {"accuracy": sum(correct) / 100},
                    "examples": {"correct": correct},
                    "curve": [{"step": 3, "train_seconds": 2.0, "metrics": {"accuracy": right / 100}}],
                    "seconds": {"train": 2.0, "evaluate": 1.0, "total": 3.0},
                    "tokens": {"student": 1, "teacher": 1, "generated": 0},
                    "rollouts": {"completions": 0, "truncated": 0, "empty": 0},
                }
            )
    metric = {
        "kind": "mean",
        "columns": ["correct"],
        "higher_is_better": True,
        "title": "Accuracy",
        "unit": "",
    }
    results = {
        "schema": 1,
        "paper": "toy-paper",
        "scale": "tiny",
        "testbed": "nothing",
        "config_hash": config_hash(experiment, "tiny"),
        "config": config(experiment, "tiny"),
        "data_revision": "none",
        "environment": {},
        "metrics": {"accuracy": metric},
        "shared": {},
        "runs": runs,
        **changes,
    }
    (folder / "results" / "tiny.json").write_text(json.dumps(results))


def test_claims_without_results_are_not_run(toy):
    view = files.view("toy-paper")
    assert [row.outcomes for row in view.claims] == [(), ()] and not view.judged and view.values == ()
    assert [(scale.name, scale.recorded, len(scale.arms)) for scale in view.scales] == [
        ("tiny", False, 2),
        ("small", False, 2),
    ]


def test_recorded_results_become_a_view(toy):
    record(toy)
    view = files.view("toy-paper")
    good, plain = view.claims
    assert (good.paper_better, good.paper_worse, good.paper_setting) == (0.9, 0.7, "large models")
    assert good.source == "arXiv 2401.00001v2, Table 1" and good.formula == "good - plain > 0"
    assert good.source_url == "https://arxiv.org/abs/2401.00001v2"
    (outcome,) = good.outcomes
    assert (outcome.scale, outcome.verdict, outcome.seeds) == ("tiny", "reproduced", 5)
    assert outcome.difference == pytest.approx(0.2) and outcome.interval[0] > 0
    assert (outcome.better_mean, outcome.worse_mean) == pytest.approx((0.8, 0.6))
    assert outcome.equal_seconds.difference == pytest.approx(0.2)
    assert plain.outcomes[0].verdict == "not reproduced"
    assert plain.outcomes[0].explanation == "It was made up."
    assert plain.paper_better is None
    assert view.tally() == {"tiny": {"reproduced": 1, "not reproduced": 1}}


def test_arms_have_figures_budgets_and_curves(toy):
    record(toy)
    tiny, small = files.view("toy-paper").scales
    assert tiny.recorded and not small.recorded and tiny.headline == ("accuracy",)
    good = tiny.arms[0]
    assert (good.name, good.role, good.seeds) == ("good", "method", 5)
    (figure,) = good.figures
    assert figure.mean == pytest.approx(0.8) and figure.by_seed == (0.8,) * 5
    assert good.budget.train_seconds == 2.0 and good.budget.truncated is None
    assert good.curves[0].points == ((3.0, 2.0, 80.0),) or good.curves[0].points == ((3.0, 2.0, 0.8),)


def test_results_of_another_configuration_are_refused(toy):
    record(toy, config_hash="0" * 12)
    with pytest.raises(KDError, match="config 000000000000"):
        files.view("toy-paper")


@pytest.mark.parametrize("kept", [0, 9])
def test_verify_refuses_a_file_that_runs_were_taken_out_of(toy, monkeypatch, capsys, kept):
    """An empty list of runs was "not run", exit 0; one with a seed taken out was judged."""
    record(toy)
    path = toy / "results" / "tiny.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"runs": results["runs"][:kept]}))
    monkeypatch.setattr(verify, "load_catalog", lambda: SimpleNamespace(papers=["toy-paper"]))
    assert cli.main(["verify"]) == 2
    assert f"of the 10 declared runs, missing: {10 - kept}" in capsys.readouterr().err


def test_a_hand_edited_figure_is_refused(toy):
    record(toy)
    path = toy / "results" / "tiny.json"
    path.write_text(path.read_text().replace('"accuracy": 0.8}', '"accuracy": 0.9}', 1))
    with pytest.raises(KDError, match="never edited by hand"):
        files.view("toy-paper")


def test_a_paper_without_experiment_has_no_view(toy):
    assert gather.runnable(["absent", "toy-paper"]) == ["toy-paper"]
    (toy / "experiment.py").unlink()
    assert files.view("toy-paper") is None and files.views(["toy-paper", "absent"]) == {}


@pytest.fixture
def judged(toy, monkeypatch) -> list[str]:
    """The toy with committed verdicts; the list grows when claims are judged."""
    record(toy)
    files.write(gather.gather("toy-paper"))
    settle(toy.parent)
    asked: list[str] = []
    inner = gather.gather

    def counting(paper: str) -> PaperView:
        asked.append(paper)
        return inner(paper)

    monkeypatch.setattr(gather, "gather", counting)
    return asked


def settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


EXPECTED = {"toy-paper": {"tiny": {"reproduced": 1, "not reproduced": 1}}}


def test_committed_verdicts_are_the_view_and_are_not_judged_again(judged):
    assert files.stale(["toy-paper"]) == []
    shown = files.view("toy-paper")
    assert judged == [] and shown == gather.gather("toy-paper")
    assert not files.write(shown)  # nothing to change
    json.dumps(shown.as_dict())


@pytest.mark.parametrize("name", ["claims.yaml", "experiment.py", "results/tiny.json"])
def test_whatever_decides_a_verdict_makes_the_committed_ones_stale(judged, toy, name):
    path = toy / name
    path.write_text(path.read_text().replace("The plain arm", "A plain arm") + "\n")
    assert files.stale(["toy-paper"]) == ["toy-paper"]
    assert files.view("toy-paper").tally() == EXPECTED["toy-paper"] and judged == ["toy-paper"]


def test_changed_claims_change_what_is_shown_at_once(judged, toy):
    path = toy / "claims.yaml"
    path.write_text(path.read_text().replace("margin: 0", "margin: 0.9", 1))
    assert files.view("toy-paper").tally() == {"tiny": {"not reproduced": 2}}


def test_new_results_are_seen(judged, toy):
    (toy / "results" / "tiny.json").unlink()
    assert files.stale(["toy-paper"]) == ["toy-paper"] and not files.view("toy-paper").judged


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("not reproduced", "reproduced"),
        ('"schema": 1', '"schema": 0'),
        ('"paper": "toy-paper"', '"paper": "another"'),
        ('"claims": [', '"claims": 7, "x": ['),
        (
            "{",
            "",
        ),
    ],
)
def test_a_typed_verdict_counts_as_none(judged, old, new):
    path = files.path_of("toy-paper")
    path.write_text(path.read_text().replace(old, new, 1))
    assert files.read("toy-paper") is None and files.stale(["toy-paper"]) == ["toy-paper"]
    assert files.view("toy-paper").tally() == EXPECTED["toy-paper"] and judged == ["toy-paper"]


def test_a_file_of_no_paper_is_an_orphan(judged):
    (files.FOLDER / "gone.json").write_text("{}")
    assert [path.name for path in files.orphans(["toy-paper"])] == ["gone.json"]


def test_counts_for_browsing_parse_each_file_once(judged, monkeypatch):
    parsed: list[str] = []
    inner = files.read
    monkeypatch.setattr(files, "read", lambda paper: parsed.append(paper) or inner(paper))
    for _ in range(3):
        assert files.tallies(["toy-paper", "absent"]) == EXPECTED
    assert parsed == ["toy-paper"] and judged == []


def test_counts_follow_the_file(judged, toy):
    assert files.tallies(["toy-paper"]) == EXPECTED
    path = toy / "claims.yaml"
    path.write_text(path.read_text().replace("margin: 0", "margin: 0.9", 1))
    assert files.tallies(["toy-paper"]) == EXPECTED  # of the committed file, until it is written
    files.write(files.view("toy-paper"))
    assert files.tallies(["toy-paper"]) == {"toy-paper": {"tiny": {"not reproduced": 2}}}


def test_what_was_written_a_moment_ago_is_not_remembered(judged, monkeypatch):
    files.path_of("toy-paper").touch()
    parsed: list[str] = []
    inner = files.read
    monkeypatch.setattr(files, "read", lambda paper: parsed.append(paper) or inner(paper))
    for _ in range(2):
        assert files.tallies(["toy-paper"]) == EXPECTED
    assert len(parsed) == 2


@pytest.mark.parametrize("entry", [7, [], [1, 2, 3], ["x", ["y"], {"reproduced": 9}], {"a": 1}])
def test_remembered_counts_of_another_shape_count_as_absent(judged, monkeypatch, entry):
    monkeypatch.setattr(files.cache, "read", lambda path, key: {"toy-paper": entry})
    assert files.tallies(["toy-paper"]) == EXPECTED
