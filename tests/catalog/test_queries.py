"""Filters, search and counts over the catalog."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog.errors import CatalogError
from catalog.queries import axis_name, crosstab, find, select, status
from catalog.schema import Catalog, load_catalog

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
    with pytest.raises(CatalogError, match='no axis "skil".*did you mean "skill"'):
        axis_name("skil")
