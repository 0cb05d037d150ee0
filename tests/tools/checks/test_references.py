"""Whatever the documents and records name is there: paths, modules, make targets, commands."""

from __future__ import annotations

import pytest

from catalog.schema import HERE
from tools.checks.references import broken, defined
from tools.paths import ROOT

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((HERE).rglob("*.yaml"))]


def test_every_name_in_documents_and_records_is_there():
    assert len(DOCUMENTS) > 30
    wrong = [f"{path.relative_to(ROOT)}:{line}: {what}" for path in DOCUMENTS for line, what in broken(path)]
    assert not wrong, "\n".join(wrong)


@pytest.fixture
def found(tmp_path):
    """What is broken in a Markdown text of one line or more, as seen from this repository."""

    def find(text: str, name: str = "page.md") -> list[tuple[int, str]]:
        path = tmp_path / name
        path.write_text(text)
        return broken(path)

    return find


@pytest.mark.parametrize(
    "text",
    [
        "`make browse`, `make show PAPER=minillm`, `make reproduce PAPER=<id> SCALE=small`",
        "`kd check minillm`, `.venv/bin/kd browse --json`, `kd <verb> --help`, `kd show`",
        "`kd browse --by skill,algorithm`, `kd bench --quick` and `kd check [PAPER]`",
        "`catalog/papers/<id>.yaml`, `reproductions/papers/<id>/`, `tests/catalog`, `.ci/run`, `Makefile`",
        "`methods.losses.divergences`, `methods.losses.divergences.forward_kl`, `catalog.schema.load_catalog`",
        "`catalog.reader.Lines.at`, `methods.*`",
        "```sh\nmake test ARGS=-x   # everything\nkd show minillm | head\n```",
        "outside of code make anything and kd anything; see https://x.org/tools/nothing.py",
        "`git clone https://x.org/tools/nothing && cd tools` and `my/tools/x.py`",
    ],
)
def test_what_is_there_is_not_reported(found, text):
    assert found(text) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("`make brows`", "no target `make brows`"),
        ("`make show PAPR=x`", "`make show` knows no PAPR="),
        ("```\n\nmake PAPR=x show\n```", "`make show` knows no PAPR="),
        ("`kd brows`", "no command `kd brows`"),
        ("`kd browse --skil code`", 'unknown option "--skil"'),
        ("`kd bench --dtype float8`", "invalid choice"),
        ("`catalog/paper.yaml`", "no file catalog/paper.yaml"),
        ("`catalog/pages/<id>.yaml`", "no file catalog/pages/<id>.yaml"),
        ("<code>tools/nothing.py</code>", "no file tools/nothing.py"),
        ("`methods.nothing`", "no methods.nothing"),
        ("`methods.losses.divergences.backward_kl`", "no methods.losses.divergences.backward_kl"),
        ("`catalog.reader.Lines.nowhere`", "no catalog.reader.Lines.nowhere"),
        ("[text](nothing.md)", "no file nothing.md"),
        ("[text](nothing.md#part)", "no file nothing.md"),
        ("[ref]: nothing.png", "no file nothing.png"),
        ('<img src="nothing.png">', "no file nothing.png"),
    ],
)
def test_what_is_not_there_is_reported_with_its_line(found, text, problem):
    ((line, what),) = found("\n\n" + text)
    assert problem in what and line == (5 if text.startswith("```") else 3)


def test_links_elsewhere_and_within_a_page_are_not_files(found):
    assert found("[a](https://x.org/y) [b](#part) [c](mailto:a@b.org)") == []


def test_records_name_real_modules(found):
    assert found("method: methods.trainers.nothing.Trainer\n", "x.yaml") == [
        (1, "no methods.trainers.nothing.Trainer")
    ]
    assert found("method: methods.trainers.policy.PolicyDistiller\n", "x.yaml") == []


def test_nothing_is_imported_to_find_a_name(tmp_path):
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "bad.py").write_text(
        "from x import imported\nraise SystemExit\nVALUE: int = 1\nA = B = 2\nclass C:\n    def d(self): ...\n"
    )
    names = ("VALUE", "A", "B", "C", "C.d", "imported")
    assert all(defined(f"methods.bad.{name}", tmp_path) for name in names)
    assert not any(
        defined(f"methods.{name}", tmp_path) for name in ("bad.E", "bad.C.e", "worse", "bad.C.d.e")
    )
