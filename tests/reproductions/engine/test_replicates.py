"""Replicates: one file that another machine made, admitted only if everything in it follows from its columns."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from reproductions.engine import replicates
from reproductions.engine.errors import KDError
from reproductions.engine.reproduce import reproduce
from reproductions.engine.show import files, gather
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.pair import arm_path, read_arm, write_arm
from reproductions.engine.store.replicate import MANIFEST, read_replicate, write_replicate
from reproductions.engine.work.sessions.progress import SilentReporter
from tools.verbs.evidence import verify

from ..recorded import PassedGate
from .test_reproduce import FIGURES


@pytest.fixture
def toy(finished, toy, monkeypatch):
    """The toy paper as the checkout's, recorded."""
    shutil.copytree(finished[0].cache, toy.cache)
    for name, folder in (
        ("ROOT", ""),
        ("PAPERS", "papers"),
        ("RESULTS", "results"),
        ("TESTBEDS", "testbeds"),
    ):
        monkeypatch.setattr(gather, name, toy.root / folder)
    monkeypatch.setattr(gather, "TUNING", toy.root / "tuning")
    monkeypatch.setattr(gather, "gate_on", lambda testbed: PassedGate(figures=FIGURES))
    monkeypatch.setattr(files, "FOLDER", toy.root / "verdicts")
    monkeypatch.setenv("KD_CACHE", str(toy.cache))
    reproduce(toy.plan(), record=True, quiet=True, reporter=SilentReporter())
    return toy


def elsewhere(run, factor=1.1):
    """A run as another machine might have made it."""
    error = np.round(run.columns["error"] * factor, 6)
    made = replace(
        run,
        columns={**run.columns, "error": error},
        metrics={**run.metrics, "error": float(np.mean(error))},
        made_with={**run.made_with, "cpu": "another processor"},
        student="9" * 64,
        made=None,
    )
    return replace(made, digest=digest_of(made))


@pytest.fixture
def donated(toy):
    """A replicate of other figures in its place."""
    path = toy.root / "reproductions" / "replicates" / "toy" / "laptop.zip"
    plan = toy.plan()
    arms = {}
    for arm in plan.arms:
        found = read_arm(arm_path(toy.results / "line", plan.keys[arm]))
        arms[arm] = replace(found, runs={seed: elsewhere(run) for seed, run in found.runs.items()})
    write_replicate(path, plan, arms.items())
    return path


def test_what_is_donated_is_read_back_and_twice_the_same_bytes(toy, tmp_path):
    one, other = tmp_path / "one.zip", tmp_path / "other.zip"
    for path in (one, other):
        reproduce(toy.plan(), donate=path, quiet=True, reporter=SilentReporter())
    assert one.read_bytes() == other.read_bytes()
    found, plan = read_replicate(one), toy.plan()
    assert (found.paper, found.scale, found.testbed, found.name) == ("toy", "tiny", "line", "one")
    assert {arm: results.key for arm, results in found.arms.items()} == plan.keys
    recorded = read_arm(arm_path(toy.results / "line", plan.keys["method"]))
    assert found.arms["method"].runs[1].digest == recorded.runs[1].digest
    assert "torch 2" in found.about and len(zipfile.ZipFile(one).namelist()) == 1 + 2 * 3


def test_a_replicate_stands_beside_the_record_claim_by_claim(toy, donated):
    plan = toy.plan()
    recorded = gather.recorded(plan)
    found = replicates.beside(plan, recorded, replicates.admitted(plan, donated, recorded))
    one, other = found
    assert (one.claim, one.replicate) == ("teacher-helps", "laptop") and one.verdicts == (
        "reproduced",
        "reproduced",
    )
    assert one.replicated == pytest.approx(1.1 * one.recorded, rel=1e-3) and one.z > 0
    assert other.z == pytest.approx(-one.z, rel=0.05)
    compared, wrong = verify._replicates("toy", ["tiny"])
    assert compared == found and wrong == []
    lines = verify._beside(compared)
    assert lines[0].split() == ["claim", "REPLICATE", "RECORDED", "REPLICATED", "Z", "VERDICTS"]
    assert lines[1].split()[:2] == ["teacher-helps", "laptop"]


def test_fresh_seeds_are_a_second_opinion_and_never_a_record(toy):
    path, plan = toy.root / "fresh.zip", toy.plan(first_seed=10_000)
    assert plan.fresh and plan.seeds == (10_000, 10_001, 10_002) and plan.keys == toy.plan().keys
    outcome = reproduce(plan, donate=path, quiet=True, reporter=SilentReporter())
    assert outcome.exit_code == 0 and set(outcome.agrees.values()) == {True}
    whole = toy.plan()
    recorded = gather.recorded(whole)
    found = replicates.beside(whole, recorded, replicates.admitted(whole, path, recorded))
    assert all(entry.verdicts[0] == entry.verdicts[1] for entry in found)
    assert all(entry.recorded != entry.replicated for entry in found)
    with pytest.raises(KDError, match="for the declared seeds"):
        reproduce(plan, record=True, quiet=True, reporter=SilentReporter())
    with pytest.raises(KDError, match="seeds below 10000"):
        toy.plan(first_seed=40)


def test_the_recorded_runs_themselves_are_no_replicate(toy, donated):
    reproduce(toy.plan(), donate=donated, quiet=True, reporter=SilentReporter())
    compared, (told,) = verify._replicates("toy", ["tiny"])
    assert compared == [] and "laptop.zip: holds the recorded runs themselves" in told


def repacked(path, change):
    """The file with its contents changed, its manifest told of the change."""
    with zipfile.ZipFile(path) as packed:
        contents = {name: packed.read(name) for name in packed.namelist()}
    change(contents)
    import hashlib

    if MANIFEST in contents and not contents.pop("honest", None):
        manifest = json.loads(contents[MANIFEST])
        manifest["files"] = {
            name: hashlib.sha256(data).hexdigest() for name, data in contents.items() if name != MANIFEST
        }
        contents[MANIFEST] = json.dumps(manifest).encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in contents.items():
            packed.writestr(name, data)
    path.write_bytes(buffer.getvalue())


def edited(name, old, new):
    def change(contents):
        key = next(key for key in sorted(contents) if key.endswith(".json") and key != MANIFEST)
        key = MANIFEST if name == MANIFEST else key
        assert old in contents[key]
        contents[key] = contents[key].replace(old, new, 1)

    return change


def a_column(contents):
    """One answer of one run, and the mean that goes with it is left."""
    import pyarrow
    import pyarrow.parquet

    name = next(name for name in sorted(contents) if name.endswith(".parquet"))
    table = pyarrow.parquet.read_table(io.BytesIO(contents[name]))
    columns = {key: table[key].to_numpy().copy() for key in table.column_names}
    columns["error"][3] += 0.5
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer)
    contents[name] = buffer.getvalue()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (a_column, "metrics.error is"),
        (edited("", b'"error":', b'"eror":'), "eror"),
        (edited("", b'"noise":', b'"nois":'), "its spec has the key"),
        (edited(MANIFEST, b'"tiny"', b'"small"'), "of scale small, of which nothing is recorded"),
        (edited(MANIFEST, b'"line"', b'"../up"'), "a testbed or key is no plain name"),
        (lambda contents: contents.pop(MANIFEST), "manifest.json is missing or not JSON"),
        (lambda contents: contents.update({"../../evil.py": b"x"}), "holds what no replicate does: ../../evil.py"),
        (lambda contents: contents.update(honest=b"1", **{"0" * 16 + ".json": b"{}"}), "other files than its manifest"),
        (lambda contents: contents.pop(max(contents.keys() - {MANIFEST})), "parquet: cannot be read: No such file"),
    ],
)  # fmt: skip
def test_what_does_not_follow_is_refused_and_named(toy, donated, change, message):
    repacked(donated, change)
    compared, (told,) = verify._replicates("toy", ["tiny"])
    assert compared == [] and message in told and "laptop.zip" in told and str(toy.root) not in told


def test_what_is_no_such_file_or_of_other_arms_is_refused(toy, donated):
    toy.change("noise: 20.0", "noise: 19.0")
    with pytest.raises(KDError, match='arm "baseline" is not today\'s: its key is'):
        replicates.admitted(toy.plan(), donated, None)
    donated.write_bytes(donated.read_bytes()[:200])
    with pytest.raises(KDError, match=r"laptop\.zip: cannot be read as a replicate"):
        read_replicate(donated)
    with pytest.raises(KDError, match="cannot be read as a replicate"):
        read_replicate(donated.with_name("none.zip"))


def test_nothing_half_is_written(toy, tmp_path):
    plan = toy.plan()
    found = read_arm(arm_path(toy.results / "line", plan.keys["method"]))
    broken = replace(found, runs={0: replace(found.runs[0], metrics={**found.runs[0].metrics, "error": 7.0})})
    with pytest.raises(KDError, match="metrics.error is 7"):
        write_replicate(tmp_path / "made.zip", plan, [("method", broken)])
    assert not (tmp_path / "made.zip").exists()
    write_arm(arm_path(tmp_path, found.key), replace(found, testbed=tmp_path.name))
