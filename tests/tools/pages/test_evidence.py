"""What the papers say together, on its page, in the README and on the site: every figure is the record's."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from catalog.schema import load_catalog
from reproductions.engine.atlas.compute import record_of
from reproductions.engine.atlas.record import AgreementRow, Record
from reproductions.engine.atlas.statements import Pair, Statement
from tests.reproductions.engine.atlas.made import arm, arms_at, method
from tests.tools.conftest import claim, outcome, view_of
from tests.tools.pages.hostile import hostile_atlas
from tools.pages import readme
from tools.pages.atlas import Atlas
from tools.pages.evidence import page
from tools.pages.evidence.charts import axis, interval, sharpness, ticks
from tools.pages.evidence.site import forests
from tools.pages.evidence.told import holds
from tools.terminal import number

ON = Statement("on", "On policy", "Own answers help.", (Pair("sampler", {"name": "on-policy"}, None),))


@pytest.fixture(scope="module")
def record() -> Record:
    """Ten arms, two of them on policy and better by two."""
    arms = []
    for kind in ("forward-kl", "reverse-kl"):
        terms = [{"divergence": kind}]
        arms.append(arm(kind, method(terms, teachers=["main"]), 40, claims=["minillm"]))
        on = method(terms, teachers=["main"], sampler={"name": "on-policy"})
        arms.append(arm(f"{kind}-on", on, 42, claims=["minillm"]))
    return record_of([], [*arms, *arms_at(50, 50.01, 30, 20, 10)], [ON])


@pytest.fixture
def atlas(record, judged) -> Atlas:
    return Atlas(load_catalog(), {"minillm": judged}, record)


def test_the_page_has_every_statement_arm_and_count(atlas, record):
    text = page.page(atlas)
    (row,) = record.statements
    assert row.mean == pytest.approx(2, abs=0.5) and len(row.contrasts) == 2
    assert f"| On policy | {holds(row)} | {number(row.mean)} " in text
    table = record.tables[0]
    for found in table.rows:
        assert f"| {found.letters} | {found.ranks[0]}–{found.ranks[1]} |" in text
        assert number(found.cells[0].mean) in text
    assert f"{table.apart} of {table.pairs} pairs are told apart" in text
    assert "tiny" in text and "[minillm](papers/minillm.md)" in text


def test_what_is_not_recorded_is_said(judged):
    bare = Atlas(load_catalog(), {"minillm": judged}, None)
    assert "No result is recorded" in page.page(bare) and page.figures(bare) == {}
    assert page.short(bare) == ["No result is recorded that could be compared."]
    assert "No result is recorded" in readme.render(bare)


def test_the_readme_names_the_statements_and_stays_small(atlas):
    text = readme.render(atlas)
    section = text.split("## What the papers say together")[1].split("\n## ")[0]
    assert "On policy: " in section and "reproductions/atlas.md" in section
    assert len(section.encode()) < 4000


def test_scales_are_never_in_one_line(record):
    rows = [
        AgreementRow(scale, ("toy",), early, mean, None, None, None, 3 + 6 * early, 4, 5, ())
        for scale, early, mean in (("tiny", False, 0.5), ("tiny", True, -0.25), ("small", True, 1.0))
    ]
    small = replace(record.tables[0], scale="small")
    both = replace(record, tables=(record.tables[0], small), agreement=tuple(rows))
    lines = page.short(Atlas(load_catalog(), {}, both))
    assert [line for line in lines if "own order" in line] == [
        "  - The papers' own order: Kendall's tau 0.5 over 3 papers (0 settings with three arms or more); "
        "4 of 9 claims lie in the claimed direction",
        "  - The papers' own order (earlier attempts): Kendall's tau 1 over 9 papers (0 settings with three "
        "arms or more); 4 of 9 claims lie in the claimed direction",
    ]


@pytest.mark.parametrize(
    ("bounds", "prediction", "word"),
    [
        ((0.5, 1.0), (0.1, 2.0), "holds on average, and for the next contrast too"),
        ((0.5, 1.0), (-1.0, 2.0), "holds on average, not for each"),
        ((-1.0, -0.5), None, "the opposite holds on average"),
        ((-1.0, 0.5), (-2.0, 3.0), "not decided"),
    ],
)
def test_the_word_follows_from_the_intervals(record, bounds, prediction, word):
    row = record.statements[0]
    contrasts = tuple(replace(one, interval=(-1.0, 1.0)) for one in row.contrasts)
    assert holds(replace(row, interval=bounds, prediction=prediction, contrasts=contrasts)) == word


@pytest.mark.parametrize(
    ("others", "word"),
    [
        (((1.0, 2.0), (8.0, 9.0)), "each is for it, their mean not decided"),
        (((-2.0, -1.0), (-9.0, -8.0)), "each is against it, their mean not decided"),
        (((1.0, 2.0), (-9.0, -8.0)), "not decided"),
        (((1.0, 2.0), (-1.0, 9.0)), "not decided"),
    ],
)
def test_contrasts_that_agree_are_not_called_undecided(record, others, word):
    """With two of them the mean has one degree of freedom: -14.9 [-59.2, 29.4] of two that are 10 and 19 below zero."""
    row = record.statements[0]
    contrasts = tuple(replace(row.contrasts[0], interval=interval) for interval in others)
    assert holds(replace(row, interval=(-50.0, 60.0), prediction=None, contrasts=contrasts)) == word


def test_one_contrast_is_called_one(record):
    row = record.statements[0]
    one = replace(
        row, mean=None, interval=None, contrasts=(replace(row.contrasts[0], interval=(-2.0, -1.0)),)
    )
    assert holds(one) == "one contrast: against it"


def test_a_forest_has_the_claims_of_a_scale_by_verdict_and_size():
    drawn = (("open", 0.2), ("reproduced", 3.0), ("reproduced", 5.0), ("reversed", -4.0))
    sized = [
        replace(outcome(verdict), difference=gap, interval=(gap - 1, gap + 1), effect=2.0)
        for verdict, gap in drawn
    ]
    rows = [claim(f"c{place}", one) for place, one in enumerate(sized)]
    rows += [claim("small", replace(outcome("reproduced", "small"), effect=1.0)), claim("none")]
    found = forests(Atlas(load_catalog(), {"minillm": view_of("minillm", *rows)}, None))
    assert [(one.scale, one.claims) for one in found] == [("tiny", 4), ("small", 1)]
    assert [bar.claim.id for bar in found[0].bars] == ["c2", "c1", "c3", "c0"]
    middles = [float(x) for bar in found[0].bars for x in re.findall(r'"middle" cx="([\d.]+)%', bar.drawing)]
    at = axis([-4, 4], 2, 98, room=0)[2]
    assert middles == [at(2.5), at(1.5), at(-2.0), at(0.1)]  # in units of the smallest effect
    band = re.search(r'class="band" x="([\d.]+)%" width="([\d.]+)%', str(found[0].bars[0].drawing))
    assert band is not None and [float(part) for part in band.groups()] == [
        at(-1),
        pytest.approx(at(1) - at(-1)),
    ]


def test_an_interval_beyond_the_axis_says_so():
    at = axis([-4, 4], 0, 100, room=0)[2]
    inside = interval(at, "open", middle=0, bounds=(-1, 1), limits=(-4, 4))
    beyond = interval(at, "open", middle=9, bounds=(3, 12), limits=(-4, 4))
    assert "beyond" not in inside and "›" in beyond and "‹" not in beyond
    assert 'cx="100%"' in beyond and 'x2="100%"' in beyond


def test_a_scatter_shows_every_arm_even_those_far_below():
    levels = [50, 51, 52, 53, 49, 48, 50.5, 51.5]
    arms = [
        arm(f"a{place}", method([{"divergence": "forward-kl", "skew": place}]), level, shift=place)
        for place, level in enumerate([*levels, -90])
    ]
    (table,) = record_of([], arms, []).tables
    picture = sharpness(table, "greedy_exact_match")
    root = ElementTree.fromstring(picture)  # noqa: S314 - our own
    tags = [element.tag.rpartition("}")[2] for element in root]
    assert tags.count("circle") == 8 and tags.count("path") == 1
    titles = {element.text for element in root.iter() if element.tag.endswith("title")}
    assert sum(row.title in " ".join(filter(None, titles)) for row in table.rows) == 9
    assert sharpness(replace(table, rows=table.rows[:7]), "greedy_exact_match") == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (20.3, 32.9), (-0.02, 0.031), (61, 62), (0, 31337)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 9 and all(low <= tick <= high for tick in found)
    assert all(len(f"{tick:g}".replace("-", "").replace(".", "").strip("0")) <= 4 for tick in found)


def test_hostile_text_stays_text():
    atlas = hostile_atlas()
    texts = [page.page(atlas), "\n".join(page.short(atlas)), *page.figures(atlas).values()]
    assert len(texts) == 3
    for text in texts:
        assert "<script" not in text and "<img src=x" not in text
    assert not any(re.search(r"(?<!\\)\]\(javascript:", text) for text in texts[:2])
    assert "\u202e" not in texts[2] and "\u2028" not in texts[2]
    ElementTree.fromstring(texts[2])  # noqa: S314 - well-formed whatever its names are


def test_a_league_of_a_thousand_arms_takes_no_time(atlas, record):
    table = record.tables[0]
    rows = [replace(row, title=f"{row.title} {again}") for again in range(112) for row in table.rows]
    views = dict.fromkeys(load_catalog().papers, atlas.views["minillm"])
    large = Atlas(load_catalog(), views, replace(record, tables=(replace(table, rows=tuple(rows)),)))
    start = time.process_time()
    texts = {page.PATH: page.page(large), **page.figures(large)}
    assert time.process_time() - start < 0.5
    assert all(len(text.encode()) < 500_000 for text in texts.values())
    assert f"And {len(rows) - page.LONGEST} more" in texts[page.PATH]
