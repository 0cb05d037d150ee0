"""`kd check`: what is missing, where; and the counts that may only shrink."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.schema import Catalog, load_catalog
from tests.tools.conftest import claim, outcome
from tools import check, cli, evidence, readme

RECORD = """\
id: minillm
title: "MiniLLM"
arxiv: "2306.08543"
authors: [A B]
venue: ICLR
date: "2023-06"
code:
  - https://github.com/x/y
code_licence: MIT
taxonomy:
  elicitation: {feature: listed}
  algorithm: {divergence-similarity: listed}
teacher: GPT-2
basis: paper
teacher_terms: [good]
adds: One line.
objective: KL
method: methods.trainers.policy.PolicyDistiller
sources: [https://example.org/x]
"""
TEACHERS = """\
teachers:
  good: {title: T, terms_url: "https://x.org/", allows_training: "yes", verified: true, note: Read.}
  unread: {title: T, terms_url: "https://x.org/", allows_training: unclear, verified: false, note: Not read.}
"""


@pytest.fixture
def look(tmp_path: Path, monkeypatch):
    """(kind, "file:line", what) of everything missing from one record, with parts replaced; claims all held."""
    (tmp_path / "papers").mkdir()
    (tmp_path / "taxonomy.yaml").write_bytes((check.HERE / "taxonomy.yaml").read_bytes())
    (tmp_path / "teachers.yaml").write_text(TEACHERS)
    monkeypatch.setattr(check, "HERE", tmp_path)
    monkeypatch.setattr(evidence, "claims", lambda paper: [claim("beats-sft", outcome("reproduced"))])
    monkeypatch.setattr(evidence, "scales", lambda paper: [("tiny", 1), ("paper", 0)])

    def find(old: str = "", new: str = "") -> list[tuple[str, str, str]]:
        assert old in RECORD
        (tmp_path / "papers" / "minillm.yaml").write_text(RECORD.replace(old, new, 1) if old else RECORD)
        catalog = load_catalog(tmp_path)
        found = check.missing(catalog, catalog.papers["minillm"])
        return [(item.kind, f"{Path(item.path).name}:{item.line}", item.what) for item in found]

    return find


def test_a_whole_paper_lacks_nothing(look):
    assert look() == []


@pytest.mark.parametrize(
    ("old", "new", "kind", "place", "what"),
    [
        ("authors: [A B]\n", "", "authors", "minillm.yaml:3", "authors: [First Last, First Last]"),
        ("basis: paper", "basis: recalled", "basis", "minillm.yaml:14", "basis is recalled"),
        (
            "teacher: GPT-2\nbasis: paper\n",
            "",
            "models",
            "minillm.yaml:10",
            "teacher and student are missing",
        ),
        ("sources: [https://example.org/x]\n", "", "sources", "minillm.yaml:18", "where was the paper seen?"),
        ("code_licence: MIT\n", "", "licence", "minillm.yaml:7", "licence of https://github.com/x/y"),
        ("teacher_terms: [good]\n", "", "terms", "minillm.yaml:14", "outputs of GPT-2"),
        ("[good]", "[unread]", "terms", "teachers.yaml:3", "terms of unread were not read"),
        ("objective: KL\n", "", "objective", "minillm.yaml:16", "objective is missing"),
        (
            "method: methods.trainers.policy.PolicyDistiller\n",
            "",
            "method",
            "minillm.yaml:17",
            "is missing",
        ),
        ("policy.PolicyDistiller", "policy.Nothing", "method", "minillm.yaml:18", "Nothing does not exist"),
        (
            "adds: One line.",
            "adds: One line.  # fill in: more",
            "unfilled",
            "minillm.yaml:16",
            "fill in adds: more",
        ),
        (
            "adds: One line.",
            "adds: See `make nothing`.",
            "names",
            "minillm.yaml:16",
            "no target `make nothing`",
        ),
    ],
)
def test_what_is_missing_has_the_line_to_edit(look, old, new, kind, place, what):
    found = [item for item in look(old, new) if item[0] == kind]
    assert found and found[0][1] == place and what in found[0][2]


def test_what_cannot_be_implemented_needs_no_method(look):
    for text in ("scope: survey\n", "scope: beyond-llm\n", "distils: false\n"):
        found = look("method: methods.trainers.policy.PolicyDistiller\n", text)
        assert "method" not in [kind for kind, _, _ in found]


def test_claims_results_and_findings_are_looked_for(look, monkeypatch, tmp_path):
    monkeypatch.setattr(evidence, "scales", lambda paper: [("tiny", 1), ("huge", 1), ("paper", 0)])
    ((kind, place, what),) = look()
    assert (kind, place) == ("results", "huge.json:1") and "make reproduce PAPER=minillm SCALE=huge" in what
    monkeypatch.setattr(evidence, "scales", lambda paper: [("tiny", 1)])
    row = claim("beats-word-kd", outcome("not reproduced"), outcome("inconclusive", "small", "Because."))
    monkeypatch.setattr(evidence, "claims", lambda paper: [row])
    ((kind, place, what),) = look()
    assert kind == "findings" and "beats-word-kd is not reproduced at tiny" in what
    written = evidence.folder("minillm") / "claims.yaml"
    assert written.read_text().splitlines()[int(place.split(":")[1]) - 1].strip() == "- id: beats-word-kd"
    monkeypatch.setattr(evidence, "PAPERS", tmp_path)
    assert [kind for kind, _, _ in look()] == ["claims", "experiment"]


def test_a_method_without_test_is_seen(look, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "TESTS", tmp_path)
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "one_update.py").write_text('"""x"""\nTRAINERS = ()\n')
    first, second = (item for item in look() if item[0] == "test")
    assert first[1:] == ("test_policy.py:1", "no test of methods.trainers.policy.PolicyDistiller")
    assert second[1] == "one_update.py:2" and "invariance matrix" in second[2]
    (tmp_path / "trainers" / "one_update.py").write_text("from methods.trainers import policy\n")
    assert look() == []


@pytest.fixture
def kd(capsys, monkeypatch):
    """Runs `kd check`; the README is up to date."""
    monkeypatch.setattr(readme, "render", lambda: readme.README.read_text(encoding="utf-8"))

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["check", *words])
        return code, capsys.readouterr().out

    return run


def test_the_exit_code_says_whether_something_is_missing(kd, monkeypatch):
    monkeypatch.setattr(check, "missing", lambda catalog, paper: iter(()))
    monkeypatch.setattr(check, "_documents", lambda: iter(()))
    assert kd("minillm") == (0, "nothing is missing of minillm\n")
    assert kd() == (0, "nothing is missing of any paper\n")
    assert json.loads(kd("minillm", "--json")[1]) == []
    one = check.Missing("authors", "catalog/papers/minillm.yaml", 3, "authors are \x1b[31m missing")
    monkeypatch.setattr(check, "missing", lambda catalog, paper: iter([one]))
    code, out = kd("minillm")
    assert code == 1 and out == "catalog/papers/minillm.yaml:3: authors are <U+001B>[31m missing\n"
    code, out = kd()
    assert code == 1 and f"authors      {len(load_catalog().papers)}"[:7] in out
    assert json.loads(kd("minillm", "--json")[1])[0]["line"] == 3
    monkeypatch.setattr(readme, "render", lambda: "other")
    assert "README.md:1: " in kd("minillm")[1]


def test_an_unknown_paper_gets_the_nearest(capsys):
    assert cli.main(["check", "minillmm"]) == 2
    assert 'did you mean "minillm"' in capsys.readouterr().err


@pytest.fixture
def ratchet(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "ratchet.yaml"
    monkeypatch.setattr(check, "RATCHET", path)
    return path


def test_the_ratchet_is_written_and_then_only_shrinks(kd, ratchet, monkeypatch):
    now = {"without_method": 5, "without_authors": 3}
    monkeypatch.setattr(check, "counts", lambda catalog: now)
    assert kd("--ratchet")[0] == 1 and not ratchet.exists()
    assert kd("--ratchet", "--write")[0] == 0 and kd("--ratchet")[0] == 0
    now["without_method"] = 4
    code, out = kd("--ratchet")
    assert code == 1 and "without_method shrank from 5 to 4: `kd check --ratchet --write`" in out
    assert kd("--ratchet", "--write")[0] == 0 and "without_method: 4\n" in ratchet.read_text()
    now["without_authors"] = 9
    code, out = kd("--ratchet", "--write")
    assert code == 1 and "without_authors grew from 3 to 9: it may only shrink" in out
    assert "without_authors: 3\n" in ratchet.read_text()
    assert kd("--ratchet", "--write", "--grow")[0] == 0 and "without_authors: 9\n" in ratchet.read_text()


def test_the_counts_count(monkeypatch, tmp_path):
    catalog = load_catalog()
    base = replace(catalog.papers["minillm"], method="methods.x.Y", basis="paper", authors=("A B",))
    papers = [
        base,
        replace(base, id="a", method=None),
        replace(base, id="b", basis="recalled"),
        replace(base, id="c", authors=(), basis=None),
        replace(base, id="d", scope="survey", method=None, basis=None, authors=()),
        replace(base, id="e", distils=False, method=None, basis="secondary"),
    ]
    (tmp_path / "minillm").mkdir()
    (tmp_path / "minillm" / "claims.yaml").touch()
    monkeypatch.setattr(evidence, "PAPERS", tmp_path)
    few = Catalog(catalog.taxonomy, catalog.teachers, {paper.id: paper for paper in papers})
    assert check.counts(few) == {
        "without_method": 1,
        "without_claims": 3,
        "without_verified_basis": 2,
        "without_authors": 2,
    }
