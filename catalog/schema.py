"""What a paper's record is: frozen, closed vocabularies; a mistake gets its file, line and nearest name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest, read_yaml_with_lines

HERE = Path(__file__).parent
AXES = ("elicitation", "algorithm", "skill", "vertical")
CONFIDENCES = ("listed", "judged")  # listed: in the survey or its list; judged: our own reading
BASES = (
    "paper",
    "survey-table",
    "abstract",
    "secondary",
    "recalled",
)  # where teacher, student and seed come from
UNVERIFIED_BASES = ("secondary", "recalled")
ALLOWS_TRAINING = ("yes", "with-naming", "no", "unclear")
SCOPES = (
    "llm",
    "beyond-llm",
    "survey",
)  # what a paper is about; surveys and papers beyond language models stand apart

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MONTH = re.compile(r"(19|20)\d\d-(0[1-9]|1[0-2])")
_DAY = re.compile(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])")
_ARXIV = re.compile(r"\d\d(0[1-9]|1[0-2])\.\d{4,5}")
_LINK = re.compile(r"https://[A-Za-z0-9.-]+(:\d+)?(/[^\s<>\"'`()\[\]{}|\\]*)?")
_LICENCE = re.compile(r"none|[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR) [A-Za-z0-9][A-Za-z0-9.+-]*)*")
_METHOD = re.compile(r"methods(\.[a-z_][a-z0-9_]*)+\.[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Formula:
    name: str
    formula: str
    note: str = ""


@dataclass(frozen=True)
class Value:
    """One leaf of an axis; `checked` says whether its section was seen in a copy of the survey."""

    id: str
    title: str
    summary: str
    section: str
    checked: bool
    group: str = ""
    formulas: tuple[Formula, ...] = ()


@dataclass(frozen=True)
class Axis:
    id: str
    title: str
    question: str
    values: Mapping[str, Value]
    groups: Mapping[str, str]  # group id -> title


@dataclass(frozen=True)
class Teacher:
    id: str
    title: str
    terms_url: str
    allows_training: str
    checked_on: str | None
    verified: bool
    note: str


@dataclass(frozen=True)
class Paper:
    """One paper; `taxonomy[axis][value]` is the confidence with which the value was given.

    `distils` is False where no knowledge passes from a teacher (or the model itself) into a student: the list names
    the paper, its pieces would not be a distillation method. `sources` are where the record's facts were seen;
    `corrections` say where it departs from the list it was taken from.
    """

    id: str
    title: str
    venue: str
    date: str
    taxonomy: Mapping[str, Mapping[str, str]]
    adds: str
    scope: str
    distils: bool
    arxiv: str | None
    url: str
    authors: tuple[str, ...]
    code: tuple[str, ...]
    code_licence: str | None
    data: tuple[str, ...]
    teacher: str | None
    student: str | None
    seed_knowledge: str | None
    basis: str | None
    teacher_terms: tuple[str, ...]
    objective: str | None
    method: str | None
    superseded_by: str | None
    note: str | None
    corrections: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def models_verified(self) -> bool:
        """Whether teacher, student and seed knowledge were seen in a source, not recalled or second-hand."""
        return self.basis is not None and self.basis not in UNVERIFIED_BASES


@dataclass(frozen=True)
class Catalog:
    taxonomy: Mapping[str, Axis]
    teachers: Mapping[str, Teacher]
    papers: Mapping[str, Paper]

    def paper(self, paper_id: str) -> Paper:
        """The paper with this id; CatalogError names the nearest id otherwise."""
        if paper_id not in self.papers:
            raise CatalogError(f'no paper "{paper_id}" in the catalog{nearest(paper_id, self.papers)}')
        return self.papers[paper_id]


def load_catalog(root: Path = HERE) -> Catalog:
    """Every record under `root`, read strictly; raises CatalogError at the first mistake."""
    taxonomy = load_taxonomy(root / "taxonomy.yaml")
    teachers = load_teachers(root / "teachers.yaml")
    papers: dict[str, Paper] = {}
    by_arxiv: dict[str, str] = {}
    origin: dict[str, Lines] = {}
    for path in sorted((root / "papers").glob("*.yaml")):
        paper, lines = load_paper(path, taxonomy, teachers)
        if paper.arxiv is not None:
            if paper.arxiv in by_arxiv:
                raise lines.error(f'arXiv {paper.arxiv} is "{by_arxiv[paper.arxiv]}" already', "arxiv")
            by_arxiv[paper.arxiv] = paper.id
        papers[paper.id], origin[paper.id] = paper, lines
    for paper in papers.values():
        if paper.superseded_by is not None:
            names = [name for name in papers if name != paper.id]
            _one_of(paper.superseded_by, names, "paper", origin[paper.id], "superseded_by")
    return Catalog(taxonomy, teachers, papers)


def load_taxonomy(path: Path) -> dict[str, Axis]:
    """The four axes with every leaf."""
    root = _Fields(*read_yaml_with_lines(path))
    survey = root.mapping("survey")
    survey.take("arxiv", _arxiv)
    survey.text("title")
    survey.done()
    axes = root.mapping("axes")
    found = {}
    for name in AXES:
        axis = axes.mapping(name)
        groups = {}
        for group_id, group in axis.children("groups", required=False):
            groups[group_id] = group.text("title")
            group.text("section")
            group.done()
        values = {}
        for value_id, value in axis.children("values"):
            values[value_id] = Value(
                value_id,
                value.text("title"),
                value.text("summary"),
                value.text("section"),
                value.flag("checked"),
                value.choice("group", groups) if groups else "",
                tuple(_formula(item) for item in value.items("formulas")),
            )
            value.done()
        found[name] = Axis(name, axis.text("title"), axis.text("question"), values, groups)
        axis.done()
    axes.done()
    root.done()
    return found


def load_teachers(path: Path) -> dict[str, Teacher]:
    """Terms of use, by the names that a record's `teacher_terms` may use."""
    root = _Fields(*read_yaml_with_lines(path))
    teachers = {}
    for teacher_id, entry in root.children("teachers"):
        teachers[teacher_id] = Teacher(
            teacher_id,
            entry.text("title"),
            entry.take("terms_url", _link),
            entry.choice("allows_training", ALLOWS_TRAINING),
            entry.take("checked_on", _day, required=False),
            entry.flag("verified"),
            entry.text("note"),
        )
        entry.done()
    root.done()
    return teachers


def load_paper(
    path: Path, taxonomy: Mapping[str, Axis], teachers: Mapping[str, Teacher]
) -> tuple[Paper, Lines]:
    """One record, and where its fields stand."""
    record = _Fields(*read_yaml_with_lines(path))
    paper_id = record.take("id", _identifier)
    if paper_id != path.stem:
        raise record.error(f'the id "{paper_id}" must be the name of the file, "{path.stem}"', "id")
    values = record.mapping("taxonomy")
    labels = {name: values.labels(name, taxonomy[name]) for name in AXES}
    values.done()
    scope = record.choice("scope", SCOPES, required=False) or "llm"
    distils = record.take("distils", _flag, required=False) is not False
    if scope == "llm" and distils and not (labels["elicitation"] and labels["algorithm"]):
        raise record.error("a paper needs at least one elicitation and one algorithm", "taxonomy")
    arxiv = record.take("arxiv", _arxiv, required=False)
    url = record.take("url", _link, required=arxiv is None)
    paper = Paper(
        id=paper_id,
        title=record.text("title"),
        venue=record.text("venue"),
        date=record.take("date", _month),
        taxonomy=labels,
        adds=record.text("adds"),
        scope=scope,
        distils=distils,
        arxiv=arxiv,
        url=url or f"https://arxiv.org/abs/{arxiv}",
        authors=record.many("authors", _line),
        code=record.many("code", _link),
        code_licence=record.take("code_licence", _licence, required=False),
        data=record.many("data", _link),
        teacher=record.take("teacher", _line, required=False),
        student=record.take("student", _line, required=False),
        seed_knowledge=record.take("seed_knowledge", _line, required=False),
        basis=record.choice("basis", BASES, required=False),
        teacher_terms=record.many("teacher_terms", lambda value: _member(value, teachers, "teacher")),
        objective=record.take("objective", _line, required=False),
        method=record.take("method", _method, required=False),
        superseded_by=record.take("superseded_by", _identifier, required=False),
        note=record.take("note", _line, required=False),
        corrections=record.many("corrections", _line),
        sources=record.many("sources", _link),
    )
    record.done()
    if paper.basis is None and (paper.teacher or paper.student or paper.seed_knowledge):
        raise record.error("teacher, student and seed_knowledge need a basis: where seen", "teacher")
    return paper, record.lines


def _formula(entry: _Fields) -> Formula:
    formula = Formula(
        entry.text("name"), entry.text("formula"), entry.take("note", _line, required=False) or ""
    )
    entry.done()
    return formula


class _Fields:
    """A mapping whose fields are taken one by one; what nobody took is unknown and refused by `done`."""

    def __init__(self, data: Any, lines: Lines, where: tuple[str | int, ...] = ()) -> None:
        self.data, self.lines, self.where = data, lines, where
        if not isinstance(data, dict):
            name = f'"{where[-1]}" ' if where else ""
            raise lines.error(f'{name}must be a mapping: lines of "name: value"', *where)
        self.taken: list[str] = []

    def error(self, message: str, *keys: str | int) -> CatalogError:
        return self.lines.error(message, *self.where, *keys)

    def take(self, name: str, convert: Callable[[Any], Any], *, required: bool = True) -> Any:
        self.taken.append(name)
        value = self.data.get(name)
        if value is None:
            if required:
                unknown = [key for key in self.data if key not in self.taken]
                hint = nearest(name, unknown).replace("did you mean", "is it spelled")
                raise self.error(f'"{name}" is missing{hint}', *([name] if name in self.data else []))
            return None
        try:
            return convert(value)
        except ValueError as error:
            raise self.error(f'"{name}": {error}', name) from None

    def text(self, name: str) -> str:
        return self.take(name, _line)

    def flag(self, name: str) -> bool:
        return self.take(name, _flag)

    def choice(self, name: str, allowed: Iterable[str], *, required: bool = True) -> Any:
        return self.take(name, lambda value: _member(value, allowed, "value"), required=required)

    def many(self, name: str, convert: Callable[[Any], Any]) -> tuple[Any, ...]:
        found = []
        for place, value in enumerate(self.take(name, _list, required=False) or []):
            try:
                item = convert(value)
            except ValueError as error:
                raise self.error(f'"{name}": {error}', name, place) from None
            if item in found:
                raise self.error(f'"{name}": "{item}" stands twice', name, place)
            found.append(item)
        return tuple(found)

    def items(self, name: str) -> list[_Fields]:
        entries = self.take(name, _list, required=False) or []
        return [_Fields(entry, self.lines, (*self.where, name, place)) for place, entry in enumerate(entries)]

    def mapping(self, name: str) -> _Fields:
        return _Fields(self.take(name, lambda value: value), self.lines, (*self.where, name))

    def children(self, name: str, *, required: bool = True) -> Iterable[tuple[str, _Fields]]:
        if self.take(name, lambda value: value, required=required) is None:
            return
        inside = _Fields(self.data[name], self.lines, (*self.where, name))
        for key in inside.data:
            if not _ID.fullmatch(key):
                raise inside.error(f'"{key}" is not a name of lower-case letters, digits and hyphens', key)
            yield key, _Fields(inside.data[key], self.lines, (*inside.where, key))

    def labels(self, name: str, axis: Axis) -> dict[str, str]:
        """`{value: confidence}` over a closed axis."""
        if self.take(name, lambda value: value, required=False) is None:
            return {}
        inside = _Fields(self.data[name], self.lines, (*self.where, name))
        for key in inside.data:
            _one_of(key, axis.values, f"value of {name}", self.lines, *inside.where, key)
            inside.choice(key, CONFIDENCES)
        return {key: inside.data[key] for key in axis.values if key in inside.data}

    def done(self) -> None:
        for key in self.data:
            if key not in self.taken:
                raise self.error(f'unknown field "{key}"{nearest(key, self.taken)}', key)


def _one_of(value: str, allowed: Iterable[str], what: str, lines: Lines, *where: str | int) -> str:
    try:
        return _member(value, allowed, what)
    except ValueError as error:
        raise lines.error(str(error), *where) from None


def _member(value: Any, allowed: Iterable[str], what: str) -> str:
    names = list(allowed)
    if _line(value) not in names:
        hint = nearest(value, names) or (f"; known: {', '.join(names)}" if len(names) <= 8 else "")
        raise ValueError(f'no {what} "{value}"{hint}')
    return value


def _line(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {_kind(value)}; put it in quotes")
    if not value.strip() or value != value.strip() or "\n" in value:
        raise ValueError("must be one line without space at either end")
    if len(value) > 500:
        raise ValueError("longer than 500 characters")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_kind(value)}")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "empty")


def _pattern(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not pattern.fullmatch(_line(value)):
            raise ValueError(f'"{value[:60]}" is not {what}')
        return value

    return convert


_identifier = _pattern(_ID, 'a name like "self-instruct": lower-case letters, digits, single hyphens')
_month = _pattern(_MONTH, 'a month like "2023-06"')
_day = _pattern(_DAY, 'a day like "2026-11-22"')
_arxiv = _pattern(_ARXIV, 'an arXiv id like "2306.08543", without version')
_link = _pattern(_LINK, "an https link without spaces, quotes or brackets")
_licence = _pattern(_LICENCE, 'an SPDX licence id like "Apache-2.0", or "none" where the repository has none')
_method = _pattern(_METHOD, 'a dotted path like "methods.algorithms.minillm.MiniLLMTrainer"')
