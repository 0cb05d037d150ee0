"""A question of our own: an experiment without a record, with a page, verdicts and a place wherever papers have one."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from catalog.schema import load_catalog
from reproductions.engine.atlas import record
from reproductions.engine.atlas.compute import compute
from reproductions.engine.show import files
from reproductions.engine.show.view import AttemptRow
from tests.tools.conftest import claim, outcome, view_of
from tools import cli
from tools.experiments import every_experiment
from tools.pages import documents, papers, readme
from tools.pages.atlas import Atlas, Question, atlas, ours
from tools.pages.evidence.site import evidence
from tools.pages.site.build import MARKS, build

ABOUT = "A question of our own: is it <b>so</b>?\n\nAll arms are alike.\n"


@pytest.fixture
def question() -> Question:
    """One that was judged."""
    row = replace(claim("it-is", outcome("reproduced")), paper_better=None, paper_worse=None)
    return Question("why", ABOUT, replace(view_of("why", row), places=(("experiment", "x/why.yaml"),)))


@pytest.fixture
def asked(checkout, monkeypatch):
    """The recorded experiment of `codi` once more, as one that no paper states."""
    folder = checkout / "reproductions" / "papers"
    text = (folder / "codi.yaml").read_text()
    source = '{ours: true, where: "we wondered"}'
    text = re.sub(r"source: \{[^}]*\}", f"source: {source}", text).replace("paper: codi", "paper: why", 1)
    text = re.sub(
        r"about: >-\n(  .*\n|\n)*", "about: |-\n  A question of our own: is it so?\n\n  It is.\n", text
    )
    (folder / "why.yaml").write_text(re.sub(r"attempt:\n(  .*\n)*", "", text))
    tuned = checkout / "reproductions" / "tuning" / "tiny"
    monkeypatch.setattr("reproductions.engine.plan.rates.ROOT", tuned.parent)
    (tuned / "why.json").write_bytes((tuned / "codi.json").read_bytes())
    return checkout


def test_it_is_no_paper_and_counts_as_none(question):
    shown = Atlas(load_catalog(), {}, questions={"why": question})
    assert question.asks == "Is it <b>so</b>?" and question.badge == "tiny (world): ✅ 1"
    assert shown.judged == frozenset() and shown.evidence == {}
    assert evidence(shown, MARKS)["forests"] == []


def test_its_page_asks_and_answers_and_quotes_no_paper(question):
    page = papers.question_page(question)
    assert page.startswith("# Is it &lt;b&gt;so&lt;/b&gt;?\n") and "\nAll arms are alike.\n" in page
    assert "✅" in page and "make reproduce PAPER=why SCALE=tiny" in page and "`x/why.yaml`" in page
    assert "The paper's numbers" not in page and "bibtex" not in page and "catalog/papers" not in page
    assert "reproductions/papers/why.md" in documents.own(
        Atlas(load_catalog(), {}, questions={"why": question})
    )


def test_readme_and_site_list_it(question, tmp_path):
    shown = Atlas(load_catalog(), {}, questions={"why": question})
    text = readme.render(shown)
    line = "- [why](reproductions/papers/why.md) Is it &lt;b&gt;so&lt;/b&gt;? tiny (world): ✅ 1"
    assert line in text.splitlines() and len(text.encode()) <= readme.LIMIT
    assert "Questions of our own" not in readme.render(replace(shown, questions={}))
    build(tmp_path / "site", shown)
    page = (tmp_path / "site" / "papers" / "why.html").read_text()
    assert "<h1>Is it &lt;b&gt;so&lt;/b&gt;?</h1>" in page and "1 reproduced" in page
    assert '<a href="papers/why.html">' in (tmp_path / "site" / "evidence.html").read_text()


def test_what_was_judged_before_stands_on_its_page_of_the_site(question, tmp_path):
    before = AttemptRow(1, "2026-11-01", 2, "tiny", "line", "the first <one>", "abc", "", (("open", 3),), ())
    later = replace(question, view=replace(question.view, attempts=(before,), attempt=(2, "another maze")))
    build(tmp_path / "site", Atlas(load_catalog(), {}, questions={"why": later}))
    page = (tmp_path / "site" / "papers" / "why.html").read_text()
    assert "What is judged above is attempt 2: another maze." in page
    assert "<td>the first &lt;one&gt;</td><td>3 open" in page


def test_it_is_judged_shown_and_verified_like_a_paper(asked, capsys):
    assert cli.main(["verify", "why"]) == 1  # nothing is written yet
    said = " ".join(capsys.readouterr().out.split())
    assert "reproductions/verdicts/why.json: is missing" in said
    assert "reproductions/papers/why.md: differs" in said
    shown = atlas()
    assert list(shown.views) == ["codi"] and list(shown.questions) == ["why"]
    files.write(shown.questions["why"].view)
    record.write(compute(asked), asked)
    documents.write(documents.own(shown), asked)
    assert cli.main(["verify", "why"]) == 0 and "what is committed follows" in capsys.readouterr().out
    assert cli.main(["verify"]) == 0, capsys.readouterr().out
    assert files.orphans(every_experiment(load_catalog())) == []
    capsys.readouterr()
    assert cli.main(["show", "why"]) == 0
    said = capsys.readouterr().out
    assert (
        said.startswith("Is it so?\n")
        and "make verify PAPER=why" in said
        and "reproductions/papers/why.md" in said
    )
    assert cli.main(["show", "why", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["asks"] == "Is it so?"
    assert cli.main(["show", "whyy"]) == 2


def test_every_question_of_this_repository_asks_something():
    for question in ours(load_catalog()).values():
        assert question.asks.endswith("?") and len(question.asks) < 200
