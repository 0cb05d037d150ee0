"""From a results file to the rows that README, `show` and `verify` print, through the real judge."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.experiment import config, config_hash, load_experiment
from tools import cli, evidence, verdicts, verify

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
    monkeypatch.setattr(evidence, "PAPERS", tmp_path)
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
    assert [row.outcomes for row in evidence.claims("toy-paper")] == [(), ()]
    assert evidence.judged_papers(["toy-paper"]) == []
    assert evidence.values("toy-paper") == []


def test_recorded_results_become_rows(toy):
    record(toy)
    good, plain = evidence.claims("toy-paper")
    assert (good.paper_better, good.paper_worse, good.paper_setting) == (0.9, 0.7, "large models")
    assert good.source == "arXiv 2401.00001v2, Table 1"
    (outcome,) = good.outcomes
    assert (outcome.scale, outcome.verdict, outcome.seeds) == ("tiny", "reproduced", 5)
    assert outcome.difference == pytest.approx(0.2) and outcome.interval[0] > 0
    assert (outcome.better_mean, outcome.worse_mean) == pytest.approx((0.8, 0.6))
    assert outcome.equal_seconds.difference == pytest.approx(0.2)
    assert plain.outcomes[0].verdict == "not reproduced"
    assert plain.outcomes[0].explanation == "It was made up."
    assert plain.paper_better is None
    assert evidence.judged_papers(["toy-paper", "absent"]) == ["toy-paper"]
    json.dumps([row.as_dict() for row in (good, plain)])


def test_results_of_another_configuration_are_refused(toy):
    record(toy, config_hash="0" * 12)
    with pytest.raises(KDError, match="config 000000000000"):
        evidence.claims("toy-paper")


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
        evidence.claims("toy-paper")


def test_a_paper_without_experiment_has_no_claims(toy):
    (toy / "experiment.py").unlink()
    assert evidence.claims("toy-paper") == []
    assert not evidence.has_experiment("toy-paper")


def test_scales_come_from_the_experiment(toy):
    assert evidence.scales("toy-paper") == [("tiny", 0), ("small", 0)]
    assert evidence.scales("absent") == []


def test_reports_and_plots_are_found_where_they_exist(toy):
    record(toy)
    assert evidence.reports("toy-paper") == [("tiny", None, None)]
    for suffix in ("md", "png"):
        (toy / "results" / f"tiny.{suffix}").touch()
    assert evidence.reports("toy-paper") == [
        ("tiny", toy / "results" / "tiny.md", toy / "results" / "tiny.png")
    ]


def test_only_papers_with_an_experiment_can_be_run(toy):
    assert evidence.runnable_papers(["absent", "toy-paper"]) == ["toy-paper"]
    (toy / "experiment.py").unlink()
    assert evidence.runnable_papers(["absent", "toy-paper"]) == []


@pytest.fixture
def judged(toy, tmp_path, monkeypatch) -> list[str]:
    """The toy with results, everything long unchanged, an empty cache; the list grows when claims are judged."""
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    record(toy)
    settle(toy)
    monkeypatch.setattr(verdicts, "_files", lambda *folders: [])
    asked: list[str] = []
    claims = evidence.claims

    def counting(paper):
        asked.append(paper)
        return claims(paper)

    monkeypatch.setattr(evidence, "claims", counting)
    return asked


def settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


EXPECTED = {"toy-paper": {"reproduced": 1, "not reproduced": 1}}


def test_verdicts_are_counted_and_kept(judged, toy):
    assert verdicts.tallies(["toy-paper", "absent"]) == EXPECTED
    assert verdicts.tallies(["toy-paper"]) == EXPECTED and judged == ["toy-paper"]


@pytest.mark.parametrize("name", ["claims.yaml", "experiment.py", "results/tiny.json"])
def test_any_file_that_decides_a_verdict_makes_it_be_judged_again(judged, toy, name):
    verdicts.tallies(["toy-paper"])
    path = toy / name
    path.write_text(path.read_text().replace("The plain arm", "A plain arm") + "\n")
    settle(toy)
    assert verdicts.tallies(["toy-paper"]) == EXPECTED and len(judged) == 2


def test_changed_figures_change_the_count(judged, toy):
    verdicts.tallies(["toy-paper"])
    path = toy / "claims.yaml"
    path.write_text(path.read_text().replace("margin: 0", "margin: 0.9", 1))
    settle(toy)
    assert verdicts.tallies(["toy-paper"]) == {"toy-paper": {"not reproduced": 2}}


def test_new_results_and_another_judge_are_seen(judged, toy, monkeypatch):
    verdicts.tallies(["toy-paper"])
    (toy / "results" / "tiny.json").unlink()
    assert verdicts.tallies(["toy-paper"]) == {}
    record(toy)
    settle(toy)
    assert verdicts.tallies(["toy-paper"]) == EXPECTED
    count = len(judged)
    monkeypatch.setattr(verdicts, "_files", lambda *folders: [toy / "claims.yaml"])
    assert verdicts.tallies(["toy-paper"]) == EXPECTED and len(judged) == count + 1


def test_what_was_written_a_moment_ago_is_judged_again(judged, toy):
    (toy / "claims.yaml").touch()
    for _ in range(2):
        assert verdicts.tallies(["toy-paper"]) == EXPECTED
    assert len(judged) == 2


def test_results_that_cannot_be_judged_are_left_out_aloud(judged, toy, capsys):
    record(toy, config_hash="0" * 12)
    settle(toy)
    for _ in range(2):  # an error is never kept
        assert verdicts.tallies(["toy-paper"]) == {}
        assert "verdicts of toy-paper are left out" in capsys.readouterr().err
    (toy / "experiment.py").write_text("def (:")
    assert verdicts.tallies(["toy-paper"]) == {}


@pytest.mark.parametrize("entry", [7, [], [1, 2, 3], ["x", ["y"], {"reproduced": 9}], {"a": 1}])
def test_entries_of_another_shape_count_as_absent(judged, toy, monkeypatch, entry):
    monkeypatch.setattr(verdicts.cache, "read", lambda path, key: {"toy-paper": entry})
    assert verdicts.tallies(["toy-paper"]) == EXPECTED


def test_what_an_experiment_imports_decides_with_it(toy):
    (toy / "experiment.py").write_text(
        "from reproductions.papers.minillm import settings\n"
        "if True:\n    import reproductions.testbeds.base\n"
        "def late():\n    import reproductions.engine.pool\n"
    )
    names = [path.as_posix() for path in verdicts.sources("toy-paper")]
    assert any(name.endswith("minillm/settings.py") for name in names)
    assert any(name.endswith("testbeds/base.py") for name in names)
    assert not any(name.endswith("engine/pool.py") for name in names)
