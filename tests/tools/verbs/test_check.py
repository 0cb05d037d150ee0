"""`kd check --fingerprints`: a component that behaves otherwise is named, and so is every result that it overtakes."""

from __future__ import annotations

import copy
import re
import shutil

import pytest

from methods import behaviour, fingerprints
from tools import cli


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """What the components seem to do now: at first what is recorded, in a copy."""
    shutil.copy(fingerprints.FILE, tmp_path / "fingerprints.json")
    monkeypatch.setattr(fingerprints, "FILE", tmp_path / "fingerprints.json")
    now = copy.deepcopy(fingerprints.recorded())
    monkeypatch.setattr(behaviour, "measured", lambda: now)
    return now


def twice(figures):
    """Figures of another behaviour, whatever their shape."""
    return [twice(value) for value in figures] if isinstance(figures, list) else 2 * figures + 1


@pytest.fixture
def kd(capsys):
    """Runs `kd check --fingerprints`."""

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["check", "--fingerprints", *words])
        return code, " ".join(capsys.readouterr().out.split())

    return run


def test_components_that_behave_as_recorded_are_no_news(measured, kd):
    assert kd() == (0, f"all {len(measured)} components behave as recorded")
    before = fingerprints.FILE.read_bytes()
    assert kd("--write")[1].startswith("nothing to change")
    assert fingerprints.FILE.read_bytes() == before


def test_a_change_of_behaviour_is_named_then_written_with_what_it_makes_stale(measured, kd):
    measured["divergence/adaptive-kl"] = twice(measured["divergence/adaptive-kl"])
    measured["divergence/new-one"] = copy.deepcopy(measured["divergence/forward-kl"])
    del measured["target/noisy-teacher"]
    code, told = kd()
    assert code == 1 and "divergence/adaptive-kl: behaves otherwise than recorded" in told
    assert "divergence/new-one: has no recorded behaviour" in told
    assert "target/noisy-teacher: is gone" in told and "forward-kl: behaves" not in told
    code, told = kd("--write")
    assert code == 0 and "divergence/adaptive-kl: written" in told
    stale = told.split("reproductions/results/")[1:]
    assert stale and all(
        re.search("before (divergence/adaptive-kl|target/noisy-teacher) behaved", part) for part in stale
    )
    assert kd() == (0, f"all {len(measured)} components behave as recorded")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--write"], "--write goes with"),
        (["--owes", "--fingerprints"], "--owes and --fingerprints are 2 questions; ask one at a time"),
        (["--owes", "--statistics"], "ask one at a time"),
        (["--statistics", "minillm"], "stands alone"),
        (["--statistics", "--json"], "stands alone"),
    ],
)
def test_questions_that_do_not_go_together_are_refused(capsys, words, message):
    assert cli.main(["check", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_engines_characteristics_are_told(monkeypatch, capsys):
    from reproductions.engine.verdicts import characteristics

    monkeypatch.setattr(characteristics, "page", lambda: iter(["coverage 95.0", "type I 2.5"]))
    assert cli.main(["check", "--statistics"]) == 0
    assert capsys.readouterr().out == "coverage 95.0\ntype I 2.5\n"
