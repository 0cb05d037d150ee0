"""What the teachers of all members say of their batches, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.losses.fused.linear import Head
from methods.modeling.core import core_model
from methods.teachers.store import TeacherStore
from methods.trainers.cohort.stack import StackedModel, cannot_stack
from methods.trainers.teachers import Said


class CohortTeachers:
    """The teachers that read the students' own ids, member for member.

    Those of all members are computed as one where they are small Llama models of one shape: a single one where they are
    equal, each member's own where they are not. What a member's teacher remembers of fixed rows is looked up.
    """

    def __init__(self, members: Sequence[Any]):
        self.members = members
        self.stacks: list[StackedModel] | None = None
        who = members[0].models.who
        if not who.read_ids or who.read_pair:
            return
        stacks = []
        for one in zip(*(member.models.same for member in members), strict=True):
            if any(isinstance(model, TeacherStore) for model in one):
                return
            cores: list[Any] = [core_model(model) for model in one]
            if cannot_stack(cores) is not None:
                return
            equal = all(same_weights(cores[0], core) for core in cores[1:])
            stacks.append(StackedModel(cores[:1] if equal else cores).requires_grad_(False).eval())
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
        for number, stacked in enumerate(self.stacks):
            states, blocks = _all_states(stacked, where, asked if number == 0 else ())
            for member, (said, hidden) in enumerate(zip(found, where.split(states), strict=True)):
                said.rows += ((hidden, Head(stacked.head[self.place(number, member)])),)
            for block, outputs in blocks.items():
                for said, hidden in zip(found, where.split(outputs), strict=True):
                    said.blocks[block] = hidden
        for said, batch in zip(found, batches, strict=True):
            said.tokens = len(self.stacks) * batch["attention_mask"].sum()
        return found

    @property
    def _remembered(self) -> bool:
        """Whether every teacher remembers the rows, so that nobody needs to be asked."""
        models = [member.models for member in self.members]
        return not models[0].teacher_blocks and all(
            teacher.states is not None for own in models for teacher in own.who.same
        )


@torch.no_grad()
def _all_states(
    stacked: StackedModel, where: Where, blocks: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """A stack's last hidden states (N, H) at all members' completion tokens, and outputs of blocks there."""
    ids = where.ids if stacked.size > 1 else where.ids.view(1, -1, where.ids.shape[-1])
    hidden, outputs = stacked(ids, blocks)
    return where.take(hidden), {block: where.take(states) for block, states in outputs.items()}


class Where:
    """The members' batches as one rectangle (S, B, L) of right-padded ids, and where their completion tokens are."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]):
        rows = max(len(batch["input_ids"]) for batch in batches)
        length = max(batch["input_ids"].shape[1] for batch in batches)
        first = batches[0]["input_ids"]
        self.ids = first.new_zeros(len(batches), rows, length)
        inside = torch.zeros(len(batches), rows, length, dtype=torch.bool, device=first.device)
        for place, batch in enumerate(batches):
            size, width = batch["input_ids"].shape
            self.ids[place, :size, :width] = batch["input_ids"]
            inside[place, :size, : width - 1] = batch["labels"][:, 1:] != -100
        self.places = inside.view(-1).nonzero().squeeze(1)
        self.counts = inside.flatten(1).sum(1).tolist()

    def take(self, states: Tensor) -> Tensor:
        """(S, B, L, H) -> the completion tokens' (N, H), member after member."""
        return states.reshape(-1, states.shape[-1]).index_select(0, self.places)

    def split(self, taken: Tensor) -> list[Tensor]:
        """Each member's (n, H)."""
        return list(taken.split(self.counts))


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two models of one class have the same parameters to the last bit."""
    theirs = dict(other.named_parameters())
    return all(torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())
