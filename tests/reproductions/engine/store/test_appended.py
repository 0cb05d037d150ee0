"""What was recorded at a commit stands: added measures and seeds are no loss, whatever else is."""

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.metrics import values
from reproductions.engine.store.appended import RULE, WHERE, lost_since, rewritten, rewritten_since
from reproductions.engine.store.arm import digest_of
from reproductions.engine.store.pair import add_runs, arm_path, read_arm, write_arm

from .made import METRICS, levels, made_arm


def git(root, *words):
    return subprocess.run(
        ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b", *words],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


def committed(root, message):
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)
    return git(root, "rev-parse", "HEAD")


@pytest.fixture
def recorded(tmp_path):
    """A repository with one arm of two seeds, of which only the error was measured; its file and the commit."""
    git(tmp_path, "init", "-q")
    path = arm_path(tmp_path / WHERE / "line", "0123456789abcdef")
    few = {"error": METRICS["error"]}
    add_runs(path, made_arm(levels(0.98, 1.1), metrics=few, claims={"toy/tiny": {"better": "ab12"}}))
    return tmp_path, path, committed(tmp_path, "recorded")


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
    assert rewritten_since(commit, root, root / "attempts") == []
    later = committed(root, "an addition")
    assert lost_since(commit, root) == (2, []) and lost_since(later, root) == (0, [])
    add_runs(path, made_arm({7: levels(1)[0]}))
    assert lost_since(later, root) == (3, []), "then it had an addition already"
    shutil.rmtree(path.with_suffix(""))
    told = " ".join(lost_since(later, root)[1])
    assert "seed 2 is gone" in told and "seed 0: metric accuracy changed" in told
    gone = [name for name, _ in rewritten_since(later, root, root / "attempts")]
    assert gone == [f"{WHERE}/line/{path.stem}/1.{kind}" for kind in ("json", "parquet")]
    assert rewritten_since(commit, root, root / "attempts") == []


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


def ruled(root):
    """From this commit on the rule holds."""
    (root / RULE).write_text("each file is written once\n")
    return committed(root, "the rule")


def told(found):
    return [f"{name.removeprefix(f'{WHERE}/line/')} {what.split(' (')[0]}" for name, what in found]


KEY = "0123456789abcdef"


def test_a_file_that_changed_or_went_since_the_rule_is_told_for_good(recorded):
    root, path, before = recorded
    attempts = root / "attempts"
    changed(
        path, lambda run: replace(run, made_for={"paper": "a", "scale": "b"})
    )  # as it was done before the rule
    committed(root, "more")
    rule = ruled(root)
    assert rewritten(root, attempts) == rewritten_since(before, root, attempts) == []
    add_runs(path, made_arm(levels(0.98, 1.1, 1.2), metrics={"error": METRICS["error"]}))
    committed(root, "an addition")
    assert rewritten(root, attempts) == [] == rewritten_since(rule, root, attempts)
    more, first = path.with_suffix("") / "1.json", path.read_bytes()
    more.write_text(more.read_text() + "\n")
    assert told(rewritten(root, attempts)) == [f"{KEY}/1.json is not what was committed"]
    committed(root, "an edit")  # it was added after the rule, and changed after that
    path.write_bytes(first + b"\n")
    path.with_suffix(".parquet").unlink()
    committed(root, "an edit, and a file that is gone")
    found = [f"{KEY}.json is not what was committed", f"{KEY}.parquet is gone"]
    assert told(rewritten(root, attempts)) == [*found, f"{KEY}/1.json is not what was committed"]
    assert (
        told(rewritten_since(before, root, attempts)) == found == told(rewritten_since(rule, root, attempts))
    )
    path.write_bytes(first)
    git(root, "checkout", "-q", rule, "--", f"{WHERE}/line/{KEY}.parquet")
    more.write_text(more.read_text()[:-1])
    committed(root, "as they were")
    assert rewritten(root, attempts) == []


def test_what_a_branch_wrote_anew_before_it_was_merged_does_not_count(recorded):
    root, path, _ = recorded
    ruled(root)
    home = git(root, "branch", "--show-current")
    git(root, "checkout", "-qb", "branch")
    for level in (2, 3):
        other = arm_path(path.parent, "f" * 16)
        other.unlink(missing_ok=True)
        write_arm(other, made_arm(levels(level), key="f" * 16))
        committed(root, f"recorded with {level}")
    git(root, "checkout", "-q", home)
    (root / "other.txt").write_text("meanwhile")
    committed(root, "meanwhile")
    git(root, "merge", "-q", "--no-ff", "-m", "merged", "branch")
    assert rewritten(root, root / "attempts") == []
    other.write_text(other.read_text() + "\n")
    assert told(rewritten(root, root / "attempts")) == ["ffffffffffffffff.json is not what was committed"]
    path.write_text(path.read_text() + "\n")
    git(root, "checkout", "-qb", "another")
    committed(root, "edits")
    git(root, "checkout", "-q", home)
    git(root, "merge", "-q", "--no-ff", "-m", "merged", "another")
    assert len(rewritten(root, root / "attempts")) == 2, "what is merged changes what was recorded there"


def test_a_file_may_go_where_an_attempt_says_that_it_stands_in_the_history(recorded):
    root, path, commit = recorded
    attempts = root / "reproductions" / "attempts"
    attempts.mkdir()
    path.unlink()
    path.with_suffix(".parquet").unlink()
    assert len(rewritten_since(commit, root, attempts)) == 2
    raw = f"{WHERE}/line/{path.name}"
    (attempts / "toy.1.json").write_text(json.dumps({"raw": raw, "commit": commit}))
    assert rewritten_since(commit, root, attempts) == [] == rewritten(root, attempts)


def test_without_git_there_is_nothing_to_hold_files_against(recorded, tmp_path_factory):
    root, path, _ = recorded
    path.write_text("{")
    assert len(rewritten(root, root / "attempts")) == 1
    assert rewritten(root / "reproductions", root / "attempts") == [], "somebody else's repository around it"
    assert rewritten(tmp_path_factory.mktemp("installed"), root / "attempts") == []


def test_a_commit_that_nobody_knows_is_an_error(recorded):
    with pytest.raises(KDError, match="git .*nowhere"):
        rewritten_since("nowhere", recorded[0], recorded[0])
    with pytest.raises(KDError, match="git diff: .*nowhere"):
        lost_since("nowhere", recorded[0])
