"""`kd distill` and `kd compare` as they are typed: what is printed, on a terminal and without one, and exit codes."""

import io
import json
import sys

import pytest

from tests.reproductions.distill.conftest import config_of, folder  # noqa: F401
from tools.cli import main
from tools.verbs.own.distill import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_plan_and_a_league_are_printed(folder, capsys):  # noqa: F811
    path = str(config_of(folder, steps=2, extra="evaluate: {rows: 2, answers: 1}\n"))
    assert main(["distill", path, "--plan"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("word-kd: divergence forward-kl") and "4 sequences" in out
    assert main(["distill", path, "--plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 2
    assert main(["compare", path, "--methods", "sft,word-kd"]) == 0
    said = capsys.readouterr()
    assert "beside sft" in said.out and "word-kd: 2 of 2, loss " in said.err
    assert main(["compare", path]) == 2
    assert "nothing to compare" in capsys.readouterr().err
    assert main(["compare", path, "--methods", "sft,wrd-kd"]) == 2
    assert 'did you mean "word-kd"' in capsys.readouterr().err
    assert main(["distill", path, "--plan", "--push", "a/b"]) == 2


def test_what_a_row_holds_is_no_markup_of_the_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress() as (report, say):
        report("sft", 1, 2, {"loss": 2.0})
        say("the first row: '[INST] hi [/INST]' -> '[red]no'")
    assert "'[INST] hi [/INST]' -> '[red]no'" in terminal.getvalue().replace("\n", "")


@pytest.mark.parametrize("words", [["--plan"], []])
def test_a_mistake_is_one_line(folder, capsys, words):  # noqa: F811
    path = config_of(folder, extra="evaluate: {row: 2}\n")
    assert main(["distill", str(path), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and 'unknown "row" (did you mean "rows"?)' in error
