"""The `kd` command: exit codes, one-line errors with the nearest valid name, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from methods.errors import MethodError
from reproductions.engine.errors import KDError
from tools import browse, cli, evidence, show, verify

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def kd(capsys):
    """Runs `kd` in this process: exit code, stdout, stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(words)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["brows"], 'no verb "brows" (did you mean "browse"?)'),
        (["eval"], 'no verb "eval"'),
        (["browse", "--skil", "code"], 'unknown option "--skil" (did you mean "--skill"?)'),
        (["browse", "--skill", "cod"], 'no value "cod" of skill (did you mean "code"?)'),
        (["browse", "--status", "done"], 'no status "done"; known: catalogued, implemented, judged'),
        (["browse", "--by", "skill"], "--by needs two axes"),
        (["browse", "--by", "skill,algoritm"], 'no axis "algoritm" (did you mean "algorithm"?)'),
        (["browse", "--search"], "expected one argument"),
        (["show"], "the following arguments are required: paper"),
        (["show", "minilm"], 'no paper "minilm" in the catalog (did you mean "minillm"?)'),
        (["show", "minillm", "gkd"], 'unknown option "gkd"'),
        (["verify", "minilm"], '(did you mean "minillm"?)'),
        (["reproduce", "minilm"], '(did you mean "minillm"?)'),
        (["reproduce", "minillm", "--seeds", "0"], "not a whole number of 1 or more"),
        (["reproduce", "minillm", "--seeds", "two"], "not a whole number of 1 or more"),
        (["reproduce", "minillm", "--sede", "2"], 'did you mean "--seeds"?'),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(kd, words, message):
    code, out, err = kd(*words)
    assert code == 2
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert out == ""


@pytest.mark.parametrize("error", [CatalogError("bad record"), KDError("bad run"), MethodError("bad batch")])
def test_errors_of_every_room_become_one_line(kd, monkeypatch, error):
    def fail(args):
        raise error

    monkeypatch.setattr(browse, "main", fail)
    assert kd("browse") == (2, "", f"error: {error}\n")


def test_a_file_that_cannot_be_written_is_named(kd, monkeypatch):
    def fail(args):
        raise OSError(28, "No space left on device", "README.md")

    monkeypatch.setattr(browse, "main", fail)
    assert kd("browse") == (2, "", "error: README.md: No space left on device\n")


def test_a_fault_of_ours_is_not_hidden(kd, monkeypatch):
    def fail(args):
        raise ValueError("a bug")

    monkeypatch.setattr(browse, "main", fail)
    with pytest.raises(ValueError, match="a bug"):
        kd("browse")


def test_interrupted_is_130(kd, monkeypatch):
    def fail(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(browse, "main", fail)
    assert kd("browse")[0] == 130


def test_a_closed_pipe_is_no_error():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "browse"],
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(write)
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb):
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", verb, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and f"usage: kd {verb}" in done.stdout


def test_help_lists_every_verb_and_stays_within_a_screen(kd):
    code, out, _ = kd("--help")
    assert code == 0 and all(verb in out for verb in cli.VERBS)
    assert max(map(len, out.splitlines())) <= 100
    assert kd()[1] == out


def test_browse_fits_80_columns_and_counts(kd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = kd("browse")
    assert code == 0 and max(map(len, out.splitlines())) <= 80
    assert "minillm" in out and "\x1b" not in out
    assert "no paper matches" in kd("browse", "--search", "zzzzzz")[1]
    assert max(map(len, kd("browse", "--by", "skill,elicitation")[1].splitlines())) <= 80


def test_browse_json_is_what_was_asked_for(kd):
    papers = json.loads(kd("browse", "--skill", "agent", "--json")[1])
    assert papers and all({"tool-using", "planning"} & paper["taxonomy"]["skill"].keys() for paper in papers)
    cells = json.loads(kd("browse", "--by", "elicitation,algorithm", "--json")[1])
    assert {"elicitation", "algorithm", "papers"} == cells[0].keys()
    assert json.loads(kd("browse", "--search", "zzzzzz", "--json")[1]) == []


def test_show_tells_where_everything_is(kd, monkeypatch, judged):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(evidence, "claims", lambda paper: judged)
    code, out, _ = kd("show", "minillm")
    assert code == 0
    for part in (
        "catalog/papers/minillm.yaml",
        "methods.algorithms.minillm.MiniLLMTrainer",
        "reproductions/papers/minillm/",
        "make reproduce PAPER=minillm",
        "24.6 against 23.3",
        "61.5 against 58.25",
        "[1.5, 5]",
        "not reproduced",
        "not run",
        "@misc{minillm_2023,",
        "The gap is small here.",
    ):
        assert part in out
    too_long = [line for line in out.splitlines() if len(line) > 80 and "https://" not in line]
    assert not too_long


def test_show_says_what_is_unverified(kd):
    assert "unverified: recalled" in kd("show", "gkd")[1]
    assert "unverified" not in kd("show", "orca")[1].split("terms")[0]
    assert json.loads(kd("show", "gkd", "--json")[1])["verified"] is False


def test_bibtex_escapes_what_tex_would_read(monkeypatch):
    from dataclasses import replace

    from catalog.schema import load_catalog

    paper = replace(
        load_catalog().papers["minillm"], title="100% of A & B_c #1", authors=("A. One", "B. Two")
    )
    entry = show.bibtex(paper)
    assert r"100\% of A \& B\_c \#1" in entry
    assert "author = {A. One and B. Two}" in entry
    assert entry.count("{") == entry.count("}")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["reproduced"], 0),
        (["reproduced", "inconclusive"], 1),
        (["not reproduced"], 1),
        (["not run", "reproduced"], 0),
    ],
)
def test_verify_exits_by_the_verdicts(kd, monkeypatch, verdicts, code):
    from tests.tools.conftest import claim, outcome

    rows = [claim(f"claim-{place}", outcome(verdict)) for place, verdict in enumerate(verdicts)]
    monkeypatch.setattr(evidence, "claims", lambda paper: rows)
    monkeypatch.setattr(evidence, "judged_papers", lambda papers: ["minillm"])
    found, out, _ = kd("verify")
    assert found == code
    assert all(verdict in out for verdict in verdicts)
    assert max(map(len, out.splitlines())) <= 80
    plain = json.loads(kd("verify", "--json")[1])
    assert [row["outcomes"][0]["verdict"] for row in plain["minillm"]["claims"]] == verdicts


def test_verify_of_a_paper_without_results_says_how_to_make_them(kd):
    code, _, err = kd("verify", "gkd")
    assert code == 2 and "make reproduce PAPER=gkd" in err
    assert verify.main is not None
