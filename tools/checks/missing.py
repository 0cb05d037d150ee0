"""What is missing of a paper, from its record to its results, each with the line to edit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from catalog.model import Catalog, Paper
from catalog.queries import reproducible
from catalog.reader import read_yaml_with_lines
from catalog.schema import HERE
from methods.recipe import canonical_method, components_of, read_recipe
from methods.registry import Component, RegistryError, find
from reproductions.engine.show import files, gather
from reproductions.engine.show.view import PaperView
from reproductions.engine.verdicts.effects import smallest_effect
from reproductions.engine.verdicts.gates import UNGATED
from tools.checks import owes, results
from tools.checks.references import broken
from tools.checks.scaffold import marked
from tools.paths import ROOT, relative

TESTS = ROOT / "tests" / "methods"
# Fields in the order of a record: what is missing goes after the last of its predecessors that is there.
ORDER = (
    "id title arxiv url authors venue date scope distils code code_licence data taxonomy teacher student "
    "seed_knowledge basis teacher_terms adds objective method superseded_by note corrections sources external owes"
)
UNLIKE = ("weaker", "no difference", "reversed")  # verdicts that a finding explains
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
    """A recipe, of components that have tests; terms and trainers give one update whatever the micro-batches."""
    if paper.method is None:
        recipe = f"methods/recipes/{paper.id}.yaml"
        yield place.missing(
            "method", "method", f"method is missing: write {recipe}, name it here, method: {paper.id}"
        )
        return
    try:
        made = read_recipe(paper.method)
        named = components_of(canonical_method(made.method()))
    except RegistryError as error:  # says file and line itself
        yield place.missing("method", "method", str(error).replace(f"{ROOT}/", ""))
        return
    for line, what in marked(made.path):
        yield Missing("unfilled", relative(made.path), line, f"fill in {what}")
    for slot, name in named:
        entry = find(slot, name)
        if not _is_named(entry, sorted(TESTS.rglob("*.py"))):
            where = TESTS.joinpath(
                *entry.module.split(".")[1:-1], f"test_{entry.module.rsplit('.', 1)[-1]}.py"
            )
            yield Missing("test", relative(where), 1, f"no test of the {slot} {name}")
        matrix = TESTS / "trainers" / "one_update.py"
        if slot in ("term", "trainer") and not _is_named(entry, sorted(TESTS.rglob("*_update.py"))):
            at = next((n for n, text in enumerate(_texts(matrix), 1) if text.startswith("TRAINERS")), 1)
            what = f"the {slot} {name} does not stand in the invariance matrix (TRAINERS)"
            yield Missing("test", relative(matrix), at, what)


def _is_named(entry: Component, files: Iterable[Path]) -> bool:
    """Whether any of these files names a component: its code, its name, or its module."""
    names = {entry.attribute, entry.name, entry.name.replace("-", "_"), entry.module.rsplit(".", 1)[-1]}
    word = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    return any(word.search(_text(file, file.stat().st_mtime_ns)) for file in files)


@lru_cache(maxsize=512)
def _text(path: Path, changed: int) -> str:
    return path.read_text(encoding="utf-8")


def _reproduction(paper: Paper) -> Iterator[Missing]:
    path = gather.experiment_file(paper.id)
    if not path.is_file():
        what = "the experiment is missing: what the paper states, before anything runs; arms, scales"
        yield Missing("experiment", relative(path), 1, what)
        return
    for line, text in marked(path):
        yield Missing("unfilled", relative(path), line, f"fill in {text}")
    try:
        view = files.view(paper.id)
    except ValueError as error:  # of the engine or the catalog; says file and line itself
        yield Missing("experiment", relative(path), 1, str(error).replace(f"{ROOT}/", ""))
        return
    assert view is not None  # noqa: S101 - there is an experiment
    for scale in view.scales:
        if scale.name != "paper" and not scale.recorded:
            what = f"no results: make reproduce PAPER={paper.id} SCALE={scale.name} ARGS=--record"
            yield Missing("results", relative(path), 1, what)
    for row in view.claims:
        for outcome in row.outcomes:
            if outcome.verdict in UNLIKE and not outcome.explanation:
                what = f"{row.id} is {outcome.verdict} at {outcome.scale}: no explanation under findings"
                yield Missing("findings", relative(path), _line_of_claim(path, row.id), what)
    if files.stale([paper.id]):
        what = "was made of other claims or results than today's: make readme"
        yield Missing("verdicts", relative(files.path_of(paper.id)), 1, what)
    yield from _results(paper, view)
    yield from _effects(paper, path)


def _effects(paper: Paper, path: Path) -> Iterator[Missing]:
    """Claims of which nothing says what size matters, at scales whose testbed may judge: best said before any run."""
    for plan in results.plans([paper.id]):
        gate = gather.gate_on(plan.scale.testbed)
        if gate is None or not gate.passed or plan.scale.name in UNGATED:
            continue
        for claim in gather.claims_of(plan.experiment).at(plan.scale.name):
            directed = claim.contrast.relation == "greater"
            if directed and smallest_effect(claim, plan.scale.name, gate.figures) is None:
                what = (
                    f"{claim.id} has no smallest effect at {plan.scale.name}: the gate of {plan.scale.testbed} has no "
                    f"headroom in {claim.metric}; write smallest_effect: in the metric's unit"
                )
                yield Missing("smallest effect", relative(path), _line_of_claim(path, claim.id), what)


def _results(paper: Paper, view: PaperView) -> Iterator[Missing]:
    """Recorded files that are not what they say, that a change of code has overtaken, or that were swept otherwise."""
    recorded = {row.name: [gather.ROOT / name for name in row.results] for row in view.recorded}
    for paths in recorded.values():
        yield from _as_missing("results", results.misnamed(paths))
        yield from _as_missing("stale", results.stale(paths))
    for plan in results.plans([paper.id]):
        if plan.scale.name in recorded:
            yield from _as_missing("claims", results.changed_claims(plan))
    yield from _as_missing("sweep", results.old_sweeps([paper.id]))


def _as_missing(kind: str, found: Iterable[tuple[str, str]]) -> Iterator[Missing]:
    return (Missing(kind, path, 1, what) for path, what in found)


def _line_of_claim(path: Path, claim: str) -> int:
    data, lines = read_yaml_with_lines(path)
    for section, claims in data["claims"].items():
        if isinstance(claims, dict) and claim in claims:
            return lines.at("claims", section, claim)
    return lines.at("claims")


def _texts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
