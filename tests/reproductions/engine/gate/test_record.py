"""Records of gates: what they say of today's testbed, and that an edited one is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reproductions.engine.errors import KDError
from reproductions.engine.gate.record import (
    Check,
    GateRecord,
    gate_path,
    identity_of,
    needs_gate,
    read_gate,
    write_record,
)
from reproductions.testbeds import gate_identity, identity, read_testbed

PLAIN = """about: a testbed of a test
task: {name: pronunciation}
decoding: {batch: 8}
students: {main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}}}
teachers:
  main: {shape: {layers: 1, hidden: 8, heads: 1, intermediate: 8}, training: {max_steps: 1}}
metrics:
  answers: {sampled: [rouge_l]}
gate: {metric: rouge_l, seeds: 5}
"""


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """A folder for records, beside one with a testbed `plain`."""
    (tmp_path / "testbeds").mkdir()
    (tmp_path / "testbeds" / "plain.yaml").write_text(PLAIN)
    return tmp_path / "gates"


def bed(gates: Path) -> dict:
    return read_testbed("plain", gates.parent / "testbeds")


def record(gates: Path, **changes) -> GateRecord:
    return replace(
        GateRecord(
            testbed="plain",
            metric="rouge_l",
            date="2026-11-28",
            seeds=(1000, 1001),
            learning_rate=4e-3,
            level=0.95,
            smallest_effect=0.6,
            figures={"rouge_l": {"baseline": 69.3, "teacher": 81.4}},
            checks=(
                Check("teacher-better", True, "12.1 points", {"difference": 12.1}),
                Check("plateau", True, "moves by 0.1"),
                Check("ladder", False, "2 points apart"),
            ),
            properties={"headroom": ("teacher-better", "plateau"), "capacity-gap": ("ladder",)},
            arms={"baseline": {"key": "abc", "seeds": [1000, 1001]}},
            identity=identity_of(bed(gates)),
        ),
        **changes,
    )


def test_a_record_is_read_back_as_it_was_written(gates):
    made = record(gates)
    write_record(made, gates)
    found = read_gate("plain", gates)
    assert found == made
    assert found.passed and found.covers == {"headroom"} and found.failing == ("ladder",)
    assert found.figures["rouge_l"]["teacher"] == 81.4
    assert [line for line in gate_path("plain", gates).read_text().splitlines() if '"plateau", "p' in line]


def test_no_record_is_none_and_says_what_to_do(gates):
    assert read_gate("plain", gates) is None
    assert needs_gate("plain", gates) == "no gate of plain is recorded: `kd gate plain --record` makes it"


def test_a_gate_whose_headroom_fails_covers_nothing(gates):
    made = record(gates)
    checks = (replace(made.checks[0], passed=False), made.checks[1], replace(made.checks[2], passed=True))
    write_record(replace(made, checks=checks), gates)
    found = read_gate("plain", gates)
    assert not found.passed and found.covers == frozenset() and found.status == "failed"
    assert needs_gate("plain", gates) == "the gate of plain failed (teacher-better)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("task: {name: pronunciation}", "task: {name: pronunciation, train_words: 100}"),
        ("{max_steps: 1}", "{max_steps: 2}"),
        ("seeds: 5", "seeds: 10"),
        ("gate:", "defaults: {training: {max_steps: 3}}\ngate:"),
    ],
)
def test_another_task_model_default_or_gate_makes_a_record_outdated(gates, old, new):
    write_record(record(gates), gates)
    (gates.parent / "testbeds" / "plain.yaml").write_text(PLAIN.replace(old, new))
    found = read_gate("plain", gates)
    assert found.status == "outdated" and not found.passed and found.covers == frozenset()
    assert "was recorded for another plain" in needs_gate("plain", gates)


@pytest.mark.parametrize(
    ("old", "new"),
    [("a testbed of a test", "said otherwise"), ("sampled: [rouge_l]", "sampled: [rouge_l, exact_match]")],
)
def test_words_and_further_metrics_do_not(gates, old, new):
    write_record(record(gates), gates)
    (gates.parent / "testbeds" / "plain.yaml").write_text(PLAIN.replace(old, new))
    assert read_gate("plain", gates).passed


def test_a_testbed_that_a_scale_changed_is_asked_about_as_it_is_there(gates):
    write_record(record(gates), gates)
    changed = bed(gates)
    assert read_gate(changed, gates).passed
    changed["teachers"]["main"]["training"]["max_steps"] = 7
    assert read_gate(changed, gates).status == "outdated"


def test_a_gate_is_no_part_of_what_a_run_follows_from(gates):
    with_gate = bed(gates)
    without = {name: value for name, value in with_gate.items() if name != "gate"}
    assert identity(with_gate) == identity(without)
    assert gate_identity(with_gate) != gate_identity(without)


@pytest.mark.parametrize("rate", [2.0e-3, [1.0e-3, 2.0e-3, 4.0e-3]])
def test_when_a_papers_sweep_ends_is_no_part_of_a_gate(gates, rate):
    """The gate of reasoning was outdated by `flat`, which its own sweep never reads."""
    before, after = bed(gates), bed(gates)
    for spec in (before, after):
        spec["gate"]["learning_rate"] = rate
        spec["defaults"]["tuning"] = {"metric": "rouge_l", "learning_rates": [1.0e-3]}
    after["defaults"]["tuning"] |= {"flat": 1.5, "cliff": 15}
    assert gate_identity(before) == gate_identity(after)
    after["defaults"]["tuning"]["learning_rates"] = [2.0e-3]
    assert gate_identity(before) != gate_identity(after)


def test_an_edited_record_is_refused(gates):
    path = write_record(record(gates), gates)
    path.write_text(path.read_text().replace('"ladder", "passed": false', '"ladder", "passed": true'))
    with pytest.raises(KDError, match="its content does not give its digest"):
        read_gate("plain", gates)
    path.write_text(json.dumps({"schema": 7}))
    with pytest.raises(KDError, match=r"plain\.json: not the record of a gate"):
        read_gate("plain", gates)
