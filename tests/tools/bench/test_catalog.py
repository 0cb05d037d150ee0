"""`kd bench --catalog`: what readers wait for, measured at a thousand records; here only that it is measured."""

from __future__ import annotations

import json

from tools.bench import catalog as bench
from tools.cli import main


def test_it_measures_each_and_says_where_a_bar_is_missed(monkeypatch, capsys):
    monkeypatch.setattr(bench, "_browse", lambda: 0.1)
    monkeypatch.setattr(bench, "_own", lambda work: lambda: 1.0)
    assert main(["bench", "--catalog", "--repeats", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {case["what"] for case in record["cases"]} > set(bench.BARS)
    monkeypatch.setattr(bench, "_own", lambda work: lambda: 9.0)
    assert main(["bench", "--catalog", "--repeats", "1"]) == 1
    assert "slower than the bar: README, lists and pages" in capsys.readouterr().err
