"""A judged paper as a logbook of trackio: pages of cells in a folder that `trackio logbook` opens.

Written by trackio itself (its module `logbook`), without the network. It numbers and dates its cells: no two
logbooks are equal byte by byte.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

from catalog.errors import CatalogError, nearest
from reproductions.engine.errors import KDError
from reproductions.engine.show.view import PERCENT, ScaleRow
from tools.export import rows
from tools.export.rows import ArmOf, ClaimOf
from tools.pages.atlas import Atlas
from tools.pages.figures.forest import forest
from tools.pages.markdown import link, md, table
from tools.terminal import interval, number

FOLDER = "logbooks"
ALL = "all"


def check_installed(wanted: Sequence[str]) -> None:
    """Raises KDError where logbooks are wanted and trackio is not installed."""
    if wanted and find_spec("trackio") is None:
        raise KDError(
            "--logbook needs the package trackio, which is not installed; without it all else is exported"
        )


def papers_of(wanted: Iterable[str], atlas: Atlas) -> list[str]:
    """The papers that are meant, each once. Raises CatalogError for one without a verdict."""
    found = []
    for name in wanted:
        if name != ALL and name not in atlas.judged:
            raise CatalogError(f'--logbook: no judged paper "{name}"{nearest(name, (ALL, *atlas.judged))}')
        found += sorted(atlas.judged) if name == ALL else [name]
    return list(dict.fromkeys(found))


def write(out: Path, atlas: Atlas, name: str, commit: str | None) -> None:
    """The logbook of a paper as the folder `out`: its claims, their intervals, the arms of each scale."""
    from trackio import logbook

    paper, view = atlas.catalog.papers[name], atlas.views[name]
    claims = [row for row in rows.claims(atlas) if row.paper == name]
    arms = [row for row in rows.arms(atlas) if row.paper == name]
    # trackio writes into the logbook of the working directory or of a folder above it: none is above this one.
    with tempfile.TemporaryDirectory(prefix="kd-logbook-") as made:
        with chdir(made):
            project = logbook.create_logbook(f"{md(paper.title)}: what was reproduced", emoji="📖")
        page = logbook.ensure_page(project, "Claims", "judged")
        logbook.add_markdown_cell(project, page, _about(paper.url, commit), title="About")
        for claim in view.claims:
            outcomes = [row for row in claims if row.claim is claim]
            logbook.add_markdown_cell(project, page, _claim(outcomes), title=claim.id)
        picture = forest(view)
        if picture:
            page = logbook.ensure_page(project, "Intervals")
            logbook.add_figure_cell(project, page, html=picture, title="Differences with their intervals")
        for scale in view.recorded:
            page = logbook.ensure_page(project, f"Arms at scale {scale.name}")
            ours = [row for row in arms if row.scale is scale]
            logbook.add_markdown_cell(project, page, _arms(scale, ours), title=scale.testbed)
        shutil.copytree(made, out)


def _about(url: str, commit: str | None) -> str:
    at = f" at commit `{commit}`" if commit else ""
    return (
        f"[The paper]({link(url)}); made by `kd export`{at}. Claims were written down before anything was run; "
        f"verdicts are computed from intervals of {PERCENT} over seeds, and hold at the scale that they name."
    )


def _claim(outcomes: Sequence[ClaimOf]) -> str:
    claim = outcomes[0].claim
    lines = [f"{md(claim.statement)}", "", f"`{claim.formula}`; {md(claim.source)}", ""]
    cells = [
        [
            md(row.outcome.scale),
            md(row.testbed),
            md(row.metric),
            md(row.told),
            "" if row.outcome.difference is None else number(row.outcome.difference),
            "" if row.outcome.interval is None else interval(row.outcome.interval),
            str(row.outcome.seeds),
        ]
        for row in outcomes
        if row.outcome is not None
    ]
    if not cells:
        return "\n".join([*lines, "Not run."])
    head = ("scale", "testbed", "metric", "verdict", "difference", PERCENT, "seeds")
    lines += table(head, cells)
    found = [row.outcome.explanation for row in outcomes if row.outcome and row.outcome.explanation]
    return "\n".join([*lines, *(line for text in found for line in ("", md(text)))])


def _arms(scale: ScaleRow, arms: Sequence[ArmOf]) -> str:
    cells = [
        [md(row.arm.title), md(row.arm.recipe), md(row.metric.title), number(row.figure.mean)]
        + ["" if row.figure.interval is None else interval(row.figure.interval), str(row.arm.seeds)]
        for row in arms
    ]
    lines = table(("arm", "computes", "metric", "mean", "95 %", "seeds"), cells)
    return "\n".join([*lines, "", md(scale.made)])
