"""From recorded results to the view that everybody prints, and to the committed verdicts."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.show import files, gather
from reproductions.engine.show.view import PaperView, from_dict
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.pair import add_runs, read_arm
from tests.reproductions.recorded import BED, PAPER, ROOT, copy_of_a_paper

EXPECTED = {PAPER: {"tiny": {"reproduced": 1, "no difference": 1, "reversed": 1, "open": 1}}}


@pytest.fixture
def paper(tmp_path: Path, monkeypatch) -> Path:
    """A paper with an experiment and results, without committed verdicts."""
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    return copy_of_a_paper(tmp_path / "checkout", monkeypatch)


@pytest.fixture
def experiment(paper) -> Path:
    return gather.experiment_file(PAPER)


@pytest.fixture
def unrun(paper) -> Path:
    """The paper without any results."""
    for path in (gather.RESULTS / BED).iterdir():
        path.unlink()
    return paper


def arm_file(arm: str) -> Path:
    return gather.RESULTS / BED / f"{make_plan(PAPER).keys[arm]}.json"


def test_claims_without_results_are_not_run(unrun):
    view = files.view(PAPER)
    assert [row.outcomes for row in view.claims] == [()] * 4 and not view.judged and view.values == ()
    (tiny,) = view.scales
    assert (tiny.name, tiny.recorded, tiny.stands_in) == ("tiny", False, "itself")
    assert all(arm.recipe and arm.key and arm.seeds == 0 for arm in tiny.arms)


def test_recorded_results_become_a_view(paper):
    view = files.view(PAPER)
    rows = {row.id: row for row in view.claims}
    row = rows["beats-silent-answers"]
    assert (
        row.source.startswith("arXiv 2502.21074") and row.source_url == "https://arxiv.org/abs/2502.21074v3"
    )
    assert row.formula == f"{row.better} - {row.worse} > 0" and row.metric == "exact_match"
    (outcome,) = row.outcomes
    assert (outcome.scale, outcome.testbed, outcome.seeds) == ("tiny", BED, 5)
    assert outcome.interval[0] < outcome.difference < outcome.interval[1]
    assert outcome.better_mean - outcome.worse_mean == pytest.approx(outcome.difference, abs=1e-3)
    assert outcome.equal_seconds is not None and view.tally() == EXPECTED[PAPER]
    assert all(
        outcome.explanation
        for row in view.claims
        for outcome in row.outcomes
        if outcome.verdict != "reproduced"
    )


def test_arms_have_figures_budgets_curves_recipes_and_files(paper):
    (tiny,) = files.view(PAPER).scales
    assert tiny.recorded and tiny.headline and tiny.made.startswith("cpu")
    codi = next(arm for arm in tiny.arms if arm.name == "codi")
    assert (codi.role, codi.seeds) == ("method", 5) and "latent-reasoning" in codi.recipe
    for figure in codi.figures:
        if figure.metric in tiny.headline:
            assert sum(figure.by_seed) / 5 == pytest.approx(figure.mean, rel=1e-4)
    assert codi.budget.train_seconds > 0 and len(codi.curves[0].points) == 3
    assert f"reproductions/results/{BED}/{codi.key}.json" in tiny.results
    assert all((gather.ROOT / name).is_file() for name in tiny.results)


def test_a_view_is_the_same_after_a_journey_through_json(paper):
    view = files.view(PAPER)
    assert from_dict(json.loads(json.dumps(view.as_dict()))) == view


def test_places_lead_to_files(paper):
    places = dict(files.view(PAPER).places)
    assert {"experiment", "recipe", "testbed", "sweep"} <= places.keys()
    assert all((gather.ROOT / path).is_file() for path in places.values())


@pytest.mark.parametrize("kept", [0, 4])
def test_runs_that_were_taken_out_are_missed(paper, kept):
    """An empty list of runs was once "not run", exit 0; one with a seed taken out was judged."""
    path = arm_file("codi")
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"runs": data["runs"][:kept]}))
    with pytest.raises(KDError, match="no runs" if kept == 0 else "incomplete: codi seed 4"):
        files.view(PAPER)


def test_a_hand_edited_figure_is_refused(paper):
    path = arm_file("codi")
    path.write_text(re.sub(r'"exact_match":[0-9.]+', '"exact_match":99.5', path.read_text(), count=1))
    with pytest.raises(KDError, match="never edited by hand"):
        files.view(PAPER)


def test_a_paper_without_experiment_has_no_view(paper, experiment):
    assert gather.runnable(["absent", PAPER]) == [PAPER]
    experiment.unlink()
    assert files.view(PAPER) is None and files.views([PAPER, "absent"]) == {}


@pytest.fixture
def judged(paper, monkeypatch) -> list[str]:
    """The paper with committed verdicts; the list grows when claims are judged."""
    files.write(gather.gather(PAPER))
    settle(paper)
    asked: list[str] = []
    inner = gather.gather

    def counting(name: str) -> PaperView:
        asked.append(name)
        return inner(name)

    monkeypatch.setattr(gather, "gather", counting)
    return asked


def settle(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))


def test_committed_verdicts_are_the_view_and_are_not_judged_again(judged):
    assert files.stale([PAPER]) == []
    shown = files.view(PAPER)
    assert judged == [] and shown == gather.gather(PAPER)
    assert not files.write(shown)  # nothing to change
    json.dumps(shown.as_dict())


@pytest.mark.parametrize(
    "name",
    [
        f"reproductions/papers/{PAPER}.yaml",
        f"reproductions/testbeds/{BED}.yaml",
        f"reproductions/tuning/tiny/{PAPER}.json",
        f"methods/recipes/{PAPER}.yaml",
        "methods/recipes/sft.yaml",
        "results",
        "examples",
    ],
)
def test_whatever_decides_a_verdict_makes_the_committed_ones_stale(judged, paper, name):
    results = {"results": arm_file("codi"), "examples": arm_file("codi").with_suffix(".parquet")}
    path = results.get(name, paper / name)
    path.write_bytes(path.read_bytes() + b"\n")
    assert files.stale([PAPER]) == [PAPER]
    if name != "examples":  # more bytes at the end are no Parquet
        assert files.view(PAPER).tally() == EXPECTED[PAPER] and judged == [PAPER]


def test_an_addition_makes_the_committed_ones_stale(judged):
    """Also one that no claim is decided by; and not what an interrupted write left."""
    path = arm_file("codi")
    arm = read_arm(path)
    run = replace(arm.runs[0], seed=99)
    add_runs(path, replace(arm, runs={99: replace(run, digest=digest_of(run))}))
    assert files.stale([PAPER]) == [PAPER] and gather.digests(PAPER)[0] == gather.digests(PAPER, ())[0]
    files.write(files.view(PAPER))
    assert files.stale([PAPER]) == [] and files.read(PAPER).tally() == EXPECTED[PAPER]
    (path.with_suffix("") / "2.parquet").write_bytes(b"half")
    assert files.stale([PAPER]) == []


def test_changed_claims_change_what_is_shown_at_once(judged, experiment):
    change(experiment)
    assert files.view(PAPER).tally() != EXPECTED[PAPER]


def change(experiment: Path) -> None:
    """Asks for more than there is."""
    text = experiment.read_text()
    assert "  metric: exact_match\n" in text
    experiment.write_text(
        text.replace("  metric: exact_match\n", "  metric: exact_match\n  margin: 1000\n", 1)
    )


def test_results_that_are_gone_are_seen(judged):
    for path in (gather.RESULTS / BED).iterdir():
        path.unlink()
    assert files.stale([PAPER]) == [PAPER] and not files.view(PAPER).judged


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("reversed", "reproduced"),
        ('"schema": 2', '"schema": 0'),
        (f'"paper": "{PAPER}"', '"paper": "another"'),
        ('"claims": [', '"claims": 7, "x": ['),
        (
            "{",
            "",
        ),
    ],
)
def test_a_typed_verdict_counts_as_none(judged, old, new):
    path = files.path_of(PAPER)
    path.write_text(path.read_text().replace(old, new, 1))
    assert files.read(PAPER) is None and files.stale([PAPER]) == [PAPER]
    assert files.view(PAPER).tally() == EXPECTED[PAPER] and judged == [PAPER]


def test_a_file_of_no_paper_is_an_orphan(judged):
    (files.FOLDER / "gone.json").write_text("{}")
    assert [path.name for path in files.orphans([PAPER])] == ["gone.json"]


def test_counts_for_browsing_parse_each_file_once(judged, monkeypatch):
    parsed: list[str] = []
    inner = files.read
    monkeypatch.setattr(files, "read", lambda paper: parsed.append(paper) or inner(paper))
    for _ in range(3):
        assert files.tallies([PAPER, "absent"]) == EXPECTED
    assert parsed == [PAPER] and judged == []


def test_counts_follow_the_file(judged, experiment):
    assert files.tallies([PAPER]) == EXPECTED
    change(experiment)
    assert files.tallies([PAPER]) == EXPECTED  # of the committed file, until it is written
    files.write(files.view(PAPER))
    assert files.tallies([PAPER]) == {PAPER: {"tiny": {"reversed": 4}}}


def test_what_was_written_a_moment_ago_is_not_remembered(judged, monkeypatch):
    files.path_of(PAPER).touch()
    parsed: list[str] = []
    inner = files.read
    monkeypatch.setattr(files, "read", lambda paper: parsed.append(paper) or inner(paper))
    for _ in range(2):
        assert files.tallies([PAPER]) == EXPECTED
    assert len(parsed) == 2


@pytest.mark.parametrize("entry", [7, [], [1, 2, 3], ["x", ["y"], {"reproduced": 9}], {"a": 1}])
def test_remembered_counts_of_another_shape_count_as_absent(judged, monkeypatch, entry):
    monkeypatch.setattr(files.cache, "read", lambda path, key: {PAPER: entry})
    assert files.tallies([PAPER]) == EXPECTED


def test_earlier_attempts_are_part_of_the_view_and_of_what_decides_it(judged, paper):
    folder = paper / "reproductions" / "attempts"
    folder.mkdir()
    shutil.copy(ROOT / "reproductions" / "attempts" / f"{PAPER}.1.json", folder)
    for raw in (ROOT / "reproductions" / "results" / BED).iterdir():  # under the keys of then
        shutil.copy(raw, paper / "reproductions" / "results" / BED)
    assert files.stale([PAPER]) == [PAPER]
    view = files.view(PAPER)
    (attempt,) = view.attempts
    assert (attempt.number, attempt.engine, attempt.testbed, view.attempt) == (1, 1, BED, (0, ""))
    assert all(claim.agrees and claim.now[0] <= claim.difference <= claim.now[1] for claim in attempt.claims)
    assert [claim.now_verdict for claim in attempt.claims] == [
        outcome.verdict for row in view.claims for outcome in row.outcomes
    ], "the same figures under the same engine"
    assert from_dict(json.loads(json.dumps(view.as_dict()))) == view


def test_what_was_judged_once_stays_judged_where_a_gate_is_missing(judged, paper, monkeypatch):
    monkeypatch.setattr(gather, "gate_on", lambda testbed: None)
    alone = gather.gather(PAPER)
    assert alone.tally() == {"tiny": {"needs": 4}} and not alone.judged
    folder = paper / "reproductions" / "attempts"
    folder.mkdir()
    shutil.copy(ROOT / "reproductions" / "attempts" / f"{PAPER}.1.json", folder)
    assert gather.gather(PAPER).judged
