"""What `kd check` says of recorded files: overtaken by code, named by nobody, not what their name says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from catalog.schema import load_catalog
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.plan.plan import make_plan
from reproductions.engine.plan.spec import read_testbed_of, sweep_keys
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.pair import add_runs, read_arm
from tests.reproductions.recorded import ROOT
from tools.checks import missing, results


@pytest.fixture
def folder(checkout) -> Path:
    """Where the arms of the paper are recorded."""
    return checkout / "reproductions" / "results" / "arithmetic"


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the JSON of a file."""
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def whole() -> list[tuple[str, str]]:
    """Everything that is found."""
    paths = results.files()
    found = [*results.unreadable(paths), *results.stale(paths), *results.unnamed(["codi"])]
    found += [item for plan in results.plans(["codi"]) for item in results.changed_claims(plan)]
    return [*found, *results.old_sweeps(["codi"])]


def test_what_is_committed_is_in_order(checkout):
    catalog = load_catalog()
    assert results.files() and whole() == []
    kinds = {item.kind for item in missing.missing(catalog, catalog.papers["codi"])}
    assert not kinds & {"results", "stale", "claims", "sweep", "verdicts"}


def test_nothing_recorded_is_misnamed_unnamed_stale_or_swept_otherwise():
    papers = load_catalog().papers
    found = [*results.misnamed(results.files()), *results.unnamed(papers), *results.old_sweeps(papers)]
    found += results.stale(
        results.files()
    )  # a component whose behaviour changes is recorded with results made anew
    assert len(results.files()) > 100 and found == []


def test_a_component_that_behaves_otherwise_makes_results_stale(folder, monkeypatch, tmp_path):
    key = make_plan("codi").keys["codi"]
    path = folder / f"{key}.json"
    used = next(iter(json.loads(path.read_text())["made_with"].values()))["fingerprints"]
    assert "trainer/latent-reasoning" in used, "runs say how their components behaved"

    def before(data: dict[str, Any]) -> None:
        for one in data["made_with"].values():
            one["fingerprints"]["trainer/latent-reasoning"] = "00000000"

    edit(path, before)
    found = [item for item in results.stale(results.files()) if path.name in item[0]]
    assert found == [
        (
            f"reproductions/results/arithmetic/{path.name}",
            "seeds 0, 1, 2, 3, 4: made before trainer/latent-reasoning behaved as now; make them again, or say in "
            "stale.yaml why they stay: trainer/latent-reasoning: {'00000000': <the reason>}",
        )
    ]
    catalog = load_catalog()
    stale = [item for item in missing.missing(catalog, catalog.papers["codi"]) if item.kind == "stale"]
    assert [item.path for item in stale] == [found[0][0]]
    said = "trainer/latent-reasoning:\n  '00000000': its thoughts were others; kept until the next run\n"
    (folder.parent / "stale.yaml").write_text(said)
    assert not [item for item in results.stale(results.files()) if path.name in item[0]]


def test_a_file_that_no_arm_leads_to_is_named(folder):
    first = next(iter(sorted(folder.glob("*.json"))))
    shutil.copy(first, folder / "0123456789abcdef.json")
    (folder / "fedcba9876543210.parquet").touch()
    named = dict(results.unnamed(["codi"]))
    assert named == {
        "reproductions/results/arithmetic/0123456789abcdef.json": "no experiment names an arm of this key",
        "reproductions/results/arithmetic/fedcba9876543210.parquet": "has no JSON beside it",
    }


def test_additions_are_read_and_named_with_their_arm(folder):
    """Broken ones, an interrupted one, those of no arm, and claims that were frozen with them."""
    (plan,) = results.plans(["codi"])
    path = folder / f"{plan.keys['codi']}.json"
    arm = read_arm(path)
    run = replace(arm.runs[0], seed=99)
    more = {99: replace(run, digest=digest_of(run))}
    add_runs(path, replace(arm, runs=more, claims={"later/tiny": {"x": "ab12"}}))
    assert whole() == []
    frozen = {f"{plan.paper}/{plan.scale.name}": {"hidden-states-matter": "ffff"}}
    for first in results.files():
        edit(first, lambda data: data["claims"].clear())
    edit(path.with_suffix("") / "1.json", lambda data: data.update(claims=frozen))
    assert "hidden-states-matter asserts something else" in whole()[0][1]
    edit(path.with_suffix("") / "1.json", lambda data: data["runs"][0].update(seed=98))
    assert [what for name, what in results.unreadable([path]) if name.endswith(path.name)]
    (path.with_suffix("") / "2.parquet").touch()
    path.with_suffix("").rename(folder / "0123456789abcdef")
    where = "reproductions/results/arithmetic/0123456789abcdef"
    assert dict(results.unnamed(["codi"])) == {
        where: "holds additions, and there is no 0123456789abcdef.json",
        f"{where}/2.parquet": "has no JSON beside it",
    }


def test_a_committed_file_that_is_not_what_it_was_is_named(folder, checkout):
    assert list(results.changed_files()) == [], "nothing is held against anything where there is no git"
    commit(checkout, "recorded")
    path = next(iter(sorted(folder.glob("*.json"))))
    add = read_arm(path)
    run = replace(add.runs[0], seed=99)
    add_runs(path, replace(add, runs={99: replace(run, digest=digest_of(run))}))
    assert list(results.changed_files()) == []
    path.write_text(path.read_text() + "\n")
    ((name, what),) = results.changed_files()
    assert name == f"reproductions/results/arithmetic/{path.name}" and what.startswith(
        "is not what was committed"
    )


def commit(root: Path, message: str) -> None:
    """Everything as it is, in a repository of its own."""
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", message],
    ):
        subprocess.run(["git", "-C", str(root), *words], check=True, capture_output=True)


def test_results_of_earlier_attempts_are_named_by_them(folder):
    """And those of an earlier form of specs, to which no arm of today leads."""
    first = next(iter(sorted(folder.glob("*.json"))))
    for key in ("0123456789abcdef", "89abcdef01234567"):
        shutil.copy(first, folder / f"{key}.json")
        shutil.copy(first.with_suffix(".parquet"), folder / f"{key}.parquet")
    attempt = folder.parents[1] / "attempts" / "codi.1.json"
    attempt.parent.mkdir()
    shutil.copy(ROOT / "reproductions" / "attempts" / attempt.name, attempt)
    for place in range(4):
        keys = {"better": "0123456789abcdef", "worse": first.stem}
        edit(
            attempt,
            lambda data, place=place, keys=keys: data["claims"][place].update(
                keys={data["claims"][place][side]: key for side, key in keys.items()}
            ),
        )
    named = dict(results.unnamed(["codi"]))
    assert list(named) == ["reproductions/results/arithmetic/89abcdef01234567.json"]
    # An arm that no claim of that attempt weighed, and one that was made after it had ended.
    for day, unnamed in (("2026-01-01", []), ("2999-01-01", list(named))):
        whose = {"made_for": {"paper": "codi", "scale": "tiny"}, "finished": f"{day}T00:00:00Z"}
        edit(
            folder / "89abcdef01234567.json",
            lambda data, whose=whose: [run.update(whose) for run in data["runs"]],
        )
        assert list(dict(results.unnamed(["codi"]))) == unnamed
    # An arm of that attempt at another value of a dial, which no experiment has any more.
    edit(folder / "89abcdef01234567.json", lambda data: data["spec"]["testbed"]["task"].update(dial=1))
    assert dict(results.unnamed(["codi"])) == {}
    edit(folder / "89abcdef01234567.json", lambda data: data["spec"]["testbed"]["task"].pop("dial"))
    edit(folder / "89abcdef01234567.json", lambda data: data["spec"].update(version=2))
    assert dict(results.unnamed(["codi"])) == {}


def test_a_spec_that_is_not_that_of_its_name_is_found(folder):
    path = next(iter(sorted(folder.glob("*.json"))))
    edit(path, lambda data: data["spec"].update(start="pretrained"))
    ((name, what),) = results.misnamed(results.files())
    assert name.endswith(path.name) and what.startswith("its spec has the key ")
    path.write_text("{")
    ((_, what),) = results.misnamed(results.files())
    assert "not JSON" in what


def test_a_sweep_of_another_arm_is_named(checkout):
    path = checkout / "reproductions" / "tuning" / "tiny" / "codi.json"
    experiment = load_experiment("codi", results.gather.PAPERS)
    now = sweep_keys(experiment, "tiny", read_testbed_of(experiment, experiment.scale("tiny")))
    edit(path, lambda data: data.update(version=3, keys=now | {"codi": "0" * 16}))
    found = list(results.old_sweeps(["codi"]))
    assert found == [
        ("reproductions/tuning/tiny/codi.json", "was not made of today's codi: kd tune codi --scale tiny")
    ]
    edit(path, lambda data: data.pop("keys"))
    ((_, what),) = results.old_sweeps(["codi"])
    assert "codi" in what and "today's" in what
