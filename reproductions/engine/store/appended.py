"""Whether results were only added to: whatever was recorded at a commit stands unchanged in what is recorded now.

Twice over: every figure of then is a figure of now (`lost_since`), and every file of then is the same byte for byte
(`rewritten_since`, `rewritten`): files appear, none changes, none goes. Until the commit that brought this rule
(results/README.md) files were rewritten where an arm got more, without a change of a figure; of these only the first
holds. A file may go where an attempt says that its figures stand in the history (`raw`, see verdicts/attempts.py).
"""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from reproductions.engine.errors import KDError
from reproductions.engine.files import read_json
from reproductions.engine.store.arm import ArmResults, RunResults, same_measure
from reproductions.engine.store.layout import arm_path
from reproductions.engine.store.pair import read_arm

WHERE = "reproductions/results"
RULE = f"{WHERE}/README.md"  # the commit that brings it is the one from which no file changes
_GONE, _CHANGED = "is gone", "is not what was committed"
PLAIN = (
    "seconds",
    "tokens",
    "rollouts",
    "student",
    "made_with",
    "started",
    "finished",
    "made_for",
    "migrated",
)


def lost_since(commit: str, root: Path) -> tuple[int, list[str]]:
    """How many runs were recorded at a commit in the arms that changed since, and what of them does not stand now.

    Raises KDError for a commit that git does not know, and for a file that is broken.
    """
    changed = _names(root, "diff", "--name-only", "--no-renames", commit)
    changed += _names(root, "ls-files", "--others", "--exclude-standard")
    there = _names(root, "ls-tree", "-r", "--name-only", commit)
    arms = sorted({_arm_of(name) for name in changed} & {_arm_of(name) for name in there})
    lost, runs = [], 0
    with tempfile.TemporaryDirectory() as folder:
        if arms:
            wanted = [name for name in there if _arm_of(name) in arms]
            with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", commit, "--", *wanted))) as archive:
                archive.extractall(folder, filter="data")
        for name in arms:
            then = read_arm(Path(folder) / name)
            runs += len(then.runs)
            now = root / name
            found = _lost(then, read_arm(now)) if now.is_file() else iter(["the whole arm is gone"])
            lost += [f"{name}: {what}" for what in found]
    return runs, lost


def rewritten_since(commit: str, root: Path, attempts: Path) -> list[tuple[str, str]]:
    """Files of results of a commit that are not byte for byte the same now, each with what is wrong with it.

    Of a commit before the rule those are meant that stood when it came. `attempts`: the folder of attempts. Raises
    KDError for a commit that git does not know.
    """
    rule = _rule(root)
    start = rule if rule is not None and _is_before(root, commit, rule) else commit
    names = _names(root, "diff", "--name-only", "--no-renames", "--diff-filter=DMT", start)
    return list(_differing_files(root, dict.fromkeys(names, start), attempts))


def rewritten(root: Path, attempts: Path) -> list[tuple[str, str]]:
    """Committed files of results that are not what they were first committed as, since the rule holds.

    Nothing where `root` is no checkout of git: then there is nothing to hold files against.
    """
    try:
        top = _git(root, "rev-parse", "--show-toplevel").decode().strip()
        head = _git(root, "rev-parse", "HEAD").decode().strip()
    except KDError:
        return []
    if Path(top).resolve() != root.resolve():
        return []
    names = _names(root, "diff", "--name-only", "--no-renames", "--diff-filter=DMT", head)
    rule = _rule(root)
    if rule is None:
        return list(_differing_files(root, dict.fromkeys(names, head), attempts))
    names += _history(root, "DMT", "--name-only", "--format=", f"{rule}..{head}", "--", WHERE)
    found = {name: _first(root, name, rule, head) for name in names if _is_figures(name)}
    return list(_differing_files(root, found, attempts))


def _first(root: Path, name: str, rule: str, head: str) -> str:
    """The commit whose version of a file has to stand: that of the rule, or the one that brought the file later."""
    if _blob(root, rule, name) is not None:
        return rule
    brought = _history(root, "A", "--format=%H", f"{rule}..{head}", "--", name)
    return brought[-1] if brought else head


def _differing_files(root: Path, firsts: Mapping[str, str], attempts: Path) -> Iterator[tuple[str, str]]:
    """Of files, with the commit whose version has to stand, those that are gone or others now."""
    excused: set[str] | None = None
    for name, commit in sorted(firsts.items()):
        if not _is_figures(name):
            continue
        if not (root / name).is_file():
            excused = _in_the_history(attempts) if excused is None else excused
            if name.rpartition(".")[0] not in excused:
                yield name, f"{_GONE} (commit {commit[:12]} has it); results are never removed"
        elif _git(root, "hash-object", "--", name).decode().strip() != _blob(root, commit, name):
            yield name, f"{_CHANGED} (in {commit[:12]}); a file of results is never written again"


def _in_the_history(attempts: Path) -> set[str]:
    """The files, without their ending, of which an attempt says that they stand in the history alone."""
    raw = (read_json(path).get("raw") for path in sorted(attempts.glob("*.json")))
    return {name.rpartition(".")[0] for name in raw if name}


def _rule(root: Path) -> str | None:
    """The commit that brought the rule, on the way that this checkout took; None where git tells of none."""
    brought = _history(root, "A", "--format=%H", "--", RULE)
    return brought[-1] if brought else None


def _history(root: Path, kinds: str, *words: str) -> list[str]:
    """Lines of `git log` along first parents, a merge as what it changed there; `kinds` of changes as in git's filter.

    What a branch wrote anew before it was merged was never recorded, so it does not count.
    """
    log = ("log", "--first-parent", "-m", "--no-renames", f"--diff-filter={kinds}")
    return [line for line in _git(root, *log, *words).decode().split("\n") if line]


def _is_before(root: Path, commit: str, other: str) -> bool:
    """Whether a commit is an ancestor of another one. Raises KDError for one that git does not know."""
    base = _git(root, "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}").decode().strip()
    kept = _git(root, "rev-list", "--max-count=1", base, f"^{other}").strip()
    return not kept


def _blob(root: Path, commit: str, name: str) -> str | None:
    """The name that git has for what a file was at a commit; None where it was not there."""
    found = _git(root, "ls-tree", "--format=%(objectname)", commit, "--", name).decode().strip()
    return found or None


def _names(root: Path, *words: str) -> list[str]:
    """Files of results that a command of git tells."""
    return [name for name in _git(root, *words, "--", WHERE).decode().split("\n") if _is_figures(name)]


def _is_figures(name: str) -> bool:
    return name.endswith((".json", ".parquet"))


def _arm_of(name: str) -> str:
    """The JSON of the first runs of the arm that a file of results belongs to, from the root."""
    testbed, key = Path(name).relative_to(WHERE).parts[:2]
    return arm_path(Path(WHERE) / testbed, Path(key).stem).as_posix()


def _lost(then: ArmResults, now: ArmResults) -> Iterator[str]:
    for field in ("spec", "data_revision"):
        if getattr(then, field) != getattr(now, field):
            yield f"its {field.replace('_', ' ')} is another"
    yield from (f"claims frozen for {name} changed" for name in _differing(then.claims, now.claims))
    for name, metric in then.metrics.items():
        if name not in now.metrics or not same_measure(metric, now.metrics[name]):
            yield f"metric {name} means something else, or is gone"
    for seed, run in then.runs.items():
        if seed not in now.runs:
            yield f"seed {seed} is gone"
            continue
        yield from (f"seed {seed}: {what}" for what in _lost_of(run, now.runs[seed]))


def _lost_of(then: RunResults, now: RunResults) -> Iterator[str]:
    yield from (f"metric {name} changed" for name in _differing(then.metrics, now.metrics))
    for name, column in then.columns.items():
        if name not in now.columns or not np.array_equal(column, now.columns[name], equal_nan=True):
            yield f"column {name} changed"
    yield from (f"{name} changed" for name in PLAIN if getattr(then, name) != getattr(now, name))
    if list(then.made or ()) != list(now.made or ())[: len(then.made or ())]:
        yield "who measured what changed"
    curves = then.curve, now.curve
    if len(curves[0]) != len(curves[1]) or any(
        one["step"] != other["step"] or _differing(one["metrics"], other["metrics"])
        for one, other in zip(*curves, strict=True)
    ):
        yield "the curve changed"


def _differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The names whose value is another one now, or gone."""
    return [name for name, value in then.items() if name not in now or now[name] != value]


def _git(root: Path, *words: str) -> bytes:
    done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, check=False)  # noqa: S607
    if done.returncode:
        raise KDError(f"git {words[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
