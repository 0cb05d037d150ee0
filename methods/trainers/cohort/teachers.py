"""What the teachers of all members say of their batches, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from methods.losses.fused.linear import Head
from methods.modeling.core import core_model
from methods.teachers.store import TeacherStore
from methods.trainers.cohort.passes import Where
from methods.trainers.cohort.stack import StackedModel, cannot_stack
from methods.trainers.teachers import Said


class CohortTeachers:
    """The teachers that read the students' own ids, member for member.

    Those of all members are computed as one where they are small Llama models of one shape: a single one where they are
    equal, each member's own where they are not, or follow their students: these have their weights in the stack then.
    What a member's teacher remembers of fixed rows is looked up.
    """

    def __init__(self, members: Sequence[Any]):
        self.members = members
        self.stacks: list[StackedModel] | None = None
        who = members[0].models.who
        if not who.read_ids or who.read_pair:
            return
        stacks = []
        for given, *one in zip(who.same, *(member.models.same for member in members), strict=True):
            if any(isinstance(model, TeacherStore) for model in one):
                return
            cores: list[Any] = [core_model(model) for model in one]
            if cannot_stack(cores) is not None:
                return
            equal = not given.follows and all(same_weights(cores[0], core) for core in cores[1:])
            stacks.append(StackedModel(cores[:1] if equal else cores).requires_grad_(False).eval())
            if given.follows:
                stacks[-1].seat(cores)
        self.stacks = stacks

    def place(self, teacher: int, member: int) -> int:
        """Which model of a teacher's stack is a member's."""
        assert self.stacks is not None
        return 0 if self.stacks[teacher].size == 1 else member

    def said(self, batches: Sequence[Mapping[str, Any]], where: Where) -> list[Said]:
        """What each member's teachers say of its batch; counts as if each had been asked alone."""
        if self.stacks is None or self._remembered:
            return [m.models.said(batch) for m, batch in zip(self.members, batches, strict=True)]
        found, asked = [Said() for _ in batches], self.members[0].models.teacher_blocks
        read = [member.models.read(batch) for member, batch in zip(self.members, batches, strict=True)]
        for number, stacked in enumerate(self.stacks):
            theirs = [own[number] for own in read]
            places = Where(theirs) if self.members[0].models.prompts[number] else where
            with torch.no_grad():
                states, blocks = places.states(stacked, asked if number == 0 else ())
            for member, (said, hidden) in enumerate(zip(found, places.split(states), strict=True)):
                said.rows += ((hidden, Head(stacked.head[self.place(number, member)])),)
                said.tokens = said.tokens + theirs[member]["attention_mask"].sum()
            for block, outputs in blocks.items():
                for said, hidden in zip(found, places.split(outputs), strict=True):
                    said.blocks[block] = hidden
        return found

    @property
    def _remembered(self) -> bool:
        """Whether every teacher remembers the rows, so that nobody needs to be asked."""
        models = [member.models for member in self.members]
        return not models[0].teacher_blocks and all(
            teacher.states is not None for own in models for teacher in own.who.same
        )


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models of one class have the same parameters to the last bit."""
    theirs = dict(other.named_parameters())
    return all(torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())
