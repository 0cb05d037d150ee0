"""The catalog from its files, each compiled once: what a file says is kept as JSON until the file changes.

Reading 1,000 records strictly takes seconds, reading them back well under a tenth of one. Only records that passed
every check are kept, under the text of the code that checked them and the names they were checked against; what is
checked between records (one arXiv id each, who supersedes whom) is checked at every load.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from catalog import cache
from catalog.errors import CatalogError
from catalog.fields import one_of
from catalog.model import Axis, Catalog, External, Formula, Paper, Teacher, Value
from catalog.records import load_paper, load_taxonomy, load_teachers

if TYPE_CHECKING:
    from catalog.reader import Lines

_TUPLES = ("authors", "code", "data", "teacher_terms", "corrections", "sources", "owes")
RECIPES = Path(__file__).resolve().parent.parent / "methods" / "recipes"
_SOURCES = ("cache", "errors", "fields", "index", "model", "reader", "records")


def load(root: Path, *, cached: bool) -> Catalog:
    """Every record under `root`; with `cached`, unchanged files are not parsed again. Raises CatalogError."""
    if not cached:
        return _load(root, _Compiled({}))
    here = Path(__file__).parent
    key, path = cache.source_key(here / f"{name}.py" for name in _SOURCES), cache.file_for("catalog", root)
    kept = cache.read(path, key)
    compiled = _Compiled(kept if isinstance(kept, dict) else {})
    try:
        return _load(root, compiled)
    except CatalogError:  # one bad record costs the others nothing
        compiled.made = {**compiled.kept, **compiled.made}
        raise
    except (AttributeError, IndexError, KeyError, TypeError):  # not what this code keeps: begin again
        compiled = _Compiled({})
        return _load(root, compiled)
    finally:
        if compiled.changed:
            cache.write(path, key, compiled.made)


class _Compiled:
    """What each file said, and what it looked like from outside when it said so."""

    def __init__(self, kept: dict[str, Any]) -> None:
        self.kept, self.made, self.changed = kept, dict[str, Any](), False

    def obtain(self, root: Path, name: str, names: str, make: Callable[[Path], Any]) -> Any:
        """What `make` says of the file, as plain JSON data; `names` is all that it depends on besides the file."""
        try:
            status = os.stat(f"{root}/{name}")  # noqa: PTH116 - a thousand Path objects cost more than the files
        except OSError:
            return make(root / name)  # which says what is wrong with it
        about = [names, *cache.signature(status)]
        entry = self.kept.get(name)
        if entry and entry[0] == about:
            self.made[name] = entry
            return entry[1]
        made = make(root / name)
        if cache.settled(status):
            self.made[name], self.changed = [about, made], True
        return made


def _load(root: Path, compiled: _Compiled) -> Catalog:
    axes = compiled.obtain(root, "taxonomy.yaml", "", lambda path: _plain(load_taxonomy(path)))
    taxonomy = {axis["id"]: _axis(axis) for axis in axes}
    entries = compiled.obtain(root, "teachers.yaml", "", lambda path: _plain(load_teachers(path)))
    teachers = {entry["id"]: Teacher(**entry) for entry in entries}
    names = _digest([[axis.id, *axis.values] for axis in taxonomy.values()], list(teachers))
    papers: dict[str, Paper] = {}
    by_arxiv: dict[str, str] = {}
    for name in _records(root):
        plain = compiled.obtain(
            root, f"papers/{name}", names, lambda path: asdict(load_paper(path, taxonomy, teachers)[0])
        )
        paper = _paper(plain)
        if paper.arxiv is not None:
            if paper.arxiv in by_arxiv:
                taken = f'arXiv {paper.arxiv} is "{by_arxiv[paper.arxiv]}" already'
                raise _lines(root, paper).error(taken, "arxiv")
            by_arxiv[paper.arxiv] = paper.id
        papers[paper.id] = paper
    _check_successors(root, papers)
    _check_methods(root, papers)
    return Catalog(taxonomy, teachers, papers)


def _records(root: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(root / "papers") if name.endswith(".yaml"))  # noqa: PTH208
    except FileNotFoundError:
        return []


def _check_successors(root: Path, papers: dict[str, Paper]) -> None:
    """Whoever supersedes a paper is another paper, and following them comes to an end."""
    for paper in papers.values():
        seen, successor = [paper.id], paper.superseded_by
        if successor is not None and (successor not in papers or successor == paper.id):
            others = [name for name in papers if name != paper.id]
            one_of(successor, others, "paper", _lines(root, paper), "superseded_by")
        while successor in papers:
            if successor in seen:
                circle = " -> ".join([*seen, successor])
                raise _lines(root, paper).error(f"superseded in a circle: {circle}", "superseded_by")
            seen.append(successor)
            successor = papers[successor].superseded_by


def _check_methods(root: Path, papers: dict[str, Paper]) -> None:
    """A record's method is a recipe that is there. Only the folder's names are read."""
    named = [paper for paper in papers.values() if paper.method is not None]
    known = {name.removesuffix(".yaml") for name in os.listdir(RECIPES)} if named else set()  # noqa: PTH208
    for paper in named:
        if paper.method not in known:
            one_of(str(paper.method), sorted(known), "recipe", _lines(root, paper), "method")


def _lines(root: Path, paper: Paper) -> Lines:
    """Where the fields of a record stand: read again, for an error only."""
    from catalog.reader import read_yaml_with_lines

    return read_yaml_with_lines(root / "papers" / f"{paper.id}.yaml")[1]


def _plain(records: Mapping[str, Axis] | Mapping[str, Teacher]) -> list[dict[str, Any]]:
    return [asdict(record) for record in records.values()]


def _digest(*parts: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _axis(plain: dict[str, Any]) -> Axis:
    values = {
        name: Value(**{**value, "formulas": tuple(Formula(**item) for item in value["formulas"])})
        for name, value in plain["values"].items()
    }
    return Axis(**{**plain, "values": values})


def _paper(plain: dict[str, Any]) -> Paper:
    external = tuple(External(**entry) for entry in plain["external"])
    return Paper(**{**plain, **{name: tuple(plain[name]) for name in _TUPLES}, "external": external})
