"""What a record owes stands on the record, exactly."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from catalog.errors import CatalogError
from catalog.schema import HERE, load_catalog
from tools import cli
from tools.checks import owes
from tools.verbs import check


def test_every_record_says_what_it_owes():
    """Not a number of the whole catalog: records that come in side by side do not meet here."""
    wrong = [
        f"catalog/papers/{paper.id}.yaml:{line}: {what}"
        for paper, line, what in owes.wrong(load_catalog().papers.values())
    ]
    assert not wrong, "\n".join(wrong)


def test_what_is_owed_is_read_from_the_record(monkeypatch, tmp_path):
    monkeypatch.setattr(owes.gather, "PAPERS", tmp_path)
    (tmp_path / "minillm.yaml").write_text("paper: minillm\nclaims: {}\n")
    (tmp_path / "b.yaml").write_text("paper: b\n")
    base = replace(
        load_catalog().papers["minillm"], method="minillm", basis="paper", authors=("A B",), owes=()
    )
    assert owes.owed(base) == ()
    assert owes.owed(replace(base, id="a")) == owes.owed(replace(base, id="b")) == ("claims",)
    assert owes.owed(replace(base, method=None, basis="recalled")) == ("basis", "method")
    assert owes.owed(replace(base, authors=(), basis=None)) == ("authors", "basis")
    assert owes.owed(replace(base, scope="survey", method=None, basis=None, authors=())) == ("authors",)
    assert owes.owed(replace(base, distils=False, method=None, basis="secondary")) == ()


@pytest.fixture
def catalog(tmp_path, monkeypatch) -> Path:
    """A catalog of two records: one owes what it says, one says nothing."""
    (tmp_path / "papers").mkdir()
    for name in ("taxonomy.yaml", "teachers.yaml", "papers/minillm.yaml", "papers/vicuna.yaml"):
        shutil.copy(HERE / name, tmp_path / name)
    monkeypatch.setattr(owes, "HERE", tmp_path)
    monkeypatch.setattr(check, "load_catalog", lambda: load_catalog(tmp_path))
    return tmp_path


def test_a_debt_unsaid_and_a_debt_paid_are_both_found_and_mended(catalog, capsys):
    assert cli.main(["check", "--owes"]) == 0
    assert "every record says what it owes" in capsys.readouterr().out
    record, other = catalog / "papers" / "minillm.yaml", catalog / "papers" / "vicuna.yaml"
    before, untouched = record.read_text(), other.read_text()
    record.write_text(
        before.replace("authors: [Yuxian Gu, Li Dong, Furu Wei, Minlie Huang]\n", "owes: [claims]\n")
    )
    assert cli.main(["check", "--owes"]) == 1
    out = capsys.readouterr().out
    assert "minillm.yaml:4: owes authors and does not say so and does not owe claims any more" in out
    assert (
        cli.main(["check", "--owes", "--write"]) == 0 and "minillm.yaml: written" in capsys.readouterr().out
    )
    assert "\nowes: [authors]\n" in record.read_text() and other.read_text() == untouched
    assert cli.main(["check", "--owes"]) == 0


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("a: 1\n", ("basis",), "a: 1\nowes: [basis]\n"),
        ("a: 1", ("basis", "method"), "a: 1\nowes: [basis, method]\n"),
        ("a: 1\nowes: [x]\nb: 2\n", ("basis",), "a: 1\nowes: [basis]\nb: 2\n"),
        ("a: 1\nowes:\n  - x\n  - y\nb: 2\n", (), "a: 1\nb: 2\n"),
        ("a: 1\nowes:\n- x\nb: 2\n", (), "a: 1\nb: 2\n"),
        ("a: 1\n", (), "a: 1\n"),
    ],
)
def test_nothing_but_the_flags_changes(text, flags, expected):
    assert owes.with_flags(text, flags) == expected


def test_a_debt_that_nobody_knows_is_refused(catalog):
    record = catalog / "papers" / "minillm.yaml"
    record.write_text(record.read_text() + "owes: [author]\n")
    with pytest.raises(CatalogError, match='no debt "author".*did you mean "authors"'):
        load_catalog(catalog)
