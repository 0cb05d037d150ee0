"""`kd new`: a record that is valid, refused where there is one, and cannot pass for finished."""

from __future__ import annotations

import shutil

import pytest

from catalog.reader import read_yaml
from catalog.schema import HERE, load_catalog, load_paper
from tools import cli
from tools.checks import missing as check
from tools.checks import scaffold
from tools.paths import ROOT
from tools.verbs import new as verb


@pytest.fixture
def new(tmp_path, monkeypatch, capsys):
    """`kd new` in a catalog of one paper: exit code, stdout, stderr."""
    (tmp_path / "catalog" / "papers").mkdir(parents=True)
    for name in ("taxonomy.yaml", "teachers.yaml", "papers/minillm.yaml"):
        shutil.copy(HERE / name, tmp_path / "catalog" / name)
    monkeypatch.setattr(verb, "HERE", tmp_path / "catalog")
    monkeypatch.setattr(verb, "ROOT", tmp_path)
    monkeypatch.setattr(verb, "load_catalog", lambda: load_catalog(tmp_path / "catalog"))
    monkeypatch.setattr(check.gather, "PAPERS", tmp_path / "reproductions" / "papers")

    def run(*words: str) -> tuple[int, str, str]:
        code = cli.main(["new", *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_new_record_is_valid_and_every_gap_is_marked(new, tmp_path):
    code, out, _ = new("some-paper", "--arxiv", "2901.01234")
    path = tmp_path / "catalog" / "papers" / "some-paper.yaml"
    assert code == 0 and f"catalog/papers/{path.name}: written" in out
    catalog = load_catalog(tmp_path / "catalog")
    paper = catalog.papers["some-paper"]
    assert (paper.arxiv, paper.date, paper.method) == ("2901.01234", "2029-01", None)
    gaps = scaffold.marked(path)
    for line, what in gaps:
        assert f"catalog/papers/{path.name}:{line}: {what}" in out
    texts = path.read_text().splitlines()
    unmarked = [text for text in texts if scaffold.MARK not in text]
    assert not any(scaffold.UNFILLED in text for text in unmarked)
    assert {text.split(":")[0] for text in unmarked} == {"id", "arxiv", "date", "taxonomy"}  # what is known
    filled = "\n".join(text.partition("  # fill in")[0] for text in texts)
    path.write_text(filled.replace(scaffold.UNFILLED, "x"))
    assert scaffold.marked(path) == []
    assert load_paper(path, catalog.taxonomy, catalog.teachers)[0].title == "x"


@pytest.mark.parametrize(
    "text",
    [
        "2212.10560",
        "2212.10560v2",
        "https://arxiv.org/abs/2212.10560v1",
        "arxiv.org/pdf/2212.10560.pdf",
        "arXiv:2212.10560",
    ],
)
def test_arxiv_addresses_are_ids(text):
    assert scaffold.arxiv_of(text) == "2212.10560"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["minillm", "--arxiv", "2901.00001"], 'a record "minillm": catalog/papers/minillm.yaml'),
        (["other", "--arxiv", "2306.08543v3"], 'arXiv 2306.08543 is "minillm" already'),
        (["other", "--url", "https://arxiv.org/abs/2306.08543"], 'is "minillm" already'),
        (["Other_Paper", "--arxiv", "2901.00001"], "lower-case"),
        (["../other", "--arxiv", "2901.00001"], "lower-case"),
        (["other", "--arxiv", "12"], 'an arXiv id like "2306.08543"'),
        (["other", "--url", "javascript:alert(1)"], "https link"),
        (["other"], "--arxiv ID, or --url"),
        ([], "required: paper"),
    ],
)
def test_what_is_there_already_or_makes_no_sense_is_refused(new, tmp_path, words, message):
    before = set((tmp_path / "catalog" / "papers").iterdir())
    code, out, err = new(*words)
    assert code == 2 and message in err and err.count("\n") == 1 and out == ""
    assert set((tmp_path / "catalog" / "papers").iterdir()) == before


def test_claims_are_begun_only_if_asked(new, tmp_path):
    folder = tmp_path / "reproductions" / "papers" / "some_paper"
    new("some-paper", "--arxiv", "2901.01234")
    assert not folder.exists()
    (tmp_path / "catalog" / "papers" / "some-paper.yaml").unlink()
    assert new("some-paper", "--url", "https://example.org/paper", "--reproduction")[0] == 0
    assert "1900-01" in (tmp_path / "catalog" / "papers" / "some-paper.yaml").read_text()
    data = read_yaml(folder / "claims.yaml")
    assert data["claims"][0]["better"] == "some-paper" and len(scaffold.marked(folder / "claims.yaml")) == 6
    (tmp_path / "catalog" / "papers" / "some-paper.yaml").unlink()
    assert (
        new("some-paper", "--arxiv", "2901.01234", "--reproduction")[0] == 2
    )  # claims are never written over


def test_no_record_or_claim_waits_for_its_author():
    paths = [*(HERE / "papers").glob("*.yaml"), *(ROOT / "reproductions" / "papers").glob("*/claims.yaml")]
    waiting = [
        f"{path.relative_to(ROOT)}:{line}: {what}" for path in paths for line, what in scaffold.marked(path)
    ]
    assert not waiting, "\n".join(waiting)


def test_check_lists_what_new_left_open(new, tmp_path, monkeypatch):
    new("some-paper", "--arxiv", "2901.01234")
    monkeypatch.setattr(check, "HERE", tmp_path / "catalog")
    monkeypatch.setattr(check.owes, "HERE", tmp_path / "catalog")
    catalog = load_catalog(tmp_path / "catalog")
    found = list(check.missing(catalog, catalog.papers["some-paper"]))
    assert [item.line for item in found if item.kind == "unfilled"] == [
        line for line, _ in scaffold.marked(tmp_path / "catalog" / "papers" / "some-paper.yaml")
    ]
    assert {"basis", "method", "claims", "experiment"} <= {item.kind for item in found}
