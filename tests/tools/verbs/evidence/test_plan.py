"""`kd plan`: what there is, what is open, and what deciding it costs; it trains and writes nothing."""

from __future__ import annotations

import json

from tools import cli


def test_a_paper_is_told_scale_by_scale_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["plan", "minillm"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:6] == ["PAPER", "SCALE", "ARMS", "RUNS", "TO", "MAKE"]
    assert [line.split()[1] for line in lines[:4]] == ["tiny", "tiny-mazes", "small", "paper"]
    assert any(line.startswith("tiny: ") or line.startswith("tiny:") for line in lines[5:])
    assert cli.main(["plan", "minillm", "--scale", "tiny", "--json"]) == 0
    (plain,) = json.loads(capsys.readouterr().out)
    assert (plain["paper"], plain["scale"], plain["arms"]) == ("minillm", "tiny", 7)
    assert plain["recorded"] + plain["to_make"] > 0 and plain["hours_at_most"] >= plain["hours_next"] >= 0


def test_all_papers_have_a_line_and_a_sum(capsys):
    assert cli.main(["plan", "--scale", "tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split()[0] == "all" and len(lines) > 20
    assert cli.main(["plan", "minillm", "--all"]) == 2 and cli.main(["plan", "--scale", "tine"]) == 2
    assert "error: " in capsys.readouterr().err
