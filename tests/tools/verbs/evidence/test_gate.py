"""`kd gate`: what it prints and how it ends, on the toy of the engine's tests."""

import json

import pytest

from reproductions.engine.gate import judge, record, spec
from tests.reproductions.engine.gate.conftest import copy_place, recorded  # noqa: F401
from tools import cli


@pytest.fixture
def kd(recorded, monkeypatch, capsys):  # noqa: F811
    """Runs `kd` on the toy's testbeds and records."""
    place = recorded[0]
    gate, run = place.gate(), judge.run_gate
    places = {"root": place.gates, "papers": place.papers, "cache": place.cache}
    monkeypatch.setattr(judge, "declared", lambda name: gate if name == "toy" else spec.gate_of(name))
    monkeypatch.setattr(judge, "run_gate", lambda gate, **options: run(gate, **{**options, **places}))
    monkeypatch.setattr(record, "ROOT", place.gates)

    def ask(*words: str) -> tuple[int, str, str]:
        code = cli.main(["gate", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return ask


def test_each_check_is_printed_with_its_figures_and_what_is_covered(kd):
    code, out, _ = kd("toy")
    assert code == 0 and "The gate of toy" in out
    assert out.count("passed") >= 4 and "baseline-between" in out and "needed: all of it between" in out
    assert "covers headroom (baseline-between, same-arm-twice, must-exist, plateau)" in out
    assert "the gate of toy passed; it covers headroom" in out


def test_json_is_for_programs_and_nothing_else_is_on_stdout(kd):
    code, out, _ = kd("toy", "--json")
    found = json.loads(out)
    assert code == 0 and found["passed"] is True and found["covers"] == ["headroom"]
    assert set(found["agrees"].values()) == {True} and found["record"]["testbed"] == "toy"


def test_show_runs_nothing_and_holds_the_record_against_its_figures(kd):
    code, out, _ = kd("toy", "--show")
    assert code == 0 and "covers headroom" in out
    code, out, _ = kd("toy", "--show", "--json")
    assert code == 0 and json.loads(out)["differs"] == [] and json.loads(out)["gate"]["status"] == "passed"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["toy", "--show", "--record"], "--show runs nothing: leave out --record and --fresh"),
        (["toy", "--recrd"], 'unknown option "--recrd" (did you mean "--record"?)'),
        (["toy", "--workers", "0"], '"0" is not a whole number of 1 or more'),
    ],
)
def test_bad_usage_is_one_line(kd, words, message):
    code, out, err = kd(*words)
    assert code == 2 and message in err and len(err.splitlines()) == 1


def test_a_testbed_that_is_not_there_or_has_no_gate_is_named(capsys):
    assert cli.main(["gate", "pronunciatin"]) == 2
    assert 'unknown testbed "pronunciatin" (did you mean "pronunciation"?)' in capsys.readouterr().err
    assert cli.main(["gate", "ultrachat"]) == 2
    assert "the testbed ultrachat declares no gate" in capsys.readouterr().err
