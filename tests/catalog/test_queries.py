"""Filters, search and counts over the catalog."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog.errors import CatalogError
from catalog.queries import axis_name, by_leaf, crosstab, find, select, status, year_span
from catalog.schema import Catalog, External, load_catalog

CATALOG = load_catalog()


def ids(papers):
    return [paper.id for paper in papers]


@pytest.fixture
def small():
    """Three papers whose values are easy to count."""
    base = CATALOG.papers["minillm"]
    kinds = {
        "one": (
            "Distilling Rationales",
            "2023-01",
            {"labeling": "listed"},
            {"sft": "listed"},
            {"planning": "listed"},
        ),
        "two": (
            "Ranking with a Judge",
            "2024-02",
            {"feedback": "listed"},
            {"sft": "judged"},
            {"tool-using": "listed"},
        ),
        "three": (
            "Both",
            "2022-05",
            {"labeling": "listed", "feedback": "listed"},
            {"rank-optimization": "listed"},
            {},
        ),
    }
    papers = {
        name: replace(
            base,
            id=name,
            title=title,
            date=date,
            adds="something",
            external=(),
            method=None,
            taxonomy={"elicitation": elicitation, "algorithm": algorithm, "skill": skill, "vertical": {}},
        )
        for name, (title, date, elicitation, algorithm, skill) in kinds.items()
    }
    return Catalog(CATALOG.taxonomy, CATALOG.teachers, papers)


def test_newest_first(small):
    assert ids(select(small)) == ["two", "one", "three"]


def test_any_value_within_an_axis_all_axes_together(small):
    assert ids(select(small, wanted={"elicitation": ["labeling", "feedback"]})) == ["two", "one", "three"]
    assert ids(select(small, wanted={"elicitation": ["feedback"], "algorithm": ["sft"]})) == ["two"]


def test_a_group_of_skills_stands_for_its_values(small):
    assert ids(select(small, wanted={"skill": ["agent"]})) == ["two", "one"]


def test_status_is_derived(small):
    assert status(CATALOG.papers["minillm"]) == "implemented"
    assert status(CATALOG.papers["minillm"], ["minillm"]) == "judged"
    assert ids(select(small, statuses=["judged"], judged=["one"])) == ["one"]
    assert ids(select(small, statuses=["implemented"])) == []


def test_search_takes_substrings_first_and_forgives_typos(small):
    assert ids(find(small.papers.values(), "RATIONALE")) == ["one"]
    assert ids(find(small.papers.values(), "rationels")) == ["one"]
    assert ids(find(small.papers.values(), "judge rankin")) == ["two"]
    assert ids(find(small.papers.values(), "quantum")) == []
    assert ids(find(small.papers.values(), "***")) == []
    assert len(select(small, search="   ")) == 3


def test_the_best_match_comes_first(small):
    papers = {
        name: replace(
            small.papers["one"], id=name, title=title, adds=adds, date=date, teacher="GPT-4", student=None
        )
        for name, title, adds, date in [
            ("gkd", "On-policy distillation", "Its own samples.", "2020-01"),
            ("other", "A study of gkd", "Nothing.", "2021-01"),
            ("third", "Something else", "Better than GKD on code.", "2024-01"),
            ("fourth", "Naïve Bayes", "Codebooks are frozen.", "2023-01"),
            ("gdk-like", "Unrelated", "Nothing.", "2025-01"),
        ]
    }
    search = lambda text: ids(find(papers.values(), text))  # noqa: E731
    assert search("gkd") == [
        "gkd",
        "other",
        "third",
    ]  # id, title, what it adds; similar words only where none is
    assert search("code") == ["third", "fourth"]  # a whole word before the beginning of one
    assert search("naive") == ["fourth"] and search("NAÏVE") == ["fourth"]
    assert search("gpt-4") == ["gdk-like", "third", "fourth", "other", "gkd"]  # all alike: newest first
    assert search("on policy distillation") == search("on-policy") == ["gkd"]
    assert search("gdklike") == ["gdk-like"]
    assert search("distilation") == ["gkd"]
    assert search("fourht") == ["fourth"]


def test_an_id_of_arxiv_finds_its_paper():
    assert ids(select(CATALOG, search="2306.08543")) == ["minillm"]
    assert ids(select(CATALOG, search="minillmm"))[0] == "minillm"
    assert ids(select(CATALOG, search="distillm2"))[0] == "distillm-2"


def test_years_scopes_code_and_ids_narrow(small):
    assert ids(select(small, years=["2022"])) == ["three"]
    assert ids(select(small, years=["2022-2023"])) == ["one", "three"]
    assert ids(select(small, years=["2023-"])) == ["two", "one"]
    assert ids(select(small, years=["2022", "2024"])) == ["two", "three"]
    assert ids(select(small, among=["one"])) == ["one"]
    assert ids(select(small, has_code=True)) == ["two", "one", "three"]
    bare = {name: replace(paper, code=(), scope="survey") for name, paper in small.papers.items()}
    other = Catalog(small.taxonomy, small.teachers, {**bare, "one": small.papers["one"]})
    assert ids(select(other, has_code=True)) == ids(select(other, scopes=["llm"])) == ["one"]
    assert ids(select(other, scopes=["survey", "beyond-llm"])) == ["two", "three"]


def test_papers_that_others_ran_or_wrote_about(small):
    assert ids(select(small, external=True)) == []
    found = External("https://x.org/1", "2026-04", "issue", "It is so.", None, "2026-11-28")
    told = {**small.papers, "three": replace(small.papers["three"], external=(found,))}
    told = Catalog(small.taxonomy, small.teachers, told)
    assert ids(select(told, external=True)) == ["three"]
    assert ids(select(told, external=True, years=["2023-"])) == []


@pytest.mark.parametrize("text", ["23", "2023-06", "2023-2024-2025", "", "20230", "x" * 10_000])
def test_what_is_no_year_is_said_to_be_none(text):
    with pytest.raises(CatalogError, match="is no year; write 2025, 2023-2025 or 2024-") as raised:
        year_span(text)
    assert len(str(raised.value)) < 150


def test_a_span_of_years_goes_forward():
    assert year_span("2023-2023") == (2023, 2023)
    with pytest.raises(CatalogError, match="write 2023-2025"):
        year_span("2025-2023")


def test_leaves_hold_their_papers(small):
    leaves = by_leaf(small.papers.values(), "elicitation")
    assert {leaf: ids(papers) for leaf, papers in leaves.items()} == {
        "labeling": ["one", "three"],
        "feedback": ["two", "three"],
    }
    assert by_leaf(small.papers.values(), "vertical") == {}


def test_crosstab_counts_a_paper_in_each_of_its_cells(small):
    assert crosstab(small.papers.values(), "elicitation", "algorithm") == {
        ("labeling", "sft"): 1,
        ("feedback", "sft"): 1,
        ("labeling", "rank-optimization"): 1,
        ("feedback", "rank-optimization"): 1,
    }


def test_wrong_names_get_the_nearest(small):
    with pytest.raises(CatalogError, match='no value "labelling" of elicitation.*did you mean "labeling"'):
        select(small, wanted={"elicitation": ["labelling"]})
    with pytest.raises(CatalogError, match='no status "judgd".*did you mean "judged"'):
        select(small, statuses=["judgd"])
    with pytest.raises(CatalogError, match='no scope "llms".*did you mean "llm"'):
        select(small, scopes=["llms"])
    with pytest.raises(CatalogError, match='no axis "skil".*did you mean "skill"'):
        axis_name("skil")
