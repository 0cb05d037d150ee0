"""Student and teachers as a trainer holds them, and what they say of a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import head_of
from methods.modeling.checks import check_ids
from methods.modeling.core import core_model, freeze, hidden_states
from methods.slots.features import recorded_blocks
from methods.slots.rows import Rows, Side
from methods.slots.term import Term
from methods.teachers.store import TeacherStore
from methods.tokenizers.alignment import shared_tokens
from methods.tokenizers.text_pairs import eos_of
from methods.trainers.teachers import OtherPrompts, Readers, Said, Teacher, follow

ROWS = 10_000  # looked at together
States = tuple[
    Tensor, Mapping[int, Tensor]
]  # last hidden states (N, H), and the outputs (N, H) of some blocks
SAID = "said_by_teachers"  # the key of a batch whose teachers were asked already


class Models:
    """The models of a `Distiller`; teachers are frozen and never resized.

    `tokenizers` are the student's and that of the teacher with its own tokenisation, if there is one.
    """

    def __init__(self, trainer: Any, given: Sequence[Teacher], who: Readers, tokenizers: Sequence[Any]):
        self.trainer, self.who, self._tokenizers = trainer, who, tuple(tokenizers)
        prepared = {id(one): self._prepared(one) for one in given}
        self.teachers = [prepared[id(one)] for one in given]
        self.same = [prepared[id(one)] for one in who.same]  # those that can read the student's ids
        self.pair = None if who.pair is None else prepared[id(who.pair)]
        self.prompts: list[OtherPrompts | None] = [  # of those that read the student's ids
            None if one.reads is None else self._other_prompts(one, prepared[id(one)]) for one in who.same
        ]
        self.student_blocks: list[int] = []
        self.teacher_blocks: list[int] = []
        if self.pair is not None:
            device = trainer.accelerator.device
            sizes = torch.tensor([size for _, size in self.pair_vocabularies()], device=device)
            ids = torch.tensor(shared_tokens(*self._tokenizers), device=device)
            self._shared = ids[:, (ids < sizes.unsqueeze(1)).all(0)]
            self._eos = tuple(eos_of(tokenizer) for tokenizer in self._tokenizers)

    def _prepared(self, teacher: Teacher) -> Any:
        if isinstance(teacher.model, TeacherStore):
            return teacher.model
        return self.trainer.accelerator.prepare_model(freeze(teacher.model), evaluation_mode=True)

    def _other_prompts(self, teacher: Teacher, prepared: Any) -> OtherPrompts:
        tokenizer, longest = self.trainer.processing_class, self.trainer.max_completion_length
        return OtherPrompts(str(teacher.reads), core_model(self._unwrapped(prepared)), tokenizer, longest)

    def begin_step(self) -> None:
        """Before each optimizer step: teachers that follow the student take over their share of its weights."""
        for given, prepared in zip(self.who.same, self.same, strict=True):
            if given.follows:
                follow(core_model(self._unwrapped(prepared)), self.student(), given.follows)

    def followers(self) -> dict[str, Tensor]:
        """The weights of the teachers that follow the student, by number and name."""
        return {
            f"teacher {number}.{name}": weight
            for number, (given, prepared) in enumerate(zip(self.who.same, self.same, strict=True))
            if given.follows
            for name, weight in core_model(self._unwrapped(prepared)).named_parameters()
        }

    def _unwrapped(self, model: Any) -> Any:
        return self.trainer.accelerator.unwrap_model(model)

    def record(self, terms: Sequence[Term]) -> None:
        """Keep the outputs of the blocks that these terms ask for."""
        self.student_blocks = sorted({block for term in terms for block in term.student_blocks})
        self.teacher_blocks = sorted({block for term in terms for block in term.teacher_blocks})

    def check_rows(self, rows: Any) -> None:
        """Raises MethodError where tokenised rows hold an id that the student or a teacher of its tokens lacks."""
        if not isinstance(rows, Dataset) or "input_ids" not in rows.column_names:
            return
        same = self.same if self.who.read_ids else []
        columns = [("input_ids", [self.student(), *same], self.trainer.processing_class)]
        if self.pair is not None and "teacher_input_ids" in rows.column_names:
            columns.append(("teacher_input_ids", [self.pair], self._tokenizers[1]))
        for column, models, tokenizer in columns:
            parts = rows.select_columns([column]).with_format("arrow").iter(ROWS)
            highest = max((_highest(part.column(0)) for part in parts), default=0)
            cores = [core_model(self._unwrapped(m)) for m in models if not isinstance(m, TeacherStore)]
            check_ids(highest, cores, tokenizer)

    # What terms and samplers may ask.

    def student(self) -> Any:
        """The student's causal language model."""
        return core_model(self._unwrapped(self.trainer.model))

    def first_teacher(self) -> Any:
        """The first teacher's model. Raises MethodError for a store of what it says."""
        if not self.teachers or isinstance(self.teachers[0], TeacherStore):
            raise MethodError("this needs the first teacher itself, not a store of what it says")
        if any(self.prompts):
            raise MethodError("this needs a first teacher that reads what the student reads")
        return core_model(self._unwrapped(self.teachers[0]))

    def paired_teacher(self) -> Any:
        """The model of the teacher that reads its own tokenisation."""
        if self.pair is None:
            raise MethodError("no teacher reads a tokenisation of its own")
        return core_model(self._unwrapped(self.pair))

    def pair_vocabularies(self) -> list[tuple[Any, int]]:
        """Tokenizer and size of the LM head, of the student and of the teacher with its own tokenisation."""
        cores = self.student(), self.paired_teacher()
        return [(t, len(head_of(core).weight)) for t, core in zip(self._tokenizers, cores, strict=True)]

    def shared_size(self, index: int = 0) -> int:
        """How many leading ids the student shares with a teacher that reads the student's."""
        teacher = self.same[index]
        size = len(head_of(self.student()).weight)
        if isinstance(teacher, TeacherStore):
            return min(size, teacher.vocabulary)
        return min(size, len(head_of(core_model(self._unwrapped(teacher))).weight))

    def student_states(self, core: Any, batch: Mapping[str, Any]) -> States:
        """Last hidden states (N, H) at the completion tokens, and the outputs (N, H) of the blocks asked for."""
        return _states(core, batch, "", self.student_blocks)

    def read(self, batch: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """A batch as each teacher of the student's ids reads it: the same completions, some behind other prompts."""
        return [batch if other is None else other.batch(batch) for other in self.prompts]

    def say(self, read: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
        """What as many teachers of the student's ids say at the completion tokens of what each has `read`."""
        rows = []
        for given, prepared, batch in zip(self.who.same, self.same, read, strict=False):
            if isinstance(prepared, TeacherStore):
                rows.append(prepared.rows(batch))
                continue
            teacher = self._unwrapped(prepared)
            with torch.no_grad():
                # Somebody who records a teacher's blocks needs its forward pass.
                known = None if self.teacher_blocks else given.states
                if known is None:
                    hidden, _ = _states(teacher, batch)
                else:
                    hidden = known.of(batch, partial(_last_states, teacher))
            rows.append((hidden, head_of(teacher)))
        return tuple(rows)

    def said(self, batch: Mapping[str, Any]) -> Said:
        """What all teachers that a term reads say of a batch."""
        said = Said()
        own = not self.who.first_is_paired and self.teacher_blocks
        with recorded_blocks(self.first_teacher(), self.teacher_blocks) if own else _nothing() as states:
            if self.who.read_ids:
                read = self.read(batch)
                said.rows = self.say(read)
                for teacher, its in zip(self.same, read, strict=True):
                    if not isinstance(teacher, TeacherStore):
                        said.tokens = said.tokens + its["attention_mask"].sum()
                where = batch["labels"][:, 1:] != -100
                said.blocks = {block: state[:, :-1][where] for block, state in states.items()}
        if self.who.read_pair:
            asked = self.teacher_blocks if self.who.first_is_paired else []
            with torch.no_grad():
                said.pair, blocks = _states(self.paired_teacher(), batch, "teacher_", asked)
            said.blocks |= blocks
            said.tokens = said.tokens + batch["teacher_attention_mask"].sum()
        return said

    def rows(self, core: Any, batch: Mapping[str, Any], states: States | None = None) -> Rows:
        """The completion tokens of a batch, as terms see them; counts what the teachers have read for it.

        `states`: what `student_states` would give, for whoever has it already.
        """
        hidden, blocks = self.student_states(core, batch) if states is None else states
        where = batch["labels"][:, 1:] != -100
        labels, said = batch["labels"][:, 1:][where], batch.get(SAID)
        if said is None:
            said = self.said(batch)
        if isinstance(said.tokens, Tensor):
            self.trainer.count_tokens("teacher", said.tokens)
        sequence, source = _sequences(where), batch.get("source")
        return Rows(
            hidden=hidden,
            head=head_of(core),
            teachers=said.rows,
            labels=labels,
            source=torch.zeros_like(sequence) if source is None else source[sequence],
            sequence=sequence,
            position=(where.cumsum(-1) - 1)[where],
            core=core,
            batch=batch,
            blocks=blocks,
            teacher_blocks=said.blocks,
            pair=None if said.pair is None else self._sides(core, hidden, said.pair, batch),
        )

    def _sides(
        self, core: Any, hidden: Tensor, theirs: Tensor, batch: Mapping[str, Any]
    ) -> tuple[Side, Side]:
        counts = batch["chunks"].amax(1) + 1
        offsets = counts.cumsum(0) - counts

        def side(model: Any, hidden: Tensor, which: int) -> Side:
            prefix = ("", "teacher_")[which]
            rows = batch[prefix + "labels"][:, 1:] != -100
            sequence, inside = _sequences(rows), batch[prefix + "chunks"][:, 1:][rows]
            return Side(
                hidden=hidden,
                head=head_of(model),
                labels=batch[prefix + "labels"][:, 1:][rows],
                sequence=sequence,
                chunks=torch.where(inside >= 0, inside + offsets[sequence], -1),
                shared=self._shared[which],
                eos=self._eos[which],
                inputs=batch[prefix + "input_ids"][:, :-1][rows],
                embed=model.get_input_embeddings(),
            )

        return side(core, hidden, 0), side(self.paired_teacher(), theirs, 1)


def _highest(column: Any) -> int:
    """The highest id in a column of lists."""
    return pc.max(pc.list_flatten(column)).as_py() or 0


def _states(
    model: Any, batch: Mapping[str, Any], prefix: str = "", asked: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    where = batch[prefix + "labels"][:, 1:] != -100
    with recorded_blocks(model, asked) if asked else _nothing() as states:
        hidden = hidden_states(model, batch[prefix + "input_ids"], batch[prefix + "attention_mask"])
        return hidden[:, :-1][where], {block: state[:, :-1][where] for block, state in states.items()}


def _last_states(model: Any, batch: Mapping[str, Any]) -> Tensor:
    return _states(model, batch)[0]


def _sequences(rows: Tensor) -> Tensor:
    """The row of the batch of each of the N marked places."""
    return torch.arange(len(rows), device=rows.device).unsqueeze(1).expand_as(rows)[rows]


@contextmanager
def _nothing() -> Iterator[dict[int, Tensor]]:
    yield {}
