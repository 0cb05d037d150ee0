"""Teachers of a distillation, each with its tokenizer, and what they say of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.modeling.core import shared_vocabulary
from methods.modeling.rollouts import prompt_tokens
from methods.slots.columns import ByPrompt
from methods.slots.term import FIRST, IDS, PAIR, Term
from methods.teachers.readings import PLACE
from methods.teachers.remembered import RememberedStates
from methods.teachers.store import TeacherStore
from methods.teachers.top_k import TopK


@dataclass(frozen=True)
class Teacher:
    """A model or a store of what it says, and its tokenizer: the student's where none is given.

    `states`: what the model said of rows of the student's ids before, looked up instead of computed. `reads`: a column
    of the training rows whose text this teacher reads in the place of the prompt, before the same completion: the
    prompt and what the student is not shown, a solution or an instruction; in it PLACE stands for a right completion
    that the student wrote to the same prompt. `follows`: the share of the student's weights that it takes over before
    each optimizer step, in [0, 1]: 0 stays what it is, 1 is the student as it stands.
    """

    model: PreTrainedModel | TeacherStore
    tokenizer: PreTrainedTokenizerBase | None = None
    states: RememberedStates | None = None
    reads: str | None = None
    follows: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.follows <= 1:
            raise MethodError(
                f"a teacher takes over a share of the student's weights in [0, 1], not {self.follows}"
            )
        if (self.reads is not None or self.follows) and (self.states is not None or self.kept):
            raise MethodError(
                "what a teacher said before is not what it says of another prompt or with other weights"
            )

    @property
    def kept(self) -> bool:
        """Whether this is a store of what somebody said."""
        return isinstance(self.model, TeacherStore)


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


def as_they_are(teachers: Sequence[Teacher]) -> None:
    """Raises MethodError for teachers that read another prompt or follow the student, where no trainer serves that."""
    if any(one.reads is not None or one.follows for one in teachers):
        raise MethodError(
            "a teacher that reads another prompt, or follows the student, goes with the trainers "
            "privileged-distillation and privileged-policy"
        )


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
    if pair is not None and (pair.reads is not None or pair.follows):
        raise MethodError(
            "a teacher with a tokenisation of its own reads the student's prompts, and follows nobody"
        )
    if pair is not None and pair.kept:
        raise MethodError("a teacher store holds one tokenisation: a term about two needs the teacher itself")
    read_ids = IDS in asked or (FIRST in asked and not first_is_paired)
    read_ids = read_ids or (along and not asked & {IDS, PAIR, FIRST})
    read_pair = PAIR in asked or (FIRST in asked and first_is_paired)
    return Readers(same, pair, read_ids, read_pair, first_is_paired)


class OtherPrompts:
    """What a teacher reads in the place of each prompt: the text of a column of the training rows, as ids.

    Rows of one prompt must agree on it. Raises MethodError for a column that is missing, a text of no token, and one
    that leaves the teacher no room for a completion of `longest` tokens; of a PLACE's text when it is read.
    """

    def __init__(self, column: str, teacher: PreTrainedModel, tokenizer: Any, longest: int):
        self._texts, self._tokenizer = ByPrompt(column), tokenizer
        positions = getattr(teacher.config.get_text_config(), "max_position_embeddings", None)
        self._room = None if positions is None else positions - longest
        self._ids: dict[str, list[int]] = {}
        self.siblings = False  # whether a text has a place for one

    def prepare(self, trainer: Any) -> None:
        """Reads the column of the trainer's rows."""
        self._texts.prepare(trainer)
        whose = f'a row has in "{self._texts.column}"'
        for text in self._texts.values():
            if not isinstance(text, str):
                raise MethodError(f"{whose} {text!r}, and a teacher reads text")
            self.siblings |= PLACE in text
            self._ids[text] = ids = self._encoded(text, "", whose)
            if not ids:
                raise MethodError(f"{whose} a text of no token: its teacher would read nothing")

    def batch(
        self, batch: Mapping[str, Tensor], siblings: Sequence[str | None] | None = None
    ) -> dict[str, Tensor]:
        """The batch with other prompts, right-padded: the same labels in the same order behind them.

        `siblings`: of each row the text in the place of PLACE; None: the row's own prompt stays.
        """
        befores, rows = [], []
        for number, (row, mask, label) in enumerate(
            zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
        ):
            keep = mask.bool()
            row, label = row[keep], label[keep]
            begin = int((label != -100).long().argmax()) if (label != -100).any() else len(row)
            prompt = row[:begin].tolist()
            ids = self._read(tuple(prompt), None if siblings is None else siblings[number])
            befores.append(row.new_tensor(prompt if ids is None else ids))
            rows.append((row[begin:], label[begin:]))
        return {
            "input_ids": pad_sequence(
                [torch.cat([before, row]) for before, (row, _) in zip(befores, rows, strict=True)],
                batch_first=True,
            ),
            "attention_mask": pad_sequence(
                [
                    row.new_ones(len(before) + len(row))
                    for before, (row, _) in zip(befores, rows, strict=True)
                ],
                batch_first=True,
            ),
            "labels": pad_sequence(
                [
                    torch.cat([torch.full_like(before, -100), label])
                    for before, (_, label) in zip(befores, rows, strict=True)
                ],
                batch_first=True,
                padding_value=-100,
            ),
        }

    def _read(self, prompt: tuple[int, ...], sibling: str | None) -> list[int] | None:
        """What the teacher reads for a prompt; None: the prompt, as there is no sibling to be read."""
        text = self._texts.get(prompt)
        if PLACE not in text:
            return self._ids[text]
        if sibling is None:
            return None
        return self._encoded(text, sibling, "with a sibling there are")

    def _encoded(self, text: str, sibling: str, whose: str) -> list[int]:
        (ids,) = prompt_tokens(self._tokenizer, [text.replace(PLACE, sibling)])
        if self._room is not None and len(ids) > self._room:
            said = f"{len(ids)} tokens, and its teacher has room for {self._room} before a completion"
            raise MethodError(f"{whose} {said}")
        return ids


def follow(teacher: PreTrainedModel, student: PreTrainedModel, share: float) -> None:
    """The teacher's weights move to the student's by that share of the way, both whole and of one architecture.

    Raises MethodError for weights of other names or shapes, and for sharded ones.
    """
    theirs = dict(student.named_parameters())
    with torch.no_grad():
        for name, weight in teacher.named_parameters():
            other = theirs.get(name)
            if other is None or other.shape != weight.shape or isinstance(other, DTensor):
                raise MethodError(
                    f"a teacher that follows the student has its weights, whole on each process: {name} differs"
                )
            weight.lerp_(other.to(weight), share)


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
