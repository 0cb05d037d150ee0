"""The page of a paper and its figure."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest

from catalog.schema import External, load_catalog
from reproductions.engine.show import gather
from reproductions.engine.show.view import AttemptRow, DialRow, FormerRow, Matched, ValueRow
from tests.tools.conftest import claim, outcome, view_of
from tools.pages import papers
from tools.pages.atlas import Atlas, atlas
from tools.pages.figures import dials
from tools.pages.figures.forest import forest
from tools.paths import ROOT


@pytest.fixture
def page(judged) -> str:
    """The page of a judged paper."""
    return show(judged)


def show(view) -> str:
    catalog = load_catalog()
    return papers.page(Atlas(catalog, {view.paper: view}), catalog.papers[view.paper], view)


def test_claims_stand_beside_the_papers_numbers_and_name_their_scale(page):
    page = page.replace("\u00a0", " ")  # numbers are not parted at a line's end
    assert "24.6 vs 23.3" in page and "61.5 vs 58.25" in page and r"3.25 \[1.5, 5\]" in page
    assert (
        "✅ tiny, world: reproduced" in page
        and "🔄 tiny, world: reversed" in page
        and "❔ small, world: open at the cap" in page
    )
    assert "**tiny: ✅ 1 🔄 1 · small: ❔ 1**" in page
    assert re.search(r"- \*\*beats-none\*\*: .* ⬜ not run\.", page)
    assert "- **beats-sft**, small, open: The gap is small here." in page


def test_arms_figures_budgets_and_what_stood_in_are_told(page):
    bed = (
        "Testbed [`pronunciation`](../../reproductions/testbeds/pronunciation.md), teacher: `world`, 5 seeds."
    )
    assert bed in page and "The teacher (`world`) is a small model taught a task from scratch" in page
    raw = "../../reproductions/results/pronunciation/0123456789abcdef.json"
    assert f"- **[minillm]({raw})** (method): MiniLLM<br>`terms: [reverse-kl]`\n" in page
    assert "[components](../../methods/GALLERY.md); its name leads to its raw figures" in page
    assert "\n| minillm | 61.5" in page
    assert "paper 24.6" in page and "| minillm | 114k | 0 | 2.5M | 9.1 | 13.1 | 2.0 % | - |" in page
    assert "- **late** (baseline): Never run\n" in page and "| late | - |" in page
    assert "| minillm | 40 | 61.5 |" in page  # the learning curve


def test_what_was_added_to_an_arm_is_linked_beside_it(judged, monkeypatch, tmp_path):
    monkeypatch.setattr(gather, "RESULTS", tmp_path)
    (tmp_path / "pronunciation" / "0123456789abcdef").mkdir(parents=True)
    for name in ("0123456789abcdef.json", "0123456789abcdef/1.json", "0123456789abcdef/2.json"):
        (tmp_path / "pronunciation" / name).touch()
    scale = judged.scales[0]
    folder = "../../reproductions/results/pronunciation/0123456789abcdef"
    assert papers._arm(scale, scale.arms[0]) == f"**[minillm]({folder}.json)** [+ 2]({folder}/)"


def test_it_says_how_to_run_it_and_where_everything_is(page):
    assert "make reproduce PAPER=minillm SCALE=tiny   # about 4 minutes on 2 cores" in page
    assert "make verify PAPER=minillm" in page and "@misc{minillm_2023," in page
    found = re.findall(r"\]\(\.\./\.\./([^)]+)\)", page)
    assert "methods/recipes/minillm.yaml" in found and "methods/GALLERY.md" in found
    for path in found:
        assert (ROOT / path).exists() or "0123456789abcdef" in path, path


def test_equivalences_and_the_papers_own_numbers_have_a_place():
    same = replace(
        claim("same", replace(outcome("reproduced"), better_mean=None, worse_mean=None)),
        formula="|a - b| < 1",
        within=1.0,
        better="",
        worse="",
        paper_better=None,
        paper_worse=None,
    )
    value = ValueRow("dolly", "sft", "rouge_l", 23.0, 1.0, 22.8, (22.1, 23.4), 5, "reproduced")
    text = show(replace(view_of("minillm", same), values=(value,)))
    text = text.replace("\u00a0", " ")
    assert "`|a - b| < 1` on `rouge_l`." in text and "| same | ordering only |  | 3.25" in text
    assert "| dolly | 23 ± 1 | 22.8" in text and "✅ paper: reproduced" in text


@pytest.mark.parametrize("name", sorted(atlas().views))
def test_every_table_of_every_page_keeps_its_shape(name):
    shown = atlas()
    lines = papers.page(shown, shown.catalog.papers[name], shown.views[name]).splitlines()
    rules = [place for place, line in enumerate(lines) if re.fullmatch(r"[|:-]+", line)]
    assert rules or not any(claim.outcomes for claim in shown.views[name].claims), "tables tell of runs"
    for place in rules:
        columns = lines[place].count("|")
        assert len(re.findall(r"(?<!\\)\|", lines[place - 1])) == columns
        for line in lines[place + 1 :]:
            if not line.startswith("|"):
                break
            assert len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`", "", line))) == columns, line


def test_a_forest_plot_shows_every_outcome_against_what_it_must_exceed(judged):
    root = ElementTree.fromstring(forest(judged))
    every = list(root.iter("{http://www.w3.org/2000/svg}line"))
    lines = [line for line in every if line.get("class") not in ("axis", "effect")]
    matters = [float(line.get("x1")) for line in every if line.get("class") == "effect"]
    assert len(matters) == 6 and matters[0] < matters[1]  # on both sides of the bound, for each outcome
    assert [line.get("class") for line in lines] == ["reproduced", "reversed", "open"]
    bound = next(
        line for line in root.iter("{http://www.w3.org/2000/svg}line") if line.get("class") == "axis"
    )
    assert float(bound.get("x1")) < float(lines[0].get("x1")) < float(lines[0].get("x2"))
    heads = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text") if t.get("class") == "head"]
    assert heads == ["tiny scale, rouge_l", "small scale, rouge_l"]


def test_an_equivalence_is_drawn_between_its_two_bounds():
    row = replace(claim("same", outcome("reproduced")), within=6.0)
    root = ElementTree.fromstring(forest(view_of("minillm", row)))
    bounds = [
        float(line.get("x1"))
        for line in root.iter("{http://www.w3.org/2000/svg}line")
        if line.get("class") == "axis"
    ]
    assert len(bounds) == 2 and bounds[0] < bounds[1]


def tried() -> AttemptRow:
    claims = (
        FormerRow("beats-sft", "inconclusive", 0.5, (-1.0, 2.0), (-0.5, 1.5), "no difference", True),
        FormerRow("beats-kd", "not reproduced", -2.0, (-3.0, -1.0), None, "", True),
    )
    counts = (("not reproduced", 1), ("inconclusive", 1))
    return AttemptRow(
        1, "2026-11-22", 1, "tiny", "words-1", "first *rates*", "abc1234", "old.json", counts, claims
    )


def test_a_figure_is_linked_where_there_is_one(judged):
    waits = replace(view_of("minillm", claim("beats-none")), attempts=(tried(),), attempt=(2, "five rates"))
    assert waits.judged and not forest(waits) and ".svg" not in show(waits)
    assert forest(judged) and "](figures/minillm.svg)" in show(judged)


def test_earlier_attempts_are_listed_with_their_own_words(judged):
    page = show(replace(judged, attempts=(tried(),), attempt=(2, "five rates"))).replace("\u00a0", " ")
    section = page[page.index("## Attempts") : page.index("## Scale tiny")]
    assert "What is judged above is attempt 2: five rates." in section
    row = r"| 1 | 2026-11-22 | tiny, `words-1` | first \*rates\*<br>raw figures: `old.json` at `abc1234` |"
    assert f"{row} 1 not reproduced, 1 inconclusive |" in section
    assert (
        r"| 1 | beats-sft | inconclusive (engine 1) | 0.5 \[-1, 2\] | \[-0.5, 1.5\] no difference |"
        in section
    )
    assert r"| 1 | beats-kd | not reproduced (engine 1) | -2 \[-3, -1\] |  |" in section
    assert "## Attempts" not in show(judged)


def test_a_metric_of_another_scale_is_named_with_it(judged):
    other = replace(outcome("reproduced", "tiny-navigate"), metric="exact_match")
    view = replace(judged, claims=(replace(claim("both", outcome("open"), other), formula="a - b > 0"),))
    assert " on `rouge_l`, at tiny-navigate on `exact_match`. <sub>" in show(view)
    drawn = forest(view)
    assert "tiny-navigate scale, exact_match" in drawn and "tiny scale, rouge_l" in drawn


def test_a_matched_verdict_stands_beside_the_verdict(judged):
    there = replace(outcome("reproduced"), matched=Matched("reversed", -1.5, (-2.0, -1.0), 5), groups=5)
    page = show(view_of("minillm", claim("x", there))).replace("\u00a0", " ")
    assert r"| 1.25 | reversed -1.5 \[-2, -1\] |" in page and "| 5, 5 teachers |" in page


def test_nothing_judged_is_no_picture():
    assert forest(view_of("minillm", claim("x"))) == ""


def test_hostile_names_stay_text_in_the_picture():
    row = claim("</text><script>alert(1)</script>", outcome("reproduced"))
    assert "<script>" not in forest(view_of("minillm", row))
    ElementTree.fromstring(forest(view_of("minillm", row)))


def test_what_others_found_stands_beside_our_verdicts(judged):
    catalog = load_catalog()
    found = External(
        "https://x.org/issues/5",
        "2026-04-07",
        "author's statement",
        "KL(p||q), *not* [it](x).",
        None,
        "2026-11-28",
    )
    paper = replace(catalog.papers["minillm"], external=(found, replace(found, kind="issue", agrees=True)))
    text = papers.page(Atlas(catalog, {"minillm": judged}), paper, judged)
    told = (
        "- **[author's statement, 2026-04-07](https://x.org/issues/5)**, neither for nor against: "
        r"KL(p\|\|q), \*not\* \[it\](x). <sub>seen 2026-11-28</sub>"
    )
    part = text.split("\n## What others found\n")[1].split("\n## ")[0]
    assert told in part and "**, for the headline: " in part and "They decide no verdict here." in part
    bare = papers.page(Atlas(catalog, {"minillm": judged}), replace(paper, external=()), judged)
    assert "What others found" not in bare


def test_the_values_of_a_dial_stand_apart_from_what_is_judged(judged):
    rows = (
        DialRow("demonstrations", "100", "beats-sft", 50.0, 52.0, -2.0, (-4.0, -0.5), 5),
        DialRow("demonstrations", "200", "beats-sft", 61.5, 58.25, 3.25, (1.5, 5.0), 5, own=True),
        DialRow("demonstrations", "400", "beats-sft", None, None, 1.0, (-1.0, 3.0), 5),
    )
    view = replace(judged, scales=(replace(judged.scales[0], dials=rows), *judged.scales[1:]))
    page = show(view)
    below = page.partition("## Elsewhere")[2].partition("## Scale")[0]
    assert "Nothing is judged there" in below and f"figures/{view.paper}-dials.svg" in below
    assert "**beats-sft** by `demonstrations`" in below
    assert "| 100 | 50 | 52 | -2 \\[-4, -0.5\\] | 5 |" in below and "| **200** | 61.5 | 58.25 |" in below
    picture = ElementTree.fromstring(dials.picture(view))
    circles = [item.get("class") for item in picture.iter("{http://www.w3.org/2000/svg}circle")]
    assert circles == ["reversed", "reproduced", "open"]
    assert "Elsewhere" not in show(judged) and dials.picture(judged) == ""
