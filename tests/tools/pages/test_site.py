"""The site's pages as files: complete, linked, escaped, and without anything from elsewhere."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urldefrag

import pytest

from catalog.errors import CatalogError
from catalog.schema import Catalog, load_catalog
from tests.tools.pages.hostile import HOSTILE, SHOWN, hostile_atlas
from tools.experiments import every_experiment
from tools.pages.atlas import Atlas, atlas
from tools.pages.site import pages
from tools.pages.site.build import ASSETS, MARKER, MARKS, breakable, build, safe_link
from tools.pages.site.facets import data_script, facets, script_json

VOID = {"meta", "link", "input", "br", "img", "wbr"}
LABELLED = {"input", "select", "textarea"}


class Page(HTMLParser):
    """What the tests ask of a page: its tags, ids, addresses and text; unclosed tags are a mistake."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.path, self.text = path, ""
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open, f"{path.name}: never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        assert len(attributes) == len(dict(attributes)), (
            f"{self.path.name}: an attribute stands twice in <{tag}>"
        )
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"{self.path.name}: </{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [found[name] or "" for kind, found in self.tags if name in found and tag in (None, kind)]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> dict[str, Page]:
    """Every page of the real site, by its path."""
    out = tmp_path_factory.mktemp("site") / "site"
    count = build(out)
    found = {path.relative_to(out).as_posix(): Page(path) for path in out.rglob("*.html")}
    assert len(found) == count
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> dict[str, Page]:
    """The same of the hostile catalog."""
    out = tmp_path_factory.mktemp("hostile") / "site"
    build(out, hostile_atlas())
    return {path.relative_to(out).as_posix(): Page(path) for path in out.rglob("*.html")}


def test_there_is_a_page_for_every_paper_and_leaf(site):
    catalog = load_catalog()
    leaves = {f"leaves/{axis.id}-{value}.html" for axis in catalog.taxonomy.values() for value in axis.values}
    papers = {f"papers/{name}.html" for name in every_experiment(catalog)}
    whole = {"index.html", "search.html", "taxonomy.html", "matrix.html", "timeline.html", "about.html"}
    whole |= {"evidence.html", "disputes.html"}
    assert set(site) == leaves | papers | whole
    for name, paper in catalog.papers.items():
        text = " ".join(site[f"papers/{name}.html"].text.split())
        assert paper.title in text and paper.adds in text
        assert paper.models_verified or not paper.basis or "unverified" in text
        assert f'id="r-{name}"' in site["search.html"].path.read_text(encoding="utf-8")


def test_every_internal_link_leads_to_a_page_and_a_place(site):
    out = site["index.html"].path.parent
    ids = {page.path.resolve(): set(page.values("id")) for page in site.values()}
    seen = set()
    for page in site.values():
        for address in page.values("href") + page.values("src"):
            if address.startswith("https://"):
                continue
            path, place = urldefrag(address)
            target = (page.path.parent / path).resolve() if path else page.path.resolve()
            if (target, place) in seen:
                continue
            seen.add((target, place))
            assert target.is_file() and target.is_relative_to(out.resolve()), f"{page.path.name}: {address}"
            if place and target.name not in ("search.html", "matrix.html", "timeline.html"):
                assert place in ids[target], f"{page.path.name}: {address}"


def test_links_into_the_search_name_facets_and_values_that_exist(site):
    known = {facet.id: set(facet.places) for facet in facets(atlas())}
    states = {
        urldefrag(address)[1]
        for page in site.values()
        for address in page.values("href")
        if "search.html#" in address
    }
    assert len(states) > 20
    for state in states:
        for part in state.split("&"):
            name, _, values = part.partition("=")
            assert set(values.split(",")) <= known[name], state


def test_nothing_is_loaded_from_elsewhere(site):
    for page in site.values():
        loaded = page.values("src") + page.values("href", "link")
        assert not [address for address in loaded if re.match(r"([a-z]+:)?//|data:", address)]
        policy = next(
            found for tag, found in page.tags if found.get("http-equiv") == "Content-Security-Policy"
        )
        assert "default-src 'none'" in policy["content"] and "http" not in policy["content"]
        inline = [found for tag, found in page.tags if tag == "script" and not found.get("src")]
        assert not inline and not [name for _, found in page.tags for name in found if name.startswith("on")]
    for path in (ASSETS / "site").iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://(?!www\.w3\.org)", text), path
        assert "fetch(" not in text and "innerHTML" not in text and "XMLHttpRequest" not in text


def test_pages_are_built_for_keyboard_and_screen_reader(site):
    for name in (
        "index.html",
        "search.html",
        "matrix.html",
        "timeline.html",
        "about.html",
        "papers/minillm.html",
    ):
        page = site[name]
        tags = [tag for tag, _ in page.tags]
        assert tags.count("h1") == tags.count("main") == tags.count("header") == 1
        levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
        assert (
            all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
            or name == "search.html"
        )
        assert page.tags[tags.index("body") + 1] == ("a", {"class": "skip", "href": "#main"})
        wanted = set(page.values("aria-labelledby")) | set(page.values("for"))
        assert wanted <= set(page.values("id")), name
        assert all(found.get("alt") for tag, found in page.tags if tag == "img")
        assert all("scope" in found for tag, found in page.tags if tag == "th")
        assert len(page.values("id")) == len(set(page.values("id")))
    for tag, found in site["search.html"].tags:
        if tag in LABELLED and found.get("type") != "checkbox":  # checkboxes stand inside their labels
            assert found["id"] in site["search.html"].values("for", "label")


def test_results_show_paper_ours_interval_verdict_and_reason(tmp_path, judged):
    build(tmp_path / "site", Atlas(load_catalog(), {"minillm": judged}))
    page = Page(tmp_path / "site" / "papers" / "minillm.html")
    text = " ".join(page.text.split())
    for row in judged.claims:
        assert row.statement in text and row.source in text
        for outcome in row.outcomes:
            assert outcome.explanation in text and f"{outcome.scale}, world: {outcome.told}" in text
    assert "24.6 vs 23.3" in text and "The gap is small here." in text
    assert "The teacher (world) is a small model taught" in text
    assert "make reproduce PAPER=minillm SCALE=tiny" in text and "methods/recipes/minillm.yaml" in text
    assert "@misc{minillm_2023," in text and "judged by us" in text
    for scale, counts in judged.tally().items():  # scales are never pooled
        assert all(f"{scale}: {MARKS[word]} {count} {word}" in text for word, count in counts.items())
    assert "tiny scale: testbed pronunciation, up to 5 seeds" in text and "Never run" in text
    assert "forest" in page.values("class", "svg")


def test_every_claim_of_every_experiment_stands_on_its_page(site):
    for name, view in atlas().views.items():
        text = " ".join(site[f"papers/{name}.html"].text.split())
        for row in view.claims:
            assert " ".join(row.statement.split()) in text, row.id
            assert all(" ".join(outcome.explanation.split()) in text for outcome in row.outcomes), row.id


def test_what_others_found_stands_on_the_page_and_is_a_facet(site):
    catalog = atlas().catalog
    page = site["papers/sdft.html"]
    text = " ".join(page.text.split())
    for entry in catalog.papers["sdft"].external:
        assert entry.says in text and entry.stance in text and entry.url in page.values("href", "a")
        assert entry.date in page.values("datetime", "time")
    assert "What others found" not in site["papers/orca.html"].text
    assert "what others found: 7" in " ".join(site["leaves/elicitation-self-knowledge.html"].text.split())
    has = next(facet for facet in facets(atlas()) if facet.id == "has")
    told = sum(bool(paper.external) for paper in catalog.papers.values())
    assert {value.id: value.papers for value in has.values}["external"] == told


def test_hostile_text_stays_text(hostile):
    shown = " ".join(SHOWN.split())
    for name in ("papers/evil.html", "search.html", "index.html", "leaves/skill-code.html"):
        page = hostile[name]
        assert shown in " ".join(page.text.split()), name
    for page in hostile.values():
        raw = page.path.read_text(encoding="utf-8")
        assert not set("\u202e\u2028\u2066") & set(raw)
        assert "<script>" not in raw and 'onerror="' not in raw
        assert not [name for _, found in page.tags for name in found if name.startswith("on")]
        for address in page.values("href") + page.values("src"):
            assert not re.match(r"(?!https:)[a-z]+:", address), address


def test_hostile_data_stays_data(hostile):
    hostile = hostile_atlas()
    script = data_script(hostile, facets(hostile))
    assert not set("<>&\u2028\u2029\u202e") & set(script)
    data = json.loads(script.removeprefix("window.KD_ATLAS = ").removesuffix(";\n"))
    assert [paper["title"] for paper in data["papers"] if paper["id"] == "evil"] == [SHOWN]
    assert json.loads(script_json(HOSTILE)) == HOSTILE


@pytest.mark.parametrize(
    ("address", "kept"),
    [("https://a.org/b?c=d#e", True), ("http://a.org", False), ("javascript:x", False)]
    + [
        (" https://a.org", False),
        ('https://a.org/"x', False),
        ("//a.org", False),
        ("data:text/html,x", False),
    ],
)
def test_only_https_links_are_links(address, kept):
    assert safe_link(address) == (address if kept else "#")


def test_paths_break_between_their_parts_and_nowhere_else():
    assert breakable("a/b.c") == "a/<wbr>b.<wbr>c"
    assert breakable("<b>/") == "&lt;b&gt;/"


def test_building_twice_gives_the_same_bytes_and_drops_what_is_gone(tmp_path):
    out = tmp_path / "site"
    atlas = hostile_atlas()

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    build(out, atlas)
    first = content()
    (out / "papers" / "gone.html").write_text("left from an older catalog")
    build(out, atlas)
    assert content() == first
    assert not list(tmp_path.glob(".made-*"))


def test_a_folder_with_other_files_is_never_written_over(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(CatalogError, match="holds files that are not the site's"):
        build(tmp_path, hostile_atlas())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(CatalogError, match="is a file"):
        build(tmp_path / "thesis.tex", hostile_atlas())


def test_the_verb_writes_the_site(tmp_path, capsys, monkeypatch):
    from tools.cli import main
    from tools.pages.site import build as module

    monkeypatch.setattr(module, "read_atlas", hostile_atlas)  # what is written does not matter here

    assert main(["site", "--no-api", "--out", str(tmp_path / "made" / "site")]) == 0
    assert (tmp_path / "made" / "site" / "index.html").is_file() and (
        tmp_path / "made" / "site" / MARKER
    ).is_file()
    assert "index.html" in capsys.readouterr().out
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("")
    assert main(["site", "--out", str(tmp_path / "other")]) == 2


def test_a_thousand_papers_make_pages_that_a_browser_opens(tmp_path):
    catalog = load_catalog()
    base = list(catalog.papers.values())
    many = {f"p-{n}": replace(base[n % len(base)], id=f"p-{n}", superseded_by=None) for n in range(1000)}
    build(tmp_path / "site", Atlas(Catalog(catalog.taxonomy, catalog.teachers, many), {}))
    assert all(path.stat().st_size < 1_500_000 for path in (tmp_path / "site").rglob("*"))


def test_heat_grows_with_the_count():
    levels = [pages.heat(count, 133) for count in range(134)]
    assert levels == sorted(levels) and levels[0] == 0 and levels[1] == 1 and levels[133] == 5


def test_an_interval_is_drawn_in_proportion(judged):
    at = pages._drawings(judged.claims)["beats-sft", "tiny"]
    assert at["margin"] == pages.WIDTH / 2 and at["high"] == pages.WIDTH - pages.EDGE
    assert at["margin"] < at["low"] < at["middle"] < at["high"]


def test_vendored_libraries_are_what_the_manifest_says():
    vendor = ASSETS / "vendor"
    libraries = json.loads((vendor / "manifest.json").read_text(encoding="utf-8"))["libraries"]
    assert {library["file"] for library in libraries} == {path.name for path in vendor.glob("*.js")}
    licences = [name for library in libraries for name in library["licence_files"]]
    assert {f"licences/{path.name}" for path in (vendor / "licences").iterdir()} == set(licences)
    for library in libraries:
        content = (vendor / library["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == library["sha256"], library["name"]
        assert len(content) < 1_000_000
        if library["file"].endswith(".min.js"):
            assert f"v{library['version']}" in content[:200].decode()
