"""A catalog in which every text tries to be something else: the schema refuses it, the site must not rely on that."""

from __future__ import annotations

from dataclasses import replace

from catalog.schema import AXES, Catalog, External, Paper, load_catalog
from reproductions.engine.atlas.record import (
    AgreementRow,
    Cell,
    Column,
    Contrast,
    Correlation,
    OrderRow,
    PooledRow,
    Record,
    Row,
    Table,
)
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
    catalog = Catalog(base.taxonomy, base.teachers, papers)
    return Atlas(catalog, {"evil": view_of("evil", *rows)}, hostile_record())


def hostile_record() -> Record:
    """What hostile papers say together: every text of it is one of theirs."""
    columns = tuple(Column(name, HOSTILE, HOSTILE, True) for name in ("greedy_exact_match", "confidence"))
    rows = tuple(
        Row(
            key=HOSTILE,
            testbed=HOSTILE,
            title=f"{place} {HOSTILE}",
            recipe=HOSTILE,
            papers=("evil", HOSTILE),
            seeds=5,
            rate=None,
            cells=(
                Cell("greedy_exact_match", 30.0 - place, (20.0, 40.0), "ab", (1, 9)),
                Cell("confidence", 0.3 + 0.01 * place, (0.2, 0.4), "", None),
            ),
            behind=float(place),
            behind_interval=(place - 1.0, place + 1.0) if place else None,
        )
        for place in range(9)
    )
    table = Table(
        name=HOSTILE,
        scale="tiny",
        testbeds=(HOSTILE,),
        budget=HOSTILE,
        student=HOSTILE,
        examples=100,
        columns=columns,
        rows=rows,
        left_out=1,
        pairs=36,
        apart=12,
        correlations=(Correlation("confidence", "greedy_exact_match", 9, -1.0, -1.0),),
    )
    contrast = Contrast(HOSTILE, HOSTILE, ("a", "b"), ("evil", HOSTILE), 5, 1.0, 0.2, (0.5, 1.5))
    first = PooledRow(
        statement="s",
        title=HOSTILE,
        says=HOSTILE,
        league=HOSTILE,
        scale="tiny",
        metric="greedy_exact_match",
        metric_title=HOSTILE,
        unit=HOSTILE,
        mean=1.0,
        interval=(0.5, 1.5),
        tau=0.2,
        prediction=None,
        shared=0.1,
        contrasts=(contrast, contrast),
    )
    stated = (first, replace(first, metric="other"))
    order = OrderRow("evil", HOSTILE, HOSTILE, ((HOSTILE, 1.0, 2.0),), 0.3, 0.2)
    agreement = AgreementRow("tiny", (HOSTILE,), False, 0.3, (-0.5, 1.0), 0.2, None, 2, 3, 4, (order,))
    return Record("0" * 16, 0.9875, (table,), stated, (agreement,))
