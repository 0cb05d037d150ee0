"""Disputes on their page, in the README and on the site, with few arms and with many."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catalog.schema import load_catalog
from reproductions.engine.atlas.record import (
    AnswerRow,
    Contrast,
    DisputeRow,
    PooledRow,
    Record,
    SideRow,
)
from reproductions.engine.show.view import DialRow
from tools.pages import readme
from tools.pages.atlas import Atlas
from tools.pages.evidence import disputes
from tools.pages.site.build import build

SIDES = (SideRow("This <b>one</b>.", ("gkd",)), SideRow("That one.", ("opsa",)))


def contrast(low, high, more="a"):
    return Contrast(more, "b", ("k", "l"), ("gkd",), 5, (low + high) / 2, 1.0, (low, high))


def row(*contrasts, league="navigate", mean=None, bounds=None):
    return PooledRow(
        statement="d/1", title="?", says="One is better.", league=league, scale="tiny", metric="greedy_exact_match",
        metric_title="exact match, greedy", unit="%", mean=mean, interval=bounds, tau=None if mean is None else 0.5,
        prediction=None, shared=None, contrasts=contrasts,
    )  # fmt: skip


def dispute(*answers, unanswered=""):
    return DisputeRow("which", "Which <i>one</i>?", unanswered, SIDES, answers)


def answer(*rows, missing=()):
    return AnswerRow("One is better.", rows, missing)


def shown(*found) -> Atlas:
    return Atlas(load_catalog(), {}, Record("0", 0.9875, disputes=found))


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (dispute(unanswered="nobody knows."), "Unanswered: nobody knows."),
        (dispute(answer(row(contrast(1, 2))), unanswered="nobody knows."), "Unanswered: nobody knows."),
        (dispute(answer(missing=("x: not recorded",))), "Unanswered: 1 arm is missing."),
        (dispute(answer(missing=("x", "y")), answer(missing=("y",))), "Unanswered: 2 arms are missing."),
        (dispute(answer(row(contrast(1, 2)))),
         "One is better: one contrast: for it (navigate, 1.5 [1, 2] points, 1 contrast)."),
        (dispute(answer(row(contrast(-2, -1))), answer(row(contrast(-2, 3)))),
         "One is better: one contrast: against it (navigate, -1.5 [-2, -1] points, 1 contrast); 1 more."),
        (dispute(answer(row(contrast(-1, 2), contrast(0, 1), mean=0.5, bounds=(-1, 1)))),
         "One is better: not decided (navigate, 0.5 [-1, 1] points, 2 contrasts, tau 0.5)."),
    ],
)  # fmt: skip
def test_the_state_is_one_line_and_follows_from_the_intervals(found, words):
    assert disputes.state(found) == words


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], ""),
        ([row(contrast(1, 2))], "not seen yet: one contrast on one testbed"),
        ([row(contrast(1, 2)), row(contrast(-2, -1), league="words")],
         "on the testbed: for it on navigate, against it on words"),
        ([row(contrast(1, 2, "p"), contrast(-2, -1, "q"), mean=0.0, bounds=(-1, 1))],
         "on the arms: p minus b is for it, q minus b against it"),
        ([row(contrast(1, 2)), row(contrast(-1, 3), league="words")],
         "nothing seen: 2 contrasts on 2 testbeds, no contrast is against it"),
        ([row(contrast(-1, 2), contrast(-1, 1), mean=0.0, bounds=(-1, 1))],
         "nothing seen: 2 contrasts on one testbed, none is decided"),
    ],
)  # fmt: skip
def test_what_an_answer_depends_on_is_computed(rows, words):
    assert disputes.depends(answer(*rows)) == words


def test_page_readme_and_site_say_it(tmp_path):
    atlas = shown(
        dispute(answer(row(contrast(1, 2))), answer(missing=("opsa/opsa: no such experiment",))),
        replace(dispute(unanswered="nobody knows."), id="other"),
    )
    page = disputes.page(atlas)
    assert "## Which &lt;i&gt;one&lt;/i&gt;?" in page and "<i>" not in page
    assert r"| One is better. | navigate | exact match, greedy | one contrast: for it |" in page
    assert r"- navigate: a minus b: 1.5 \[1, 2\], 5 seeds" in page
    assert "- One is better. opsa/opsa: no such experiment." in page and "[opsa](https://" in page
    text = readme.render(atlas)
    assert "What papers [dispute](reproductions/disputes.md)" in text
    assert sum("Which &lt;i&gt;one&lt;/i&gt;?" in line for line in text.splitlines()) == 2
    assert len(text.encode()) <= readme.LIMIT
    build(tmp_path / "site", atlas)
    site = (tmp_path / "site" / "disputes.html").read_text()
    assert "Which &lt;i&gt;one&lt;/i&gt;?" in site and "opsa/opsa: no such experiment" in site
    assert 'href="disputes.html"' in (tmp_path / "site" / "index.html").read_text()


def test_an_answer_shows_the_same_arms_at_other_settings(judged, tmp_path):
    """Found by the keys of both arms, in the claim's direction; an arm of another key is another contrast."""
    (first, *rest), claim = judged.scales, judged.claims[0]
    dials = (
        DialRow("demonstrations", "200", claim.id, 61.5, 58.25, 3.25, (1.5, 5.0), 5, own=True),
        DialRow("demonstrations", "400", claim.id, 60.0, 61.0, -1.0, (-3.0, 1.0), 5),
    )
    arms = tuple(
        replace(arm, name=name, key=key)
        for arm, name, key in zip(first.arms, (claim.better, claim.worse), "kl", strict=True)
    )
    view = replace(judged, scales=(replace(first, arms=arms, dials=dials), *rest))
    found = replace(contrast(1, 2), papers=(judged.paper,))
    atlas = replace(shown(dispute(answer(row(found)))), views={judged.paper: view})
    line = r"a minus b by demonstrations (minillm, 98.75 %): 200 (judged): 3.25 [1.5, 5]; 400: -1 [-3, 1]"
    assert disputes.elsewhere(atlas, answer(row(found))) == [line]
    assert "At other settings of the task, where nothing is judged:" in disputes.page(atlas)
    turned = answer(row(replace(found, keys=("l", "k"))))
    assert disputes.elsewhere(atlas, turned) == []
    build(tmp_path / "site", atlas)
    assert "400: -1 [-3, 1]" in (tmp_path / "site" / "disputes.html").read_text()


def test_a_catalog_without_results_has_a_page_too(tmp_path):
    nothing = replace(shown(), record=None)
    assert "Nothing is computed yet." in disputes.page(nothing)
    assert "dispute](" not in readme.render(nothing)
    assert disputes.values(nothing)["disputes"] == []
