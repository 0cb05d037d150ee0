"""What was recorded at a commit stands: added measures and seeds are no loss, whatever else is."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.engine.store.appended import WHERE, lost_since
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.pair import add_runs, arm_path, read_arm, write_arm

from .made import METRICS, levels, made_arm


def git(root, *words):
    return subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def recorded(tmp_path):
    """A repository with one arm of two seeds, of which only the error was measured; its file and the commit."""
    git(tmp_path, "init", "-q")
    path = arm_path(tmp_path / WHERE / "line", "0123456789abcdef")
    few = {"error": METRICS["error"]}
    add_runs(path, made_arm(levels(0.98, 1.1), metrics=few, claims={"toy/tiny": {"better": "ab12"}}))
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "recorded")
    return tmp_path, path, git(tmp_path, "rev-parse", "HEAD")


def changed(path, change):
    arm = read_arm(path)
    runs = {seed: change(run) for seed, run in arm.runs.items()}
    runs = {seed: replace(run, digest=digest_of(run)) for seed, run in runs.items()}
    path.unlink()
    write_arm(path, replace(arm, runs=runs))


def test_measures_and_seeds_that_are_added_are_no_loss(recorded):
    root, path, commit = recorded
    assert lost_since(commit, root) == (0, [])
    add_runs(path, made_arm(levels(0.98, 1.1, 1.2)))
    assert set(read_arm(path).runs[0].metrics) == set(METRICS) and lost_since(commit, root) == (2, [])


def with_errors(run):
    columns = {**run.columns, "error": run.columns["error"] + np.eye(1, len(run.columns["error"]))[0]}
    return replace(run, columns=columns, metrics=values(run.definitions, columns))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (with_errors, "seed 1: metric error changed"),
        (with_errors, "seed 0: column error changed"),
        (lambda run: replace(run, seconds={**run.seconds, "train": 9.0}), "seed 0: seconds changed"),
        (lambda run: replace(run, made_with={**run.made_with, "cpu": "x"}), "seed 0: made_with changed"),
        (lambda run: replace(run, student="5" * 64), "seed 0: student changed"),
    ],
)
def test_a_figure_that_is_another_is_told_whole_in_itself_as_its_file_may_be(recorded, change, said):
    root, path, commit = recorded
    changed(path, change)
    assert any(line.endswith(f"0123456789abcdef.json: {said}") for line in lost_since(commit, root)[1])


def test_an_arm_a_seed_and_a_claim_that_are_gone_are_told(recorded):
    root, path, commit = recorded
    arm = read_arm(path)
    path.unlink()
    assert lost_since(commit, root)[1] == [f"{WHERE}/line/{path.name}: the whole arm is gone"]
    write_arm(path, replace(arm, runs={0: arm.runs[0]}, claims={"toy/tiny": {"better": "ffff"}}))
    told = " ".join(lost_since(commit, root)[1])
    assert "seed 1 is gone" in told and "claims frozen for toy/tiny changed" in told


def test_a_commit_that_nobody_knows_is_an_error(recorded):
    with pytest.raises(KDError, match="git diff: .*nowhere"):
        lost_since("nowhere", recorded[0])
