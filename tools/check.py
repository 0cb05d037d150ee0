"""`kd check PAPER`: what is missing of a paper, from its record to its results, each with the line to edit."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from catalog.errors import CatalogError
from catalog.model import Catalog, Paper
from catalog.queries import reproducible
from catalog.reader import read_yaml, read_yaml_with_lines
from catalog.schema import HERE, load_catalog
from tools import evidence
from tools.evidence import ROOT
from tools.references import broken, defined
from tools.scaffold import marked
from tools.terminal import grid, style, visible, wrap

TESTS = ROOT / "tests" / "methods"
RATCHET = ROOT / "tests" / "catalog" / "ratchet.yaml"
# Fields in the order of a record: what is missing goes after the last of its predecessors that is there.
ORDER = (
    "id title arxiv url authors venue date scope distils code code_licence data taxonomy teacher student "
    "seed_knowledge basis teacher_terms adds objective method superseded_by note corrections sources"
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


def main(args: argparse.Namespace) -> int:
    """Print what is missing; 1 where something is, 0 where nothing is."""
    if args.ratchet or args.write or args.grow:
        return _ratchet(write=args.write, grow=args.grow)
    catalog = load_catalog()
    if args.paper:
        found = [*missing(catalog, catalog.paper(args.paper)), *_readme()]
    else:
        found = [item for paper in catalog.papers.values() for item in missing(catalog, paper)]
        found += [*_documents(), *_readme()]
    if args.json:
        print(json.dumps([asdict(item) for item in found], indent=1, ensure_ascii=False))
    elif not found:
        print(f"nothing is missing of {args.paper or 'any paper'}")
    elif args.paper:
        print("\n".join(visible(str(item)) for item in found))
    else:
        print("\n".join(_summary(found)))
    return 1 if found else 0


def missing(catalog: Catalog, paper: Paper) -> Iterator[Missing]:
    """Everything that a complete paper has and this one has not, record first, results last."""
    path = HERE / "papers" / f"{paper.id}.yaml"
    for line, what in marked(path):
        yield Missing("unfilled", _relative(path), line, f"fill in {what}")
    place = _Places(path)
    yield from _record(catalog, paper, place)
    if reproducible(paper):
        yield from _method(paper, place)
        yield from _reproduction(paper)
    for line, what in broken(path):
        yield Missing("names", _relative(path), line, what)


def counts(catalog: Catalog) -> dict[str, int]:
    """How many records lack something; what tests/catalog/ratchet.yaml holds."""
    papers = list(catalog.papers.values())
    expected = [paper for paper in papers if reproducible(paper)]
    return {
        "without_method": sum(not paper.method for paper in expected),
        "without_claims": sum(not (evidence.folder(p.id) / "claims.yaml").is_file() for p in expected),
        "without_verified_basis": sum(not paper.models_verified for paper in expected),
        "without_authors": sum(not paper.authors for paper in papers),
    }


def slack(catalog: Catalog) -> list[str]:
    """One sentence for each count that is not the one in the ratchet's file."""
    try:
        held = read_yaml(RATCHET)
    except CatalogError:
        return [f"{_relative(RATCHET)} cannot be read; `kd check --ratchet --write` writes it"]
    found = []
    for name, count in counts(catalog).items():
        if held.get(name) != count:
            way = "shrank" if isinstance(held.get(name), int) and count < held[name] else "grew"
            advice = "`kd check --ratchet --write`" if way == "shrank" else "it may only shrink"
            found.append(f"{name} {way} from {held.get(name)} to {count}: {advice}")
    return found


class _Places:
    """Where in a record something is missing: at its field, or at the one it would stand after."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data, self.lines = read_yaml_with_lines(path)

    def missing(self, kind: str, field: str, what: str) -> Missing:
        order = ORDER.split()
        present = [name for name in order[: order.index(field) + 1] if name in self.data]
        return Missing(kind, _relative(self.path), self.lines.at(present[-1]) if present else 1, what)


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
                "terms", _relative(terms), line, f"the terms of {name} were not read (verified: false)"
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
        yield Missing("test", _relative(TESTS / f"test_{module}.py"), 1, what)
    matrix = TESTS / "trainers" / "one_update.py"
    if ".trainers." in paper.method and matrix not in tests:
        at = next((n for n, text in enumerate(_texts(matrix), 1) if text.startswith("TRAINERS")), 1)
        yield Missing(
            "test", _relative(matrix), at, f"{name} does not stand in the invariance matrix (TRAINERS)"
        )


def _reproduction(paper: Paper) -> Iterator[Missing]:
    folder = evidence.folder(paper.id)
    claims, experiment = folder / "claims.yaml", folder / "experiment.py"
    if not claims.is_file():
        what = "claims are missing: what the paper states, before anything runs"
        yield Missing("claims", _relative(claims), 1, what)
    else:
        for line, text in marked(claims):
            yield Missing("unfilled", _relative(claims), line, f"fill in {text}")
    if not experiment.is_file():
        yield Missing(
            "experiment", _relative(experiment), 1, "the experiment is missing: arms, metrics, scales"
        )
        return
    try:
        scales = [name for name, _ in evidence.scales(paper.id)]
        rows = evidence.claims(paper.id)
    except ValueError as error:  # of the engine or the catalog; says file and line itself
        yield Missing("claims", _relative(claims), 1, str(error))
        return
    recorded = {file.stem for file in evidence.result_files(paper.id)}
    for scale in scales:
        if scale != "paper" and scale not in recorded:
            file = _relative(folder / "results" / f"{scale}.json")
            yield Missing("results", file, 1, f"no results: make reproduce PAPER={paper.id} SCALE={scale}")
    at = {text.strip(): number for number, text in enumerate(_texts(claims), 1)} if rows else {}
    for row in rows:
        for outcome in row.outcomes:
            if outcome.verdict in ("not reproduced", "inconclusive") and not outcome.explanation:
                what = f"{row.id} is {outcome.verdict} at {outcome.scale}: no explanation under findings"
                yield Missing("findings", _relative(claims), at.get(f"- id: {row.id}", 1), what)


def _readme() -> Iterator[Missing]:
    from tools import readme

    if not readme.README.is_file() or readme.README.read_text(encoding="utf-8") != readme.render():
        yield Missing(
            "readme", "README.md", 1, "is not what the catalog and the results say now: make readme"
        )


def _documents() -> Iterator[Missing]:
    for path in sorted(ROOT.glob("*.md")):
        for line, what in broken(path):
            yield Missing("names", _relative(path), line, what)


def _summary(found: list[Missing]) -> list[str]:
    """A line for each kind of thing that is missing: how often, and the first place."""
    kinds = dict.fromkeys(item.kind for item in found)
    rows = [["MISSING", "PLACES", "FIRST"]]
    for kind in kinds:
        items = [item for item in found if item.kind == kind]
        rows.append([kind, str(len(items)), f"{items[0].path}:{items[0].line}"])
    head, *lines = grid(rows, right=(1,))
    return [style(head, "bold"), *lines, "", wrap("`kd check PAPER` says what to do, line by line")]


def _ratchet(*, write: bool, grow: bool) -> int:
    catalog = load_catalog()
    now, found = counts(catalog), slack(catalog)
    print("\n".join(grid([[name, f"{count:,}"] for name, count in now.items()], right=(1,))))
    print("\n".join(found) or "as the ratchet says")
    if not write:
        return 1 if found else 0
    if RATCHET.is_file() and not grow and any(" grew " in text for text in found):
        print("not written: a count grew (--grow writes it all the same; say why in the commit)")
        return 1
    head = (
        "# How many records still lack something. Written by `kd check --ratchet --write`; may only shrink.\n"
    )
    RATCHET.write_text(head + "".join(f"{name}: {count}\n" for name, count in now.items()), encoding="utf-8")
    print(f"{_relative(RATCHET)}: written")
    return 0


def _texts(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
