"""The library's reference of the site: docstrings on their pages, no broken link, nothing of this machine."""

from __future__ import annotations

import html
import inspect
import re
import sys
from pathlib import Path
from urllib.parse import urldefrag

import pytest

from methods.losses.divergences import reverse_kl
from reproductions.distill.run import distil
from tests.tools.pages.hostile import hostile_atlas
from tools.cli import main
from tools.pages.site import api
from tools.pages.site import build as module
from tools.paths import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A small site with the whole reference."""
    out = tmp_path_factory.mktemp("site") / "site"
    count = module.build(out, hostile_atlas(), reference=True)
    assert count == sum(1 for _ in out.rglob("*.html"))
    return out


def words(text: str) -> str:
    """What a reader reads of HTML or of a docstring."""
    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
    return " ".join(plain.replace("`", "").split())


@pytest.mark.slow
@pytest.mark.parametrize("what", [reverse_kl, distil], ids=["reverse_kl", "distil"])
def test_a_docstring_stands_on_its_page(site, what):
    page = (site / api.FOLDER / f"{what.__module__.replace('.', '/')}.html").read_text(encoding="utf-8")
    section = page.split(f'<section id="{what.__name__}">')[1].split("</section>")[0]
    first = (inspect.getdoc(what) or "").split("\n\n")[0]
    assert words(first) in words(section) and len(first) > 40


@pytest.mark.slow
def test_every_module_has_its_page_and_the_site_leads_there(site):
    index = (site / api.FOLDER / "index.html").read_text(encoding="utf-8")
    assert "<code>kd distill</code>" in index and "&lt;p&gt;" not in index
    for name in api.MODULES:
        path = f"{name.replace('.', '/')}.html"
        assert f'href="{path}"' in index and (site / api.FOLDER / path).is_file()
        assert 'class="docstring"' in (site / api.FOLDER / path).read_text(encoding="utf-8"), name
    assert 'href="api/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    paper = next((site / "papers").glob("*.html")).read_text(encoding="utf-8")
    assert 'href="../api/index.html"' in paper
    assert "(api/index.html)" in (site / "llms.txt").read_text(encoding="utf-8")


@pytest.mark.slow
def test_no_link_of_it_is_broken_and_nothing_is_loaded_from_elsewhere(site):
    pages = {path.resolve(): path.read_text(encoding="utf-8") for path in (site / api.FOLDER).rglob("*.html")}
    ids = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in pages.items()}
    seen = 0
    for path, text in pages.items():
        assert "default-src 'none'" in text and "<script" not in text
        assert not re.search(r'(src="|<link[^>]*href=")https?:', text)
        for address in re.findall(r'\bhref="([^"]+)"', text):
            if address.startswith("https://"):
                continue
            file, place = urldefrag(html.unescape(address))
            target = (path.parent / file).resolve() if file else path
            assert target.is_file() and target.is_relative_to(site.resolve()), f"{path.name}: {address}"
            assert not place or place in ids[target], f"{path.name}: {address}"
            seen += 1
    assert seen > 200


@pytest.mark.slow
def test_nothing_in_it_is_of_this_machine(site):
    for path in (site / api.FOLDER).rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        for place in (str(ROOT), sys.prefix, str(Path.home()) + "/", " at 0x", "PosixPath"):
            assert place not in text, f"{path.name}: {place}"


def test_without_pdoc_all_else_is_written_and_one_sentence_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "installed", lambda: False)
    monkeypatch.setattr(module, "read_atlas", hostile_atlas)
    assert main(["site", "--out", str(tmp_path / "site")]) == 0
    told = capsys.readouterr()
    assert told.err == f"{api.MISSING}\n" and "pdoc" in told.err and "index.html" in told.out
    assert not (tmp_path / "site" / api.FOLDER).exists()
    assert "api/" not in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_what_pdoc_complains_of_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(api, "MODULES", ("methods.no_such_module",))
    monkeypatch.setattr(module, "read_atlas", hostile_atlas)
    assert main(["site", "--out", str(tmp_path / "site")]) == 2
    assert "the library's reference: pdoc ended with" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()
