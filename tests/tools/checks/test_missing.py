"""`kd check`: what is missing, and where."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.schema import load_catalog
from tests.reproductions.recorded import PassedGate
from tests.tools.conftest import claim, outcome, view_of
from tools import cli
from tools.checks import missing as check
from tools.checks import owes
from tools.pages import documents
from tools.verbs import check as verb

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
method: minillm
sources: [https://example.org/x]
"""
HELD = view_of("minillm", claim("beats-sft", outcome("reproduced")))
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
    monkeypatch.setattr(owes, "HERE", tmp_path)
    monkeypatch.setattr(check.files, "view", lambda paper: HELD)
    monkeypatch.setattr(check.files, "stale", lambda papers: [])
    monkeypatch.setattr(check.results, "misnamed", lambda paths: iter(()))  # its results are nowhere
    monkeypatch.setattr(check.gather, "gate_on", lambda testbed: PassedGate(passed=False, figures={}))

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
            "method: minillm\n",
            "",
            "method",
            "minillm.yaml:17",
            "is missing",
        ),
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
        found = look("method: minillm\n", text)
        assert "method" not in [kind for kind, _, _ in found]


def test_results_and_findings_are_looked_for(look, monkeypatch, tmp_path):
    waiting = replace(HELD.scales[0], name="huge", results=())
    own = replace(waiting, name="paper")
    monkeypatch.setattr(check.files, "view", lambda paper: replace(HELD, scales=(*HELD.scales, waiting, own)))
    ((kind, place, what),) = look()
    assert (kind, place) == ("results", "minillm.yaml:1")
    assert "make reproduce PAPER=minillm SCALE=huge ARGS=--record" in what
    row = claim("beats-word-kd", outcome("reversed"), outcome("open", "small", "Because."))
    monkeypatch.setattr(check.files, "view", lambda paper: view_of("minillm", row))
    ((kind, place, what),) = look()
    assert kind == "findings" and "beats-word-kd is reversed at tiny" in what
    written = check.gather.experiment_file("minillm").read_text().splitlines()
    assert written[int(place.split(":")[1]) - 1].strip().startswith("beats-word-kd:")
    monkeypatch.setattr(check.files, "stale", lambda papers: papers)
    assert [kind for kind, _, _ in look()] == ["findings", "verdicts"]
    monkeypatch.setattr(check.gather, "PAPERS", tmp_path)
    assert [kind for kind, _, _ in look()] == ["experiment", "owes"]


def test_what_is_wrong_with_recorded_results_is_passed_on(look, monkeypatch):
    for name in ("misnamed", "stale", "changed_claims", "old_sweeps"):
        monkeypatch.setattr(check.results, name, lambda of, name=name: iter([(f"{name}.json", "wrong")]))
    found = {(kind, place) for kind, place, _ in look()}
    assert found == {
        ("results", "misnamed.json:1"),
        ("stale", "stale.json:1"),
        ("claims", "changed_claims.json:1"),
        ("sweep", "old_sweeps.json:1"),
    }


def test_a_component_without_test_is_seen(look, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "TESTS", tmp_path)
    (tmp_path / "trainers").mkdir()
    matrix = tmp_path / "trainers" / "one_update.py"
    matrix.write_text('"""x"""\nTRAINERS = ()\n')
    first, second = (item for item in look() if item[0] == "test")
    assert first[2] == "no test of the trainer minillm" and first[1].startswith("test_")
    assert second[1] == "one_update.py:2" and "invariance matrix" in second[2]
    matrix.write_text("TRAINERS = {'minillm': 1}  # in the matrix\n")
    assert look() == []


def test_a_recipe_that_waits_for_its_author_is_seen(look, monkeypatch):
    def marked(path):
        return [(2, "title: to be filled in")] if path.parent.name == "recipes" else []

    monkeypatch.setattr(check, "marked", marked)
    assert look() == [("unfilled", "minillm.yaml:2", "fill in title: to be filled in")]


@pytest.fixture
def kd(capsys, monkeypatch):
    """Runs `kd check`; every page is up to date."""
    monkeypatch.setattr(documents, "differing", lambda texts: [])

    def run(*words: str) -> tuple[int, str]:
        code = cli.main(["check", *words])
        return code, capsys.readouterr().out

    return run


def test_the_exit_code_says_whether_something_is_missing(kd, monkeypatch):
    monkeypatch.setattr(check, "missing", lambda catalog, paper: iter(()))
    monkeypatch.setattr(verb, "_documents", lambda: iter(()))
    monkeypatch.setattr(verb, "_gates", lambda catalog, paper: iter(()))  # test_gates.py holds those
    monkeypatch.setattr(verb, "_results", lambda catalog: iter(()))
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
    page = "reproductions/papers/minillm.md"
    monkeypatch.setattr(documents, "differing", lambda texts: [page, "reproductions/papers/gkd.md"])
    out = kd("minillm")[1]
    assert f"{page}:1: " in out and "gkd.md" not in out  # another paper's page is not this one's business


def test_an_unknown_paper_gets_the_nearest(capsys):
    assert cli.main(["check", "minillmm"]) == 2
    assert 'did you mean "minillm"' in capsys.readouterr().err


def test_a_field_that_an_external_entry_lacks_is_said_with_its_line(look, tmp_path, monkeypatch, capsys):
    entry = 'external:\n  - {url: "https://x.org/1", date: "2026-04", kind: issue, says: A., agrees: null, SEEN}\n'
    whole = entry.replace("SEEN", 'seen: "2026-11-28"')
    assert look("sources: [", f"{whole}sources: [") == []
    with pytest.raises(CatalogError, match='"seen" is missing'):
        look("sources: [", f"{entry.replace(', SEEN', '')}sources: [")
    monkeypatch.setattr(verb, "load_catalog", lambda: load_catalog(tmp_path))
    assert cli.main(["check", "minillm"]) == 2
    assert 'minillm.yaml:20: "seen" is missing' in " ".join(capsys.readouterr().err.split())


def test_a_claim_without_any_smallest_effect_is_named_by_its_line(look, monkeypatch):
    """Before anything is run: where the testbed's gate passed, and measured no headroom in the claim's metric."""
    figures = {"rouge_l": {"baseline": 60.0, "teacher": 80.0}}
    monkeypatch.setattr(check.gather, "gate_on", lambda testbed: PassedGate(figures=figures))
    found = [item for item in look() if item[0] == "smallest effect"]
    assert found and all("has no smallest effect at" in what for _, _, what in found)
    assert not any("in rouge_l" in what for _, _, what in found)
    written = check.gather.experiment_file("minillm").read_text().splitlines()
    for _, place, what in found:
        assert written[int(place.split(":")[1]) - 1].strip().startswith(f"{what.split()[0]}:")
    monkeypatch.setattr(check.gather, "gate_on", lambda testbed: PassedGate(passed=False, figures={}))
    assert not [item for item in look() if item[0] == "smallest effect"]
