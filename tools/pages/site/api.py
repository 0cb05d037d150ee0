"""The library's reference, `api/` of the site: written by pdoc from docstrings, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from reproductions.engine.errors import KDError
from tools.paths import ROOT

FOLDER = "api"
LINK = (f"{FOLDER}/index.html", "API")
TEMPLATES = Path(__file__).parents[1] / "templates" / "api"
MISSING = "no api/: it needs the package pdoc, which is not installed (extra `docs`); the rest of the site is written"
_PLACE = re.compile(r'\bid="([^"]+)"')
_LINK = re.compile(
    r'<a href="(?P<file>[^":#]*)#(?P<place>[^"]+)"[^>]*>(?P<text>(?:(?!<a ).)*?)</a>', re.DOTALL
)
# What somebody imports who uses the library. A package has what it exports.
MODULES = (
    *("methods.recipe", "methods.registry", "methods.assembly", "methods.errors"),
    *("methods.losses.divergences", "methods.losses.policy_gradient", "methods.losses.fused.linear"),
    *("methods.slots.samplers", "methods.slots.rewards", "methods.slots.advantages"),
    *(
        "methods.modeling.core",
        "methods.modeling.cut",
        "methods.modeling.rollouts",
        "methods.modeling.normalise",
    ),
    *("methods.modeling.speculative", "methods.tokenizers.alignment"),
    *(
        "methods.teachers.store",
        "methods.teachers.server",
        "methods.teachers.client",
        "methods.teachers.top_k",
    ),
    *("methods.trainers.base", "methods.trainers.distiller", "methods.trainers.policy"),
    *("methods.elicitation.pipeline", "methods.elicitation.steps", "methods.elicitation.records.record"),
    *("methods.elicitation.writers.session",),
    *("reproductions.distill.config", "reproductions.distill.run", "reproductions.distill.plan"),
    *("reproductions.distill.evaluate.compare", "reproductions.distill.evaluate.table"),
    *("reproductions.distill.answers.teach", "reproductions.models.sources"),
)


def installed() -> bool:
    """Whether pdoc is."""
    return find_spec("pdoc") is not None


def write(out: Path) -> int:
    """Write the reference as the folder `out`; how many pages. Raises KDError where pdoc ends with an error."""
    command = [sys.executable, "-m", "pdoc", "--no-show-source", "--no-search", "--no-include-undocumented"]
    command += ["--docformat", "markdown", "-t", str(TEMPLATES), "-o", str(out.resolve()), *MODULES]
    quiet = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **quiet}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise KDError(f"the library's reference: pdoc ended with {done.returncode}: {last}")
    pages = {path.resolve(): path.read_text(encoding="utf-8") for path in out.rglob("*.html")}
    places = {path: set(_PLACE.findall(text)) for path, text in pages.items()}
    for path, text in pages.items():
        path.write_text(_without_dead_links(path, text, places), encoding="utf-8")
    return len(pages)


def _without_dead_links(page: Path, text: str, places: Mapping[Path, set[str]]) -> str:
    """pdoc leads to members that have no docstring too, and so no place on any page: their names stay, as text."""

    def kept(link: re.Match[str]) -> str:
        target = (page.parent / link["file"]).resolve() if link["file"] else page
        return link[0] if link["place"] in places.get(target, ()) else link["text"]

    return _LINK.sub(kept, text)
