"""README.md: short, complete, escaped."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import replace
from functools import cache

import pytest

from catalog.schema import AXES, Catalog, External, load_catalog
from reproductions.engine.show import files
from tests.tools.conftest import claim, outcome, view_of
from tools.bench.catalog import JUDGED, PAPERS, large_atlas
from tools.pages import readme
from tools.pages.atlas import Atlas, Coverage, atlas, badge
from tools.pages.documents import documents
from tools.pages.markdown import md, sealed
from tools.paths import ROOT

HOSTILE = (
    'A | B [link](https://evil.example) <script>alert(1)</script> `code` **bold** _x_ "q" \\ $y$ & ![i](j)'
)
LINE = re.compile(r"^- \[((?:[^\]\\]|\\.)+)\]\((https://[^)]+)\)")


@pytest.fixture(scope="module")
def text() -> str:
    """The README of the papers that there are, as long as it can be."""
    return readme._render(atlas(), readme.LENGTHS[0])


@pytest.fixture(scope="module")
def large() -> str:
    """The README of a thousand papers."""
    return readme.render(large_atlas())


def papers_part(text: str) -> str:
    return text.split("\n## Papers\n")[1].split("\n## Add a paper\n")[0]


def test_a_thousand_papers_fit(large):
    assert len(large_atlas().papers) == PAPERS and len(large_atlas().judged) == JUDGED
    assert len(sealed(large).encode()) <= readme.LIMIT == 150_000


def test_the_papers_that_there_are_fit():
    assert len(sealed(readme.render(atlas())).encode()) <= readme.LIMIT
    assert (ROOT / "README.md").stat().st_size <= readme.LIMIT


def test_a_thousand_papers_are_all_there_with_link_venue_and_date(large):
    lines = [line for line in papers_part(large).splitlines() if LINE.match(line)]
    beyond = f"[{len(large_atlas().beyond)} papers](catalog/lists/beyond-language-models.md)."
    assert len(lines) == PAPERS - len(large_atlas().beyond) and beyond in papers_part(large)
    assert all(re.search(r"\) (?:† )?\S.* (19|20)\d\d-\d\d", line) for line in lines)
    wall = re.findall(r"^- \[[^\]]+\]\(reproductions/papers/([a-z0-9-]+)\.md\) (.+)$", large, re.M)
    assert {name for name, _ in wall} == large_atlas().judged
    # Earlier attempts alone where today's waits.
    told = r"(tiny|small|paper)(-[a-z]+)? \((world|packaged|itself|oracle)\): |\d earlier attempts?$"
    assert all(re.match(told, signs) for _, signs in wall)


def test_lines_get_shorter_only_as_far_as_they_must(text, large, monkeypatch):
    assert (
        "[code](" in papers_part(text)
        and "[code](" not in papers_part(large)
        and " code" in papers_part(large)
    )
    assert large == readme.render(large_atlas())  # the same papers, the same length
    size = cache(lambda place: len(sealed(readme._render(large_atlas(), readme.LENGTHS[place])).encode()))
    last = len(readme.LENGTHS) - 1
    chosen = bisect_left(range(last), True, key=lambda place: size(place) <= readme.LIMIT)
    assert len(sealed(large).encode()) == size(chosen) <= readme.LIMIT < size(chosen - 1)
    some = sorted({*range(4), chosen - 1, chosen, *range(chosen, last, 8), last})
    assert sorted(map(size, some), reverse=True) == [size(place) for place in some]
    monkeypatch.setattr(readme, "LIMIT", 1000)
    assert len(sealed(readme.render(large_atlas())).encode()) == size(last)


def test_every_paper_stands_once(text):
    catalog = load_catalog()
    found = [found[1] for found in map(LINE.match, papers_part(text).splitlines()) if found]
    assert len(found) == len(catalog.papers) and len(set(found)) >= len(found) - 2
    sections = dict(
        re.findall(r"^#### \[[^\n]*\]\(catalog/lists/([a-z0-9-]+)\.md\)\n(.*?)(?=^##)", text, re.M | re.S)
    )
    assert len(sections) == sum(len(axis.values) for axis in catalog.taxonomy.values())
    for paper in catalog.papers.values():
        described = f"- [{md(paper.title)}]({paper.url})"
        leaves = [f"{axis}-{value}" for axis, labels in paper.taxonomy.items() for value in labels]
        if paper.scope == "llm" and leaves:
            assert sum(described in sections[leaf] for leaf in leaves) == 1
        else:
            assert not any(f"{described} " in section for section in sections.values())


def test_a_small_sign_marks_what_others_ran_or_wrote_about(text, large):
    for shown, papers in ((text, load_catalog().papers), (large, large_atlas().catalog.papers)):
        marked = [line for line in papers_part(shown).splitlines() if re.match(r"- .*\) (?:† )?‡ ", line)]
        told = [paper for paper in papers.values() if shown is text or paper.scope != "beyond-llm"]
        assert len(marked) == sum(bool(paper.external) for paper in told) > 0
    assert "‡ others have run it or written about its results" in text


def test_every_link_inside_leads_somewhere(text):
    places = re.findall(r'<a id="([^"]+)"></a>', text)
    heads = re.findall(r"^#+ ([^<\n]+)$", text, re.M)
    slugs = {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= slugs | set(places)
    made = documents(atlas())
    for path in re.findall(r"\]\(((?!https://|#)[^)]+)\)", text):
        assert path in made or (ROOT / path).exists(), path


def test_surveys_and_papers_beyond_language_models_have_their_own_sections():
    base = load_catalog()
    paper = base.papers["minillm"]
    papers = {
        "minillm": paper,
        "picture": replace(paper, id="picture", title="A picture model", scope="beyond-llm"),
        "overview": replace(
            paper, id="overview", title="An overview", scope="survey", taxonomy={a: {} for a in AXES}
        ),
        "bare": replace(paper, id="bare", title="A bare one", distils=False, taxonomy={a: {} for a in AXES}),
    }
    text = readme.render(Atlas(Catalog(base.taxonomy, base.teachers, papers), {}))
    parts = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", text, re.M | re.S))
    assert "A picture model" in parts["Beyond language models"]
    assert "An overview" in parts["Surveys"]
    assert "A bare one" in parts["Named, without a leaf"] and "†" in parts["Named, without a leaf"]
    assert "| **[Feature](catalog/lists/elicitation-feature.md)** | · | 1 | 1 | · |" in text
    assert "No claim is judged yet." in text


@pytest.mark.parametrize(
    ("papers", "implemented", "judged", "drawn"),
    [(0, 0, 0, "░" * 10), (160, 0, 0, "░" * 10), (160, 1, 0, "▏" + "░" * 9), (10, 1, 4, "█" * 5 + "░" * 5)]
    + [(4, 0, 4, "█" * 10), (80, 10, 3, "█▋" + "░" * 8)],
)
def test_the_coverage_bar_shows_a_share(papers, implemented, judged, drawn):
    assert readme.bar(Coverage(papers, implemented, judged)) == drawn


def test_a_badge_names_each_scale_and_pools_none(judged):
    assert badge(judged.tally()) == "tiny: ✅ 1 🔄 1 · small: ❔ 1"
    text = readme._render(Atlas(load_catalog(), {"minillm": judged}), readme.LENGTHS[0])
    told = "tiny (world): ✅ 1 🔄 1 · small (world): ❔ 1"  # on the wall with what played the teacher
    assert f"- [minillm](reproductions/papers/minillm.md) {told}\n" in text
    assert text.count("tiny: ✅ 1 🔄 1 · small: ❔ 1") == 1  # in the list


def test_tables_keep_their_shape(text):
    lines = text.splitlines()
    tables = [
        (line, after) for line, after in zip(lines, lines[1:], strict=False) if re.fullmatch(r"[|:-]+", after)
    ]
    assert len(tables) >= 3
    for head, rule in tables:
        columns = rule.count("|")
        assert head.count("|") == columns
        place = lines.index(rule, lines.index(head)) + 1
        while lines[place].startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", lines[place])) == columns, lines[place]
            place += 1


def test_hostile_text_stays_text_in_every_document():
    catalog = load_catalog()
    paper = replace(
        catalog.papers["minillm"],
        title=HOSTILE,
        adds=HOSTILE,
        venue=HOSTILE,
        objective=HOSTILE,
        authors=(HOSTILE,),
        external=(External(f"https://x.org/{HOSTILE}", HOSTILE, HOSTILE, HOSTILE, None, HOSTILE),),
    )
    rows = [claim("x", outcome("reversed", explanation=HOSTILE), statement=HOSTILE)]
    hostile = Catalog(catalog.taxonomy, catalog.teachers, {**catalog.papers, "minillm": paper})
    made = documents(Atlas(hostile, {"minillm": view_of("minillm", *rows)}))
    assert sum("evil.example" in text for text in made.values()) > 5
    for path, text in made.items():
        # what stands in code blocks and code spans is text for Markdown
        outside = re.sub(r"```.*?```|(`+) .*? \1", "", text, flags=re.S)
        assert "<script>" not in outside, path
        assert "](https://evil.example)" not in re.sub(r"\\.", "", outside), path


def test_nothing_is_judged_or_parsed_to_render(monkeypatch):
    """From committed verdicts and the catalog's cache: what makes a README of 440 judged papers a matter of seconds."""
    from catalog import reader
    from reproductions.engine.show import gather
    from reproductions.engine.store import pair
    from reproductions.engine.verdicts import decide

    load_catalog()
    shown = files.views(load_catalog().papers)

    def refuse(*args, **kwargs):
        raise AssertionError("done again for a page")

    for module, name in [
        (decide, "decide"),
        (pair, "read_arm"),
        (reader, "read_yaml_with_lines"),
        (gather, "gather"),
    ]:
        monkeypatch.setattr(module, name, refuse)
    assert files.views(shown) == shown
    documents(Atlas(load_catalog(), shown))
