"""`kd tune`: a recorded sweep of today's arms is shown, not made again."""

from __future__ import annotations

import json

import pytest

from reproductions.engine.plan.rates import best_rate
from reproductions.engine.work.sessions import sweep
from tools import cli
from tools.verbs.evidence import tune


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch):
    """A run of the sweep would be a fault here."""
    monkeypatch.setattr(sweep, "_in_workers", None)


def test_a_recorded_sweep_is_shown_with_each_arms_best_rate(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["tune", "codi"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0 runs to make, 12 recorded" in lines[0]
    assert lines[1].split() == ["arm", "0.001", "0.002", "0.004", "best"]
    for line in lines[2:6]:
        arm, *_, best = line.split()
        assert float(best) == best_rate("codi", "tiny", arm)
    assert "reproductions/tuning/tiny/codi.json" in " ".join(lines) and max(map(len, lines)) <= 80


def test_json_is_the_record_and_nothing_else(capsys):
    assert cli.main(["tune", "codi", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["paper"] == "codi" and set(record["keys"]) == set(record["figures"])


def test_a_metric_that_is_to_be_low_has_its_lowest_as_best():
    record = {
        "tuning": {"learning_rates": [0.1, 0.2], "higher_is_better": False},
        "figures": {"a": {"0.1": 3.0, "0.2": 2.0}, "b": {"0.1": 1.0}},
    }
    head, a, b = tune.table(record)
    assert head.split() == ["arm", "0.1", "0.2", "best"]
    assert a.split() == ["a", "3", "2", "0.2"] and b.split() == ["b", "1", "-", "0.1"]


def test_a_scale_without_sweep_and_an_unknown_paper_are_one_line(capsys):
    assert cli.main(["tune", "gkd", "--scale", "paper"]) == 2
    assert "error: " in capsys.readouterr().err
    assert cli.main(["tune", "gkdd"]) == 2
    assert 'did you mean "gkd"' in capsys.readouterr().err
