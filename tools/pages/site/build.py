"""Writes the site: pages from templates, the scripts' data, the vendored libraries."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from reproductions.engine.show.view import PERCENT, STANDS_IN
from reproductions.engine.verdicts.words import MEANING
from tools.folders import made_anew
from tools.pages.atlas import Atlas, judging
from tools.pages.atlas import atlas as read_atlas
from tools.pages.evidence import disputes
from tools.pages.evidence.site import evidence
from tools.pages.site import api, llms, pages
from tools.pages.site.facets import Facet, clean, data_script, facets, slug
from tools.paths import ROOT
from tools.terminal import interval, number, thousands

ASSETS = Path(__file__).parents[1] / "assets"
TEMPLATES = Path(__file__).parents[1] / "templates" / "site"
MARKER = ".kd-atlas-site"  # a folder is written over only where it holds this file, or nothing
Nav = tuple[tuple[str, str], ...]  # address and label of what every page leads to
NAV: Nav = (
    ("search.html", "Search"),
    ("taxonomy.html", "Taxonomy"),
    ("matrix.html", "Matrix"),
    ("timeline.html", "Timeline"),
    ("evidence.html", "Evidence"),
    ("disputes.html", "Disputes"),
    ("about.html", "About"),
)
# Signs that every system font has, unlike the README's; a word stands beside each.
MARKS = {
    "reproduced": "✓",
    "weaker": "<",
    "no difference": "=",
    "reversed": "✕",
    "open": "?",
    "needs": "!",
    "not run": "–",
}
_LINK = re.compile(r"https://[^\s<>\"'`]+")


def build(out: Path, atlas: Atlas | None = None, *, reference: bool = False) -> int:
    """Write every page under `out` and return how many; CatalogError where `out` holds something else.

    With `reference` the library's own, api/, is made too, which takes pdoc ten seconds.
    """
    atlas = atlas or read_atlas()
    with made_anew(out, MARKER, "the site's", "give --out") as fresh:
        return _write(fresh, atlas, (*NAV, api.LINK) if reference else NAV)


def _write(out: Path, atlas: Atlas, nav: Nav) -> int:
    questions = facets(atlas)
    environment = _environment(atlas, questions, nav)
    for name in ("papers", "leaves", "assets"):
        (out / name).mkdir(parents=True)
    (out / MARKER).write_text(
        "written by `make site`; the next build replaces this folder\n", encoding="utf-8"
    )
    for path in [*sorted((ASSETS / "site").iterdir()), *sorted((ASSETS / "vendor").glob("*.js"))]:
        shutil.copyfile(path, out / "assets" / path.name)
    shutil.copytree(ASSETS / "vendor" / "licences", out / "assets" / "licences")
    (out / "assets" / "data.js").write_text(data_script(atlas, questions), encoding="utf-8")
    (out / llms.FILE).write_text(llms.text(atlas, nav), encoding="utf-8")

    count = 0

    def page(name: str, template: str, values: Mapping[str, Any], root: str = "") -> None:
        nonlocal count
        text = environment.get_template(template).render(root=root, here=name, **values)
        (out / name).write_text(text, encoding="utf-8")
        count += 1

    page("index.html", "home.html.j2", pages.home(atlas))
    page("search.html", "search.html.j2", {})
    page("taxonomy.html", "taxonomy.html.j2", {})
    page("matrix.html", "matrix.html.j2", pages.matrix(atlas))
    page("timeline.html", "timeline.html.j2", pages.timeline(atlas))
    page("evidence.html", "evidence.html.j2", evidence(atlas, MARKS))
    page("disputes.html", "disputes.html.j2", disputes.values(atlas))
    page("about.html", "about.html.j2", {})
    for axis in atlas.catalog.taxonomy.values():
        for value in axis.values.values():
            page(f"leaves/{axis.id}-{value.id}.html", "leaf.html.j2", {"axis": axis, "value": value}, "../")
    for paper in atlas.papers:
        page(f"papers/{paper.id}.html", "paper.html.j2", pages.paper_page(atlas, paper), "../")
    for name, question in atlas.questions.items():
        page(f"papers/{name}.html", "question.html.j2", pages.question_page(question), "../")
    return count + (api.write(out / api.FOLDER) if api.LINK in nav else 0)


def _environment(atlas: Atlas, questions: list[Facet], nav: Nav) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.filters.update(
        number=number, interval=interval, slug=slug, safe_link=safe_link, thousands=thousands
    )
    environment.filters.update(host=host, breakable=breakable)
    environment.globals.update(
        atlas=atlas,
        catalog=atlas.catalog,
        taxonomy=atlas.catalog.taxonomy,
        facets=questions,
        marks=MARKS,
        judging=judging(MARKS),
        stands_in=STANDS_IN,
        percent=PERCENT,
        meaning=MEANING,
        nav=nav,
        licence=(ROOT / "LICENSE").is_file(),
        coverage=cache(lambda axis, value: atlas.coverage(atlas.leaves[axis][value])),
    )
    return environment


def _shown(value: Any) -> Any:
    """Every printed text passes here; what autoescape marked as HTML has passed before."""
    return clean(value) if type(value) is str else value


def safe_link(url: str) -> str:
    """The address where it is an https one, else one that leads nowhere; the schema lets only https in."""
    return url if _LINK.fullmatch(url) else "#"


def host(url: str) -> str:
    """An address as its link's text: without scheme, www and final slash."""
    return re.sub(r"^https://(www\.)?|/$", "", url)


def breakable(text: str) -> Markup:
    """A path or address as HTML that may go on in the next line after each of its parts."""
    return Markup(re.sub(r"([/.](?=.))", r"\1<wbr>", str(escape(clean(text)))))  # noqa: S704
