"""The site in a real browser, opened from disk: what a reader does, by mouse and by keyboard."""

from __future__ import annotations

import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from catalog.schema import load_catalog
from tests.tools.pages.hostile import SHOWN, hostile_atlas
from tools.pages.atlas import Atlas
from tools.pages.site.build import build

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.browser

catalog = cache(load_catalog)
PAGES = (
    "index",
    "search",
    "taxonomy",
    "matrix",
    "timeline",
    "evidence",
    "about",
    "papers/minillm",
    "leaves/skill-code",
)


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests of this file."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.fail('no chromium on PATH: install it, or leave these tests out with -m "not browser"')
    with playwright.sync_playwright() as driver:
        options = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses to sandbox as root
        running = driver.chromium.launch(executable_path=path, args=options)
        yield running
        running.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> str:
    """Address of the real site's folder."""
    out = tmp_path_factory.mktemp("browser") / "site"
    build(out)
    return out.as_uri()


@pytest.fixture
def page(browser):
    """A fresh page; whatever it complains about, or asks of the network, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 800}, color_scheme="light", offline=True)
    opened = context.new_page()
    opened.set_default_timeout(5000)
    complaints: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("dialog", lambda dialog: complaints.append("a dialog"))
    opened.on(
        "request",
        lambda asked: None if asked.url.startswith(("file:", "data:")) else complaints.append(asked.url),
    )
    yield opened
    context.close()
    assert not complaints


def found(page) -> list[str]:
    """Ids of the papers that the search shows, in its order."""
    return page.eval_on_selector_all(
        "#results > li:not([hidden])", "items => items.map(item => item.id.slice(2))"
    )


def address(page) -> str:
    """Where the page is now; `page.url` may lag behind a script's change."""
    return page.evaluate("location.href")


def until(page, script: str, argument: object = None) -> None:
    """Waits until the script is true; the driver's own waiting evaluates text, which the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(script, argument):
            return
        page.wait_for_timeout(25)
    pytest.fail(f"never true: {script} {argument or ''}")


def settled(page, text: str) -> None:
    """Waits until the result count matches `text`."""
    until(page, "text => new RegExp(text).test(document.getElementById('count').textContent)", text)


def facet(page, name: str, value: str):
    return page.locator(f'input[name="{name}"][value="{value}"]')


def count(page, name: str, value: str) -> int:
    """The number beside a facet's value."""
    return int(page.locator(f'label:has(input[name="{name}"][value="{value}"]) .count').text_content())


def holding(axis: str, *values: str) -> set[str]:
    """Ids of all papers with any of the values."""
    return {name for name, paper in catalog().papers.items() if set(values) & paper.taxonomy[axis].keys()}


def test_every_page_opens_without_complaint_and_fits_a_phone(page, site):
    page.set_viewport_size({"width": 360, "height": 740})
    for name in PAGES:
        page.goto(f"{site}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, name


def test_words_find_papers_and_typos_are_forgiven(page, site):
    page.goto(f"{site}/search.html")
    settled(page, f"^{len(catalog().papers)} papers$")
    page.get_by_role("searchbox").fill("minillm")
    settled(page, " of ")
    assert found(page)[0] == "minillm"
    page.get_by_role("searchbox").fill("minilm reverce policy gradient")
    until(page, "location.hash.includes('reverce')")
    assert found(page)[0] == "minillm"
    page.get_by_role("searchbox").fill("zzqqxx")
    settled(page, "^0 papers")
    assert page.get_by_text("No paper matches").is_visible() and found(page) == []


def test_facets_narrow_and_their_counts_follow(page, site):
    page.goto(f"{site}/search.html")
    before = count(page, "algorithm", "sft")
    assert count(page, "elicitation", "feature") == len(holding("elicitation", "feature"))
    facet(page, "elicitation", "feature").check()
    assert set(found(page)) == holding("elicitation", "feature")
    both = holding("elicitation", "feature") & holding("algorithm", "sft")
    assert count(page, "algorithm", "sft") == len(both) < before
    assert count(page, "elicitation", "feedback") == len(
        holding("elicitation", "feedback")
    )  # alternatives still count
    facet(page, "elicitation", "feedback").check()
    assert set(found(page)) == holding("elicitation", "feature", "feedback")
    facet(page, "algorithm", "sft").check()
    assert set(found(page)) == holding("elicitation", "feature", "feedback") & holding("algorithm", "sft")
    assert "elicitation=feature,feedback&algorithm=sft" in address(page)
    page.get_by_role("button", name="Clear all filters").click()
    assert len(found(page)) == len(catalog().papers) and address(page).endswith("#")


def test_a_link_restores_the_search(page, tmp_path, judged):
    site, word = (tmp_path / "site").as_uri(), "reversed"
    build(tmp_path / "site", Atlas(load_catalog(), {"minillm": judged}))
    page.goto(f"{site}/search.html#q=reverse%20KL&verdict={word}&status=judged&sort=title")
    assert "minillm" in found(page)
    assert page.get_by_role("searchbox").input_value() == "reverse KL"
    assert facet(page, "verdict", word).is_checked() and facet(page, "status", "judged").is_visible()
    page.goto(f"{site}/search.html?x=1#year=2019,2020&elicitation=nonsense")
    assert set(found(page)) == {
        name for name, paper in catalog().papers.items() if paper.date[:4] in ("2019", "2020")
    }


def test_the_back_button_undoes_one_step(page, site):
    page.goto(f"{site}/search.html")
    everything = len(found(page))
    facet(page, "elicitation", "feature").check()
    page.get_by_role("searchbox").press_sequentially("on-policy", delay=10)
    until(page, "location.hash.startsWith('#q=on-policy')")
    page.go_back()
    until(page, "!location.hash.includes('q=')")
    assert set(found(page)) == holding("elicitation", "feature")
    page.go_back()
    until(page, "!location.hash.includes('elicitation')")
    assert len(found(page)) == everything and not facet(page, "elicitation", "feature").is_checked()
    page.go_forward()
    until(page, "location.hash.includes('elicitation')")
    assert facet(page, "elicitation", "feature").is_checked()


def test_the_front_page_leads_into_the_search_and_to_a_paper(page, site):
    page.goto(f"{site}/index.html")
    page.get_by_role("searchbox").fill("self instruct")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"search\.html"))
    assert found(page)[0] == "self-instruct"
    page.locator("#results li:not([hidden]) a").first.click()
    page.wait_for_url(re.compile(r"papers/self-instruct\.html"))
    page.go_back()
    until(page, "document.getElementById('count').textContent.includes(' of ')")
    assert found(page)[0] == "self-instruct"


def test_a_cell_of_the_matrix_leads_to_its_papers(page, site):
    page.goto(f"{site}/matrix.html")
    page.get_by_label("Across", exact=True).select_option("skill")
    page.get_by_label("Down", exact=True).select_option("vertical")
    assert "rows=vertical&columns=skill" in address(page)
    cell = page.locator("#heat tbody td:not(.total) a").first
    number, name = int(cell.text_content()), cell.get_attribute("aria-label")
    assert name.endswith(f": {number} paper" + "s" * (number != 1))
    cell.click()
    page.wait_for_url(re.compile(r"search\.html#vertical="))
    settled(page, f"^{number} paper")
    assert len(found(page)) == number
    page.go_back()
    page.wait_for_url(re.compile(r"rows=vertical"))
    assert page.get_by_label("Down", exact=True).input_value() == "vertical"
    page.get_by_label("Down", exact=True).select_option(
        "skill"
    )  # the same as across: the other axis gives way
    assert page.get_by_label("Across", exact=True).input_value() != "skill"


def test_the_matrix_is_the_same_with_and_without_scripts(browser, page, site):
    page.goto(f"{site}/matrix.html")
    cells = "cells => cells.map(cell => [cell.className, cell.textContent])"
    drawn = page.eval_on_selector_all("#heat tbody td:not(.total)", cells)
    plain = browser.new_context(java_script_enabled=False)
    still = plain.new_page()
    still.goto(f"{site}/matrix.html")
    text = re.findall(r'<td class="(h\d)">(.*?)</td>', still.content())
    assert [list(cell) for cell in drawn[: len(text)]] == [
        [name, re.sub("<.*?>", "", inner)] for name, inner in text
    ]
    still.goto(f"{site}/search.html")
    assert still.get_by_text("need JavaScript").is_visible()
    assert still.locator("#results > li").count() == len(catalog().papers)
    assert not still.get_by_role("searchbox").is_visible() and not still.locator("#theme").is_visible()
    plain.close()


def test_the_timeline_draws_what_is_chosen(page, site):
    page.goto(f"{site}/timeline.html")
    bars = page.locator("#chart svg g[aria-label='rect'] rect")
    quarters = bars.count()
    assert quarters > 20 and page.locator("#chart svg").first.get_attribute("aria-label")
    page.get_by_label("One bar is a").select_option("month")
    assert bars.count() > quarters
    page.get_by_label("Rows").select_option("algorithm")
    assert page.locator("#chart").get_by_text(
        "Ranking Optimization"
    ).is_visible() and "axis=algorithm" in address(page)
    page.go_back()
    until(page, "!location.hash.includes('axis=algorithm')")
    assert page.locator("#chart").get_by_text("Self-Knowledge").is_visible()


def test_the_theme_follows_the_system_until_the_reader_chooses(page, site):
    page.goto(f"{site}/index.html")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert dark != light
    button = page.get_by_role("button", name="Dark")
    assert button.get_attribute("aria-pressed") == "true"
    button.click()
    assert page.evaluate(background) == light and button.get_attribute("aria-pressed") == "false"
    page.goto(f"{site}/papers/minillm.html")
    assert page.evaluate(background) == light


def test_bibtex_is_copied(page, site):
    page.goto(f"{site}/papers/minillm.html")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy").click()
    until(page, "document.getElementById('copied').textContent.includes('copied')")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith("@misc{minillm_2023,") and copied.rstrip().endswith("}")


def test_the_keyboard_reaches_everything(page, site):
    page.goto(f"{site}/search.html#year=2023")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "elicitation"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Space")
    assert address(page).endswith("#elicitation=labeling&year=2023")  # skipping has not lost the state


def test_every_control_has_a_name(page, site):
    script = """() => [...document.querySelectorAll('input, select, button, a, summary, [tabindex="0"]')].filter(one =>
        !(one.labels?.length || one.textContent.trim() || one.ariaLabel || one.getAttribute('aria-labelledby')))
        .map(one => one.outerHTML)"""
    for name in PAGES:
        page.goto(f"{site}/{name}.html")
        assert page.evaluate(script) == [], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(page, site, scheme):
    """At least 4.5 to 1 (WCAG 2.2, 1.4.3) for every piece of text, as the browser paints it."""
    page.emulate_media(color_scheme=scheme)
    for name in ("index", "search", "matrix", "timeline", "papers/minillm", "about"):
        page.goto(f"{site}/{name}.html#q=reverse&year=2023")  # a short list is enough
        assert page.evaluate((Path(__file__).parent / "contrast.js").read_text(encoding="utf-8")) == [], name


def test_hostile_records_are_shown_as_text(page, tmp_path):
    build(tmp_path / "site", hostile_atlas())
    root = (tmp_path / "site").as_uri()
    shown = " ".join(SHOWN.split())
    for name in ("papers/evil", "papers/plain", "index", "leaves/skill-code", "search", "matrix", "timeline"):
        page.goto(f"{root}/{name}.html")
        assert page.evaluate("window.hacked") is None
        if name not in ("matrix", "timeline"):
            assert shown in " ".join(page.locator("main").text_content().split()), name
    page.goto(f"{root}/search.html#q=%3C%2Fscript%3E%3Cimg src=x onerror=window.hacked=4%3E&year=%22%3E")
    assert page.evaluate("window.hacked") is None
    page.goto(f"{root}/papers/evil.html")
    for link in page.locator("main a[href='#']").all():
        link.click()
    assert page.evaluate("window.hacked") is None and page.locator("main img[src=x]").count() == 0
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
