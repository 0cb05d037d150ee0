"""The files of the catalog, read strictly one by one: taxonomy, teachers' terms, a paper's record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from catalog import fields
from catalog.fields import Fields
from catalog.model import (
    ALLOWS_TRAINING,
    AXES,
    BASES,
    EXTERNAL_KINDS,
    OWES,
    SCOPES,
    Axis,
    External,
    Formula,
    Paper,
    Teacher,
    Value,
)

if TYPE_CHECKING:
    from catalog.reader import Lines


def load_taxonomy(path: Path) -> dict[str, Axis]:
    """The four axes with every leaf."""
    root = _read(path)
    survey = root.mapping("survey")
    survey.take("arxiv", fields.arxiv_id)
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
    root = _read(path)
    teachers = {}
    for teacher_id, entry in root.children("teachers"):
        teachers[teacher_id] = Teacher(
            teacher_id,
            entry.text("title"),
            entry.take("terms_url", fields.link),
            entry.choice("allows_training", ALLOWS_TRAINING),
            entry.take("checked_on", fields.day, required=False),
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
    record = _read(path)
    paper_id = record.take("id", fields.identifier)
    if paper_id != path.stem:
        raise record.error(f'the id "{paper_id}" must be the name of the file, "{path.stem}"', "id")
    values = record.mapping("taxonomy")
    labels = {name: values.labels(name, taxonomy[name]) for name in AXES}
    values.done()
    scope = record.choice("scope", SCOPES, required=False) or "llm"
    distils = record.take("distils", fields.true_or_false, required=False) is not False
    if scope == "llm" and distils and not (labels["elicitation"] and labels["algorithm"]):
        raise record.error("a paper needs at least one elicitation and one algorithm", "taxonomy")
    arxiv = record.take("arxiv", fields.arxiv_id, required=False)
    url = record.take("url", fields.link, required=arxiv is None)
    paper = Paper(
        id=paper_id,
        title=record.text("title"),
        venue=record.text("venue"),
        date=record.take("date", fields.month),
        taxonomy=labels,
        adds=record.text("adds"),
        scope=scope,
        distils=distils,
        arxiv=arxiv,
        url=url or f"https://arxiv.org/abs/{arxiv}",
        authors=record.many("authors", fields.one_line),
        code=record.many("code", fields.link),
        code_licence=record.take("code_licence", fields.licence, required=False),
        data=record.many("data", fields.link),
        teacher=record.take("teacher", fields.one_line, required=False),
        student=record.take("student", fields.one_line, required=False),
        seed_knowledge=record.take("seed_knowledge", fields.one_line, required=False),
        basis=record.choice("basis", BASES, required=False),
        teacher_terms=record.many("teacher_terms", lambda value: fields.member(value, teachers, "teacher")),
        objective=record.take("objective", fields.one_line, required=False),
        method=record.take("method", fields.identifier, required=False),
        superseded_by=record.take("superseded_by", fields.identifier, required=False),
        note=record.take("note", fields.one_line, required=False),
        corrections=record.many("corrections", fields.one_line),
        sources=record.many("sources", fields.link),
        external=_external(record),
        owes=record.many("owes", lambda value: fields.member(value, OWES, "debt")),
    )
    record.done()
    if paper.basis is None and (paper.teacher or paper.student or paper.seed_knowledge):
        raise record.error("teacher, student and seed_knowledge need a basis: where seen", "teacher")
    return paper, record.lines


def _external(record: Fields) -> tuple[External, ...]:
    """What others found, in the order of the file; an address may tell two kinds of things, each once."""
    found: list[External] = []
    for entry in record.items("external"):
        made = External(
            url=entry.take("url", fields.link),
            date=entry.take("date", fields.month_or_day),
            kind=entry.choice("kind", EXTERNAL_KINDS),
            says=entry.text("says"),
            # null is an answer here, a line that is not there is none
            agrees=entry.take("agrees", fields.true_or_false, required="agrees" not in entry.data),
            seen=entry.take("seen", fields.day),
        )
        entry.done()
        if made.date > made.seen[: len(made.date)]:
            raise entry.error(f'"seen": {made.seen} is before "date", {made.date}', "seen")
        if (made.url, made.kind) in [(other.url, other.kind) for other in found]:
            raise entry.error(f'"url": this {made.kind} stands twice', "url")
        found.append(made)
    return tuple(found)


def _read(path: Path) -> Fields:
    from catalog.reader import read_yaml_with_lines  # here: what the cache holds needs no YAML parser

    return Fields(*read_yaml_with_lines(path))


def _formula(entry: Fields) -> Formula:
    formula = Formula(
        entry.text("name"), entry.text("formula"), entry.take("note", fields.one_line, required=False) or ""
    )
    entry.done()
    return formula
