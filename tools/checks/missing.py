"""What is missing of a paper, from its record to its results, each with the line to edit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from catalog.model import Catalog, Paper
from catalog.queries import reproducible
from catalog.reader import read_yaml_with_lines
from catalog.schema import HERE
from reproductions.engine.show import files, gather
from tools.checks import owes
from tools.checks.references import broken, defined
from tools.checks.scaffold import marked
from tools.paths import ROOT, relative

TESTS = ROOT / "tests" / "methods"
# Fields in the order of a record: what is missing goes after the last of its predecessors that is there.
ORDER = (
    "id title arxiv url authors venue date scope distils code code_licence data taxonomy teacher student "
    "seed_knowledge basis teacher_terms adds objective method superseded_by note corrections sources owes"
)
FORMULAS = {"divergence-similarity", "reinforcement-learning", "rank-optimization"}


@dataclass(frozen=True)
class Missing:
    """One thing to do, and where."""

    kind: str
    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def missing(catalog: Catalog, paper: Paper) -> Iterator[Missing]:
    """Everything that a complete paper has and this one has not, record first, results last."""
    path = HERE / "papers" / f"{paper.id}.yaml"
    for line, what in marked(path):
        yield Missing("unfilled", relative(path), line, f"fill in {what}")
    place = _Places(path)
    yield from _record(catalog, paper, place)
    if reproducible(paper):
        yield from _method(paper, place)
        yield from _reproduction(paper)
    for _, line, what in owes.wrong([paper]):
        yield Missing("owes", relative(path), line, what)
    for line, what in broken(path):
        yield Missing("names", relative(path), line, what)


class _Places:
    """Where in a record something is missing: at its field, or at the one it would stand after."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data, self.lines = read_yaml_with_lines(path)

    def missing(self, kind: str, field: str, what: str) -> Missing:
        order = ORDER.split()
        present = [name for name in order[: order.index(field) + 1] if name in self.data]
        return Missing(kind, relative(self.path), self.lines.at(present[-1]) if present else 1, what)


def _record(catalog: Catalog, paper: Paper, place: _Places) -> Iterator[Missing]:
    at = place.missing
    if not paper.authors:
        yield at("authors", "authors", "authors are missing: authors: [First Last, First Last]")
    if reproducible(paper):
        if not (paper.teacher or paper.student):
            yield at("models", "teacher", "teacher and student are missing")
        if paper.basis is None:
            yield at("basis", "basis", "basis is missing: where teacher, student and seed were seen")
        elif not paper.models_verified:
            what = f"basis is {paper.basis}: see teacher, student and seed in a source, then name it"
            yield at("basis", "basis", what)
    if paper.basis in ("paper", "abstract") and not paper.sources:
        yield at("sources", "sources", f"sources are missing: where was the {paper.basis} seen?")
    if paper.code and paper.code_licence is None:
        yield at("licence", "code_licence", f"code_licence is missing: see the licence of {paper.code[0]}")
    if paper.teacher and not paper.teacher_terms:
        what = f"teacher_terms are missing: whose terms bind outputs of {paper.teacher}?"
        yield at("terms", "teacher_terms", what)
    if reproducible(paper) and not paper.objective and FORMULAS & paper.taxonomy["algorithm"].keys():
        yield at("objective", "objective", "objective is missing: the loss in one line of plain text")
    terms = HERE / "teachers.yaml"
    for name in paper.teacher_terms:
        if not catalog.teachers[name].verified:
            line = read_yaml_with_lines(terms)[1].at("teachers", name, "verified")
            yield Missing(
                "terms", relative(terms), line, f"the terms of {name} were not read (verified: false)"
            )


def _method(paper: Paper, place: _Places) -> Iterator[Missing]:
    if paper.method is None:
        what = "method is missing: write it in methods/ and name it here, method: methods.<module>.<name>"
        yield place.missing("method", "method", what)
        return
    if not defined(paper.method):
        yield place.missing("method", "method", f"{paper.method} does not exist")
        return
    _, module, name = paper.method.rsplit(".", 2)
    word = re.compile(rf"\b({re.escape(name)}|{re.escape(module)})\b")
    tests = [file for file in sorted(TESTS.rglob("*.py")) if word.search(file.read_text(encoding="utf-8"))]
    if not tests:
        what = f"no test of {paper.method}"
        yield Missing("test", relative(TESTS / f"test_{module}.py"), 1, what)
    matrix = TESTS / "trainers" / "one_update.py"
    if name.endswith("Trainer") and matrix not in tests:
        at = next((n for n, text in enumerate(_texts(matrix), 1) if text.startswith("TRAINERS")), 1)
        yield Missing(
            "test", relative(matrix), at, f"{name} does not stand in the invariance matrix (TRAINERS)"
        )


def _reproduction(paper: Paper) -> Iterator[Missing]:
    claims, experiment = gather.claims_file(paper.id), gather.experiment_file(paper.id)
    if not claims.is_file():
        what = "claims are missing: what the paper states, before anything runs"
        yield Missing("claims", relative(claims), 1, what)
    else:
        for line, text in marked(claims):
            yield Missing("unfilled", relative(claims), line, f"fill in {text}")
    if not experiment.is_file():
        yield Missing(
            "experiment", relative(experiment), 1, "the experiment is missing: arms, metrics, scales"
        )
        return
    try:
        view = files.view(paper.id)
    except ValueError as error:  # of the engine or the catalog; says file and line itself
        yield Missing("claims", relative(claims), 1, str(error))
        return
    assert view is not None  # noqa: S101 - there is an experiment
    for scale in view.scales:
        if scale.name != "paper" and not scale.recorded:
            what = f"no results: make reproduce PAPER={paper.id} SCALE={scale.name}"
            yield Missing("results", relative(experiment), 1, what)
    at = {text.strip(): number for number, text in enumerate(_texts(claims), 1)}
    for row in view.claims:
        for outcome in row.outcomes:
            if outcome.verdict in ("not reproduced", "inconclusive") and not outcome.explanation:
                what = f"{row.id} is {outcome.verdict} at {outcome.scale}: no explanation under findings"
                yield Missing("findings", relative(claims), at.get(f"- id: {row.id}", 1), what)
    if files.stale([paper.id]):
        what = "was made of other claims or results than today's: make readme"
        yield Missing("verdicts", relative(files.path_of(paper.id)), 1, what)


def _texts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
