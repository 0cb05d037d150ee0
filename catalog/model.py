"""What a catalog is made of: frozen records and the closed vocabularies of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from catalog.errors import CatalogError, nearest

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
OWES = ("authors", "basis", "claims", "method")  # what a valid record may still lack, if it says so
# What people who are not us have written about a paper's results.
EXTERNAL_KINDS = ("independent run", "author's statement", "erratum", "challenge logbook", "issue")
ALLOWS_TRAINING = ("yes", "with-naming", "no", "unclear")
SCOPES = (
    "llm",
    "beyond-llm",
    "survey",
)  # what a paper is about; surveys and papers beyond language models stand apart


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
class External:
    """What somebody else found about a paper: where it stands, what it says in our words, whether it agrees.

    `agrees` is about the paper's headline: True where it supports it, False where it speaks against it, None where it
    does neither. `date` is when it was written (a month or a day), `seen` the day on which one of us read it.
    """

    url: str
    date: str
    kind: str
    says: str
    agrees: bool | None
    seen: str

    @property
    def stance(self) -> str:
        """`agrees` in words."""
        if self.agrees is None:
            return "neither for nor against"
        return "for the headline" if self.agrees else "against the headline"


@dataclass(frozen=True)
class Paper:
    """One paper; `taxonomy[axis][value]` is the confidence with which the value was given.

    `distils` is False where no knowledge passes from a teacher (or the model itself) into a student: the list names
    the paper, its pieces would not be a distillation method. `sources` are where the record's facts were seen;
    `corrections` say where it departs from the list it was taken from; `owes` is what it still lacks.
    `external` is what others found when they ran it or looked closely; it decides no verdict of ours.
    `method` is the id of a recipe, methods/recipes/<id>.yaml.
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
    external: tuple[External, ...]
    owes: tuple[str, ...]

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
