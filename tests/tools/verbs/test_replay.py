"""`kd replay`: completions with their advantages, by step, and what is told where there are none."""

import json

import pytest

from tools.cli import main

LINES = [
    {
        "step": 0,
        "place": 0,
        "group": 0,
        "rewards": [1.0],
        "prompt": "1+1=",
        "tokens": [["2", 0.5], [" ", None]],
    },
    {"step": 5, "place": 0, "group": 3, "rewards": [None], "prompt": "2+2=", "tokens": [["x", 9.0]]},
    {
        "step": 5,
        "place": 1,
        "group": 3,
        "rewards": [0.0],
        "prompt": "2+2=",
        "tokens": [["5", -0.25], ["e", -1.5]],
    },
    {"step": 5, "place": 0, "group": 3, "rewards": [None], "prompt": "2+2=", "tokens": [["\x1b[31m4", 0.75]]},
]


@pytest.fixture
def run(tmp_path):
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (tmp_path / "replay.jsonl").write_text(text + '{"step": 6, "pla')  # cut off while it was written
    return tmp_path


def test_the_last_step_is_shown_with_every_token(run, capsys):
    assert main(["replay", str(run)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "step 5"
    assert out[1] == "  2+2=  group 3, reward none"
    assert out[2:4] == ["    <U+001B>[31m4", "    +0.75"]
    assert out[6].split() == ["5", "e"] and out[7].split() == ["-0.25", "-1.50"]
    assert out[6].index("e") == out[7].index("-1.50")


def test_one_step_all_steps_or_the_first_completions(run, capsys):
    assert main(["replay", str(run / "replay.jsonl"), "--step", "0"]) == 0
    assert "1+1=  group 0, reward 1" in (out := capsys.readouterr().out) and "·" in out
    assert main(["replay", str(run), "--all", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3, "what was written again is there once"
    assert main(["replay", str(run), "--first", "1", "--json"]) == 0
    assert [line["place"] for line in json.loads(capsys.readouterr().out)] == [0]


def test_what_is_not_there_is_told(run, tmp_path, capsys):
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert main(["replay", str(run), "--step", "3"]) == 2
    assert "holds nothing of step 3, but of 0, 5" in capsys.readouterr().err
    (run / "replay.jsonl").write_text("nonsense\n{}\n")
    assert main(["replay", str(run)]) == 2
    assert "replay.jsonl:1: no line of a replay file" in capsys.readouterr().err
