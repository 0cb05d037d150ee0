"""`kd new`: a record that is valid, refused where there is one, and cannot pass for finished."""

from __future__ import annotations

import shutil

import pytest

from catalog import index
from catalog.errors import CatalogError
from catalog.schema import HERE, load_catalog, load_paper
from methods import recipe
from methods.recipe import canonical_method, read_recipe
from reproductions.engine.plan.experiment import load_experiment
from reproductions.engine.show import gather
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
    monkeypatch.setattr(check.gather, "RECIPES", tmp_path / "methods" / "recipes")
    recipes = tmp_path / "methods" / "recipes"
    shutil.copytree(recipe.FOLDER, recipes)
    monkeypatch.setattr(index, "RECIPES", recipes)
    monkeypatch.setattr(recipe, "FOLDER", recipes)

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
        "https://arxiv.org/html/2212.10560v1",
        "arXiv:2212.10560",
    ],
)
def test_arxiv_addresses_are_ids(text):
    assert scaffold.arxiv_of(text) == "2212.10560"


@pytest.mark.parametrize("text", ["2306.8543", "1501.0001", "1412.06550", "2313.08543", "cs/0112017"])
def test_an_id_that_arxiv_never_gave_is_refused(text):
    """Until the end of 2014 a number has four digits, since then five: a digit that got lost shows."""
    with pytest.raises(CatalogError, match="is not an arXiv id"):
        scaffold.arxiv_of(text)


def test_ids_of_before_2015_have_four_digits():
    assert scaffold.arxiv_of("https://arxiv.org/abs/1412.6550v4") == "1412.6550"


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


@pytest.mark.parametrize("where", [["--arxiv", "2901.01234"], ["--url", "https://example.org/paper"]])
def test_experiment_and_recipe_are_begun_only_if_asked_and_can_be_read(new, tmp_path, where):
    path = tmp_path / "reproductions" / "papers" / "some-paper.yaml"
    made = tmp_path / "methods" / "recipes" / "some-paper.yaml"
    record = tmp_path / "catalog" / "papers" / "some-paper.yaml"
    new("some-paper", *where)
    assert not path.exists() and not made.exists()
    record.unlink()
    code, out, _ = new("some-paper", *where, "--reproduction")
    assert code == 0 and load_catalog(tmp_path / "catalog").papers["some-paper"].method == "some-paper"
    experiment = load_experiment("some-paper", path.parent)
    (claim,) = gather.claims_of(experiment).claims
    assert claim.contrast.pair == ("some-paper", "sft")
    assert canonical_method(read_recipe("some-paper").method())["terms"] == [{"divergence": "forward-kl"}]
    assert len(scaffold.marked(path)) == 11 and len(scaffold.marked(made)) == 4
    for file in (path, made):
        for line, what in scaffold.marked(file):
            assert f"{file.relative_to(tmp_path)}:{line}: {what}" in out
    record.unlink()
    assert new("some-paper", *where, "--reproduction")[0] == 2  # nothing is ever written over


def test_nothing_that_is_committed_waits_for_its_author():
    paths = [
        *(HERE / "papers").glob("*.yaml"),
        *gather.PAPERS.glob("*.yaml"),
        *gather.RECIPES.glob("*.yaml"),
    ]
    waiting = [
        f"{path.relative_to(ROOT)}:{line}: {what}" for path in paths for line, what in scaffold.marked(path)
    ]
    assert len(paths) > 400 and not waiting, "\n".join(waiting)


def test_check_lists_what_new_left_open(new, tmp_path, monkeypatch):
    new("some-paper", "--arxiv", "2901.01234")
    monkeypatch.setattr(check, "HERE", tmp_path / "catalog")
    monkeypatch.setattr(check.owes, "HERE", tmp_path / "catalog")
    catalog = load_catalog(tmp_path / "catalog")
    found = list(check.missing(catalog, catalog.papers["some-paper"]))
    assert [item.line for item in found if item.kind == "unfilled"] == [
        line for line, _ in scaffold.marked(tmp_path / "catalog" / "papers" / "some-paper.yaml")
    ]
    assert {"basis", "method", "experiment"} <= {item.kind for item in found}
