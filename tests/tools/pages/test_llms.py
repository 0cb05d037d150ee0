"""llms.txt: every page of the site that it names is there, and hostile records stay text."""

import re

from tests.tools.pages.hostile import hostile_atlas
from tools.pages.site import llms
from tools.pages.site.build import NAV, build


def test_it_comes_with_the_site_and_names_its_pages(tmp_path):
    shown = hostile_atlas()
    build(tmp_path / "site", shown)
    text = (tmp_path / "site" / llms.FILE).read_text(encoding="utf-8")
    assert text == llms.text(shown, NAV)
    assert text.startswith("# KD Atlas\n\n> A catalog of ")
    named = re.findall(r"^- \[.*\]\(([\w./-]+\.html)\)", text, re.M)
    assert len(named) == len(set(named)) == 1 + len(NAV) + len(shown.papers) + len(shown.questions)
    assert all((tmp_path / "site" / name).is_file() for name in named)
    opened = re.findall(r"(?<!\\)\]\(([^)]*)\)", text)
    assert "&lt;script" in text and "<" not in text and sorted(opened) == sorted(named)
    heads = re.findall(r"^## (.*)", text, re.M)
    assert heads == ["Pages", "Papers with a reproduction", "Questions of our own", "Optional"]
