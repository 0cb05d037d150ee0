"""Teachers of a distillation, each with its tokenizer, and what they say of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.modeling.core import shared_vocabulary
from methods.slots.term import FIRST, IDS, PAIR, Term
from methods.teachers.remembered import RememberedStates
from methods.teachers.store import TeacherStore
from methods.teachers.top_k import TopK


@dataclass(frozen=True)
class Teacher:
    """A model or a store of what it says, and its tokenizer: the student's where none is given.

    `states`: what the model said of rows of the student's ids before, looked up instead of computed.
    """

    model: PreTrainedModel | TeacherStore
    tokenizer: PreTrainedTokenizerBase | None = None
    states: RememberedStates | None = None


Teachers = PreTrainedModel | TeacherStore | Teacher


@dataclass
class Said:
    """What the teachers say of a batch: kept between the two passes of a step that looks at gradients first."""

    rows: tuple[tuple[Tensor, Head] | TopK, ...] = ()  # of the student's own ids
    pair: Tensor | None = None  # hidden states of the teacher with its own tokenisation
    blocks: dict[int, Tensor] = field(default_factory=dict)  # outputs of the first teacher's blocks
    tokens: Tensor | int = 0  # that models have read for it


@dataclass(frozen=True)
class Readers:
    """Who of the teachers reads what."""

    same: tuple[Teacher, ...] = ()  # those that can read the student's own ids
    pair: Teacher | None = None  # the one that reads its own tokenisation of the text
    read_ids: bool = False  # whether the student's ids are read
    read_pair: bool = False  # whether a term is about two tokenisations
    first_is_paired: bool = False  # the first teacher reads its own tokenisation


def as_teachers(given: Teachers | Sequence[Teachers] | None) -> list[Teacher]:
    """One or several teachers, or none, as a list."""
    some: list[Any] = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    return [one if isinstance(one, Teacher) else Teacher(one) for one in some]


def readers(
    teachers: Sequence[Teacher], terms: Sequence[Term], student: Any, tokenizer: Any, *, along: bool = False
) -> Readers:
    """Who reads what, as the terms ask for it; every teacher's tokenizer is held against the student's.

    `along`: those of the student's tokens read its ids even where no term asks.
    Raises MethodError where a term needs a teacher that is not there, or one of the student's tokens where all have
    others, or where one has other tokens and the terms are about the student's.
    """
    asked = {term.reads for term in terms}
    if not teachers:
        if asked & {IDS, PAIR, FIRST}:
            names = ", ".join(type(t).__name__ for t in terms if t.reads in (IDS, PAIR, FIRST))
            raise MethodError(f"no teacher is given, and these terms need one: {names}")
        return Readers()
    clashes = [_clash(teacher, student, tokenizer) for teacher in teachers]
    others = [teacher for teacher, clash in zip(teachers, clashes, strict=True) if clash is not None]
    same = tuple(teacher for teacher, clash in zip(teachers, clashes, strict=True) if clash is None)
    first_is_paired = clashes[0] is not None
    by_pairs = PAIR in asked or (first_is_paired and IDS not in asked)
    if others and (not by_pairs or (IDS in asked and not same)):
        raise next(clash for clash in clashes if clash is not None)
    if len(others) > 1:
        raise MethodError(
            f"{len(others)} teachers have tokenizers of their own: one at a time can be aligned"
        )
    pair = None if not by_pairs else others[0] if others else teachers[0]
    if pair is not None and isinstance(pair.model, TeacherStore):
        raise MethodError("a teacher store holds one tokenisation: a term about two needs the teacher itself")
    read_ids = IDS in asked or (FIRST in asked and not first_is_paired)
    read_ids = read_ids or (along and not asked & {IDS, PAIR, FIRST})
    read_pair = PAIR in asked or (FIRST in asked and first_is_paired)
    return Readers(same, pair, read_ids, read_pair, first_is_paired)


def _clash(teacher: Teacher, student: Any, tokenizer: Any) -> MethodError | None:
    """Why a teacher cannot read the student's ids."""
    try:
        if isinstance(teacher.model, TeacherStore):
            teacher.model.check_tokenizer(tokenizer)
        else:
            shared_vocabulary(student, teacher.model, tokenizer, teacher.tokenizer)
    except MethodError as error:
        return error
    return None
