"""What `kd check` finds in gates."""

import pytest

from reproductions.engine.gate import record
from tools.checks import gates


def test_the_atlas_has_no_wrong_gate():
    assert list(gates.wrong(gates.of_papers(["minillm", "alm", "no-such-paper"]))) == []
    assert list(gates.orphans()) == []


def test_the_testbeds_of_papers_are_those_of_their_scales():
    assert {"words", "word-problems"} <= set(gates.of_papers(["minillm"]))


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(gates, "GATES", tmp_path)
    monkeypatch.setattr(record, "ROOT", tmp_path)
    return tmp_path


def test_records_that_belong_to_no_gate_are_found(records):
    (records / "gone.json").write_text("{}")
    (records / "gone").mkdir()
    assert [what for _, what in gates.orphans()] == ["no testbed gone declares a gate"] * 2


def test_a_broken_declaration_and_a_broken_record_are_told(records, monkeypatch):
    from reproductions.engine.errors import KDError

    def broken(name):
        raise KDError("pronunciation.yaml:7: a gate has no seeds")

    monkeypatch.setattr(gates, "gate_of", broken)
    assert list(gates.wrong(["pronunciation"])) == [
        ("reproductions/testbeds/pronunciation.yaml", "pronunciation.yaml:7: a gate has no seeds")
    ]
