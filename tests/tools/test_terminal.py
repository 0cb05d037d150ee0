"""Output that fits, shows what it is given, and is coloured only where somebody looks."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from tools.paths import ROOT
from tools.terminal import fit, grid, verdict, visible, width, wrap


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, Ünïcode → 汉字", "plain, Ünïcode → 汉字"),
        ("\x1b[31mred", "<U+001B>[31mred"),
        ("a\x07b\rc", "a<U+0007>b<U+000D>c"),
        ("\x9b2J", "<U+009B>2J"),
        ("\u202eabc\u2066", "<U+202E>abc<U+2066>"),
        ("zero\u200bwidth\ufeff", "zero<U+200B>width<U+FEFF>"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert visible(text) == shown
    assert fit(text, 200) == shown and grid([[text]]) == [shown]


def test_lines_fit(monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    assert fit("abcdef", 4) == "abc…" and fit("abcd", 4) == "abcd" and fit("abc", 0) == "…"
    text = wrap("word " * 40 + "\n\nnext   \x1bline", "  ", "* ")
    assert max(map(len, text.splitlines())) <= 50 and text.startswith("* word") and "<U+001B>line" in text


@pytest.mark.parametrize(
    ("columns", "found"), [("80", 80), ("300", 100), ("7", 40), ("x", 80), ("0", 80), ("-5", 80)]
)
def test_the_width_is_the_terminals_within_bounds(monkeypatch, columns, found):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(sys, "__stdout__", None)
    assert width() == found


def test_a_verdict_keeps_its_text_where_nobody_looks():
    assert verdict("reproduced") == "reproduced" and verdict("not run", "x") == "x"


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_is_for_terminals(environment, coloured):
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.cli", "browse", "--list", "--search", "minillm"],
        cwd=ROOT,
        env=plain | environment,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    out = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        out += piece
    os.close(ours)
    assert process.wait(timeout=60) == 0
    assert b"minillm" in out and (b"\x1b[1m" in out) == coloured
