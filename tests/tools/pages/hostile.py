"""A catalog in which every text tries to be something else: the schema refuses it, the site must not rely on that."""

from __future__ import annotations

from dataclasses import replace

from catalog.schema import AXES, Catalog, External, Paper, load_catalog
from tests.tools.conftest import claim, outcome, view_of
from tools.pages.atlas import Atlas

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror=\"window.hacked=2\"> ' onclick='x' {{ 7*7 }} "
    "[md](javascript:alert(1)) **bold** &lt;b&gt; \u202egnp.exe\u2028\u2066 end"
)
SHOWN = HOSTILE.replace("\u202e", "").replace("\u2028", "").replace("\u2066", "")  # as a page shows it
LINK = 'javascript:window.hacked=3//"><b>'


def hostile_atlas() -> Atlas:
    """Two papers: one whose every field is hostile, one plain that it supersedes."""
    base = load_catalog()
    plain = base.papers["minillm"]
    taxonomy = {axis: dict.fromkeys(base.taxonomy[axis].values, "judged") for axis in AXES}
    evil = replace(
        plain,
        id="evil",
        title=HOSTILE,
        venue=HOSTILE,
        adds=HOSTILE,
        arxiv=None,
        url=LINK,
        authors=(HOSTILE, "Someone"),
        code=(LINK, "https://example.org/a'b"),
        code_licence=HOSTILE,
        data=('https://example.org/"onmouseover=x',),
        teacher=HOSTILE,
        student=HOSTILE,
        seed_knowledge=HOSTILE,
        basis="recalled",
        objective=HOSTILE,
        method=None,
        note=HOSTILE,
        corrections=(HOSTILE,),
        sources=(LINK,),
        external=(External(LINK, HOSTILE, HOSTILE, HOSTILE, None, HOSTILE),),
        taxonomy=taxonomy,
        distils=False,
    )
    papers: dict[str, Paper] = {
        "evil": evil,
        "plain": replace(plain, id="plain", superseded_by="evil", method=None),
    }
    rows = [
        claim("c", outcome("reversed", explanation=HOSTILE), statement=HOSTILE),
        claim("d", statement=HOSTILE),
    ]
    return Atlas(Catalog(base.taxonomy, base.teachers, papers), {"evil": view_of("evil", *rows)})
