"""The completions of a training, read again."""

import json

import pytest

from methods.errors import MethodError
from methods.replay import read_replay


def test_an_answer_that_holds_a_line_separator_is_one_line(tmp_path):
    lines = [{"step": 1, "place": place, "text": "a\u2028b\u0085c"} for place in (0, 1)]
    path = tmp_path / "replay.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    assert read_replay(path) == lines


def test_a_line_that_a_kill_cut_off_is_none_and_any_other_is_told(tmp_path):
    path = tmp_path / "replay.jsonl"
    line = json.dumps({"step": 1, "place": 0, "text": "é"}, ensure_ascii=False).encode() + b"\n"
    path.write_bytes(line + line[: line.index(b"\xa9")])  # in the middle of a character
    assert [one["text"] for one in read_replay(path)] == ["é"]
    path.write_bytes(b'{"step": "\xe9"}\n' + line)
    with pytest.raises(MethodError, match=r"replay.jsonl:1: no line of a replay file"):
        read_replay(path)
