"""The `kd` command: exit codes, one-line errors with the nearest valid name, JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.schema import Catalog, load_catalog
from methods.errors import MethodError
from reproductions.engine.errors import KDError
from reproductions.engine.show import files
from tools import cli, commands
from tools.verbs import browse, show

ROOT = Path(__file__).resolve().parents[2]
#: A `make` hands these down to one that it starts, which then says more (the folder that it enters).
MAKE_SETS = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES")


def make(*words: str) -> str:
    """What `make` prints to somebody who typed it, also where the tests themselves run under `make test`."""
    environment = {name: value for name, value in os.environ.items() if name not in MAKE_SETS}
    done = subprocess.run(
        ["make", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


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
        (["browse", "--year", "23"], '"23" is no year; write 2025, 2023-2025 or 2024-'),
        (["browse", "--scope", "llms"], 'no scope "llms" (did you mean "llm"?)'),
        (["browse", "--by", "skill"], "--by needs two axes"),
        (["browse", "--by", "skill,algoritm"], 'no axis "algoritm" (did you mean "algorithm"?)'),
        (["browse", "--search"], "expected one argument"),
        (["show"], "the following arguments are required: paper"),
        (["show", "minillmm"], 'no paper "minillmm" in the catalog (did you mean "minillm"?)'),
        (["show", "minillm", "gkd"], 'unknown option "gkd"'),
        (["verify", "minillmm"], '(did you mean "minillm"?)'),
        (["reproduce", "minillmm"], '(did you mean "minillm"?)'),
        *(([verb, ""], "an empty name; leave it out for all") for verb in ("verify", "check", "plan")),
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


def test_a_wall_of_text_is_cut_and_its_reason_is_not(kd):
    code, _, err = kd("show", "a" * 5000)
    assert code == 2 and len(err) < 600 and "..." in err and "in the catalog" in err


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


@pytest.mark.parametrize("verb", commands.NAMES)
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
    assert code == 0 and all(verb in out for verb in commands.NAMES)
    assert max(map(len, out.splitlines())) <= 100
    assert kd()[1] == out


@pytest.mark.parametrize(
    "message", ["\x1b[31mred\x1b[0m", "two\nlines", "\x07", "back\x08", "\x9b31m", "\u202eabc"]
)
def test_what_was_typed_never_steers_the_terminal(kd, message):
    for words in (
        ["show", message],
        [message],
        ["browse", "--search", "x", message],
        ["browse", "--year", message],
    ):
        code, _, err = kd(*words)
        assert code == 2 and err.endswith("\n") and err[:-1].isprintable()


def test_a_terminal_of_another_alphabet_is_no_error():
    done = subprocess.run(
        [sys.executable, "-m", "tools.cli", "browse", "--list"],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "80"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stdout.isascii() and done.stderr == b""


def test_browse_is_a_tree_with_counts_and_verdicts(kd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(
        browse,
        "tallies",
        lambda papers: {"minillm": {"tiny": {"reproduced": 7, "open": 1}, "small": {"open": 4}}},
    )
    catalog = load_catalog()
    code, out, _ = kd("browse")
    lines = out.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80 and "\x1b" not in out
    assert lines[0].startswith(f"{len(catalog.papers):,} papers")
    for axis in catalog.taxonomy.values():
        for value in axis.values.values():
            count = sum(value.id in paper.taxonomy[axis.id] for paper in catalog.papers.values())
            row = next(line for line in lines if line.split()[:1] == [value.id])
            assert f" {count or '.'}" in row
            assert ("tiny ✓7 ?1, small ?4" in row) == (
                value.id in catalog.papers["minillm"].taxonomy[axis.id]
            )
    assert "PAPERS BY ELICITATION AND ALGORITHM" in lines
    assert any("--scope beyond-llm" in line for line in lines)


@pytest.mark.parametrize("columns", ["40", "80", "100", "0", "x"])
@pytest.mark.parametrize("words", [["--list"], ["--search", "minillmm"], [], ["--by", "skill,elicitation"]])
def test_browse_fits_the_terminal(kd, monkeypatch, columns, words):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setattr(browse, "tallies", lambda papers: {})
    code, out, _ = kd("browse", *words)
    limit = int(columns) if columns not in ("0", "x") else 80
    assert code == 0 and (columns == "40" or max(map(len, out.splitlines())) <= limit)


def test_browse_lists_what_was_asked_for(kd):
    catalog = load_catalog()
    everything = kd("browse", "--list")[1]
    assert all(f"\n{paper_id} " in everything for paper_id in catalog.papers)
    assert everything.index("LANGUAGE MODELS") > everything.index("\nminillm ")
    assert f"\n{len(catalog.papers):,} papers" in everything
    assert "no paper matches" in kd("browse", "--search", "zzzzzz")[1]
    found = json.loads(kd("browse", "--year", "2023-2024", "--has-code", "--algorithm", "sft", "--json")[1])
    assert found and all(paper["date"][:4] in ("2023", "2024") and paper["code"] for paper in found)
    runnable = json.loads(kd("browse", "--has-reproduction", "--json")[1])
    assert "minillm" in [paper["id"] for paper in runnable] and len(runnable) < len(catalog.papers)
    found = json.loads(kd("browse", "--external", "--json")[1])
    assert "sdft" in [paper["id"] for paper in found] and all(paper["external"] for paper in found)
    assert len(found) == sum(bool(paper.external) for paper in catalog.papers.values()) > 0
    assert f"\n{len(found)} papers" in kd("browse", "--external")[1]
    others = json.loads(kd("browse", "--scope", "beyond-llm", "--json")[1])
    assert {paper["scope"] for paper in others} <= {"beyond-llm"}
    first = kd("browse", "--search", "minillmm")[1].splitlines()[1]
    assert first.startswith("minillm ")


def test_a_year_is_shown_month_by_month(kd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    papers = [paper for paper in load_catalog().papers.values() if paper.date.startswith("2026")]
    counts = Counter(paper.date for paper in papers)
    lines = kd("browse", "--year", "2026")[1].splitlines()
    assert lines[0].split() == ["MONTH", "PAPERS"] and max(map(len, lines)) <= 80
    bars = [line.split() for line in lines[1 : 1 + len(counts)]]
    assert [(month, int(count)) for month, count, _ in bars] == sorted(counts.items(), reverse=True)
    longest = max(bars, key=lambda bar: int(bar[1]))
    assert len(longest[2]) == browse.BAR >= max(len(bar) for *_, bar in bars) and min(
        len(bar[2]) for bar in bars
    )
    head = next(place for place, line in enumerate(lines) if line.startswith("PAPER "))
    last = lines.index("SURVEYS") if "SURVEYS" in lines else len(lines)
    others = lines.index("BEYOND LANGUAGE MODELS")
    told: list[str] = []  # the months as they are headed, and under each its papers alone
    for line in lines[head + 1 : min(others, last)]:
        if re.fullmatch(r"\d{4}-\d\d: \d+ papers?", line):
            told.append(line)
        elif line:
            assert line.split()[1] == told[-1][:7]
    llm = Counter(paper.date for paper in papers if paper.scope == "llm")
    expected = [f"{month}: {n} paper{'s' * (n != 1)}" for month, n in sorted(llm.items(), reverse=True)]
    assert told == expected


def test_a_search_is_ranked_and_one_month_needs_no_heading(kd):
    assert "MONTH" not in kd("browse", "--year", "2026", "--search", "on-policy")[1]
    assert browse.wave([load_catalog().papers["minillm"]]) == [] == browse.wave([])


def test_browse_json_is_what_was_asked_for(kd):
    papers = json.loads(kd("browse", "--skill", "agent", "--json")[1])
    assert papers and all({"tool-using", "planning"} & paper["taxonomy"]["skill"].keys() for paper in papers)
    cells = json.loads(kd("browse", "--by", "elicitation,algorithm", "--json")[1])
    assert {"elicitation", "algorithm", "papers"} == cells[0].keys()
    assert json.loads(kd("browse", "--search", "zzzzzz", "--json")[1]) == []
    assert len(json.loads(kd("browse", "--json")[1])) == len(load_catalog().papers)


def test_browse_csv_is_a_table(kd):
    import csv

    rows = list(csv.DictReader(kd("browse", "--csv")[1].splitlines()))
    assert [row["id"] for row in rows] == [paper["id"] for paper in json.loads(kd("browse", "--json")[1])]
    minillm = next(row for row in rows if row["id"] == "minillm")
    assert minillm["elicitation"] == "feature; feedback" and minillm["distils"] == "true"
    crossed = list(csv.DictReader(kd("browse", "--by", "skill,algorithm", "--csv")[1].splitlines()))
    assert crossed[0].keys() == {"skill", "algorithm", "papers"}


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =1+1", "＝1", "\r=1", '=HYPERLINK("x")']
)
def test_no_cell_is_a_formula(text):
    assert browse.cell(text)[0] == "'" or browse.cell(text)[0] == "<"
    assert browse.cell([text, "a"])[0] in "'<"
    assert browse.cell("a=1") == "a=1" and browse.cell(None) == "" and browse.cell(False) == "false"


def test_hostile_text_of_a_record_is_shown_as_text(kd, monkeypatch):
    hostile = "\x1b]0;owned\x07 \x1b[2J \u202etitle, =cmd"
    catalog = load_catalog()
    paper = replace(catalog.papers["minillm"], title=hostile, adds=hostile, note=hostile, objective=hostile)
    changed = Catalog(catalog.taxonomy, catalog.teachers, {**catalog.papers, "minillm": paper})
    for module in (browse, show):
        monkeypatch.setattr(module, "load_catalog", lambda: changed)
    monkeypatch.setattr(files, "view", lambda paper: None)
    for words in (["browse", "--list"], ["browse", "--search", "minillm"], ["show", "minillm"]):
        out = kd(*words)[1]
        assert "minillm" in out and all(line.isprintable() for line in out.splitlines())
    for words in (["browse", "--csv"], ["browse", "--json"], ["show", "minillm", "--json"]):
        assert "\x1b" not in kd(*words)[1]


def test_show_tells_where_everything_is(kd, monkeypatch, judged):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(files, "view", lambda paper: judged)
    code, out, _ = kd("show", "minillm")
    assert code == 0
    for part in (
        "catalog/papers/minillm.yaml",
        "methods/recipes/minillm.yaml",
        "teacher_mix: $teacher_mix",
        "minillm: terms: [reverse-kl]",
        "reproductions/papers/minillm.yaml",
        "reproductions/results/pronunciation/",
        "reproductions/papers/minillm.md",
        "make reproduce PAPER=minillm",
        "24.6 against 23.3",
        "61.5 against 58.25",
        "[1.5, 5]",
        "tiny, world: reversed",
        "small, world: open",
        "not run",
        "@misc{minillm_2023,",
        "The gap is small here.",
    ):
        assert part in out
    too_long = [line for line in out.splitlines() if len(line) > 80 and "https://" not in line]
    assert not too_long


def test_show_says_what_is_unverified(kd, monkeypatch):
    catalog = load_catalog()
    recalled = replace(catalog.papers["gkd"], id="gkd", basis="recalled", teacher="T5")
    seen = replace(catalog.papers["orca"], basis="survey-table", teacher="GPT-4")
    changed = Catalog(catalog.taxonomy, catalog.teachers, {**catalog.papers, "gkd": recalled, "orca": seen})
    monkeypatch.setattr(show, "load_catalog", lambda: changed)
    assert "unverified: recalled" in kd("show", "gkd")[1]
    assert "unverified" not in kd("show", "orca")[1].split("terms")[0]
    assert json.loads(kd("show", "gkd", "--json")[1])["verified"] is False


def test_show_says_what_kind_of_entry_it_is(kd, monkeypatch):
    catalog = load_catalog()
    old = replace(
        catalog.papers["minillm"],
        id="old",
        scope="beyond-llm",
        distils=False,
        note="RL only.",
        code_licence="MIT",
        superseded_by="minillm",
        corrections=("venue: listed as ICML",),
        sources=("https://example.org/a",),
    )
    changed = Catalog(catalog.taxonomy, catalog.teachers, {**catalog.papers, "old": old})
    monkeypatch.setattr(show, "load_catalog", lambda: changed)
    monkeypatch.setattr(files, "view", lambda paper: None)
    out = kd("show", "old")[1]
    for part in (
        "no distillation; listed because: RL only.",
        "scope: beyond language models",
        "code licence  MIT",
        "corrected     venue: listed as ICML",
        "source        https://example.org/a",
        "superseded by minillm: kd show minillm",
        "nothing: no method for language models to reproduce",
    ):
        assert part in out
    assert "`kd check xuanyuan-2` lists what is missing" in kd("show", "xuanyuan-2")[1]
    assert "supersedes old: kd show old" in kd("show", "minillm")[1]
    plain = json.loads(kd("show", "minillm", "--json")[1])
    assert (
        plain["supersedes"] == ["old"] and {"corrections", "sources", "scope", "code_licence"} <= plain.keys()
    )


def test_bibtex_escapes_what_tex_would_read():
    paper = replace(
        load_catalog().papers["minillm"], title=r"100% of A & B_c #1 {x \y ~^", authors=("A. One", "B. Two")
    )
    entry = show.bibtex(paper)
    assert r"100\% of A \& B\_c \#1" in entry
    assert "author = {A. One and B. Two}" in entry
    assert entry.count("{") == entry.count("}")


@pytest.fixture
def verified(monkeypatch, tmp_path):
    """One judged paper whose committed verdicts and pages are given, then what its raw figures say now."""
    from tests.tools.conftest import claim, outcome, view_of
    from tools.checks import results
    from tools.pages import documents
    from tools.pages.atlas import Atlas

    long = "-and-more" * 5  # a name that has to be cut

    def commit(committed: list[str], now: list[str]) -> None:
        kept, fresh = (
            view_of(
                "minillm",
                *(
                    claim(f"claim-{place}{long * place}", outcome(verdict))
                    for place, verdict in enumerate(verdicts)
                ),
            )
            for verdicts in (committed, now)
        )
        monkeypatch.setattr(files.gather, "ROOT", tmp_path)
        monkeypatch.setattr(files, "FOLDER", tmp_path / "reproductions" / "verdicts")
        monkeypatch.setattr(files.gather, "runnable", lambda papers: ["minillm"])
        monkeypatch.setattr(files.gather, "gather", lambda paper: fresh)
        for name in ("misnamed", "plans", "unnamed"):  # its results are nowhere; test_verify.py has real ones
            monkeypatch.setattr(results, name, lambda of: iter(()))
        files.write(kept)
        differing = documents.differing
        documents.write(documents.own(Atlas(load_catalog(), {"minillm": kept})), tmp_path)
        monkeypatch.setattr(documents, "differing", lambda texts: differing(texts, tmp_path))

    return commit


@pytest.mark.parametrize("verdicts", [["reproduced"], ["reproduced", "open"], ["reversed"], ["not run"]])
def test_verify_is_content_where_what_is_committed_follows(kd, verified, monkeypatch, verdicts):
    monkeypatch.setenv("COLUMNS", "80")
    verified(verdicts, verdicts)
    found, out, _ = kd("verify")
    assert found == 0 and "follows from the raw figures" in out
    assert all(verdict in out for verdict in verdicts)
    assert max(map(len, out.splitlines())) <= 80
    plain = json.loads(kd("verify", "--json")[1])["minillm"]
    assert [row["outcomes"][0]["verdict"] for row in plain["claims"]] == verdicts and plain["differs"] == []


def test_verify_says_which_committed_verdict_does_not_follow(kd, verified):
    verified(["reproduced", "open"], ["reversed", "open"])
    found, out, _ = kd("verify", "minillm")
    told = " ".join(out.split())
    assert found == 1
    assert "claim-0 at tiny is committed as reproduced; from the raw figures it is reversed" in told
    assert "claim-1-and-more" in out and "-and-more at tiny" not in told
    assert "reproductions/papers/minillm.md: differs" in told


def test_verify_finds_a_committed_file_that_was_edited(kd, verified):
    verified(["reproduced"], ["reproduced"])
    path = files.path_of("minillm")
    path.write_text(path.read_text().replace("61.5", "66.5"))
    found, out, _ = kd("verify")
    assert found == 1 and "was edited by hand" in out


def test_verify_of_a_paper_without_results_says_how_to_make_them(kd, monkeypatch, tmp_path):
    (tmp_path / "stale.yaml").write_text("{}\n")
    monkeypatch.setattr(files.gather, "RESULTS", tmp_path)
    monkeypatch.setattr(files, "FOLDER", tmp_path)
    code, _, err = kd("verify", "gkd")
    assert code == 2 and "make reproduce PAPER=gkd" in err


def test_the_version_is_told_without_a_verb(kd):
    code, out, _ = kd("--version")
    assert code == 0 and re.match(r"kd-atlas \S+ \(Python \d+\.\d+", out) and "trl" in out
    done = subprocess.run(
        [sys.executable, "-m", "tools", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout == out


def test_every_verb_has_a_file_of_its_own():
    written = {path.stem for path in (ROOT / "tools" / "verbs").rglob("*.py")} - {"__init__"}
    assert written == {name.replace("-", "_") for name in commands.NAMES}
    for name in commands.NAMES:
        assert commands.load(name).SUMMARY and commands.parser_of(name).prog == f"kd {name}"


def test_make_help_says_everything_that_the_makefile_does():
    found = dict(line.removeprefix("  make ").split(maxsplit=1) for line in make("help").splitlines())
    written = re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(written) > 10 and found == dict(written)


def test_a_link_that_leads_to_itself_is_a_sentence(tmp_path, capsys):
    (tmp_path / "data.jsonl").symlink_to(tmp_path / "data.jsonl")
    config = tmp_path / "run.yaml"
    config.write_text("method: sft\nstudent: gpt2\ndata: data.jsonl\noutput: made\n")
    assert cli.main(["distill", str(config)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.jsonl" in line and line.startswith("error: ")
