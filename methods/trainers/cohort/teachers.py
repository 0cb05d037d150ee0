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

KEPT_NUMBERS = 2**26  # of a teacher's states on rows that come again: 256 MiB in fp32


class CohortTeachers:
    """The teachers that read the students' own ids, member for member.

    Those of all members are computed as one where they are small Llama models of one shape: a single one where they are
    equal, each member's own where they are not. `fixed`: rows come again as they are, so what was said of one is kept.
    """

    def __init__(self, members: Sequence[Any], *, fixed: bool):
        self.members = members
        self.stacks: list[StackedModel] | None = None
        who = members[0].models.who
        if not who.read_ids or who.read_pair:
            return
        stacks = []
        for one in zip(*(member.models.same for member in members), strict=True):
            if any(isinstance(model, TeacherStore) for model in one):
                return
            cores = [core_model(model) for model in one]
            if cannot_stack(cores) is not None:
                return
            equal = all(same_weights(cores[0], core) for core in cores[1:])
            stacks.append(StackedModel(cores[:1] if equal else cores).requires_grad_(False).eval())
        self.stacks = stacks
        self._known: list[dict[bytes, Tensor]] | None = None
        if fixed and not members[0].models.teacher_blocks and len(stacks) == 1:
            self._known = [{} for _ in range(stacks[0].size)]
        self._room = KEPT_NUMBERS

    def place(self, teacher: int, member: int) -> int:
        """Which model of a teacher's stack is a member's."""
        assert self.stacks is not None
        return 0 if self.stacks[teacher].size == 1 else member

    def said(self, batches: Sequence[Mapping[str, Any]], where: Where) -> list[Said]:
        """What each member's teachers say of its batch; counts as if each had been asked alone."""
        if self.stacks is None:
            return [m.models.said(batch) for m, batch in zip(self.members, batches, strict=True)]
        found = [Said() for _ in batches]
        if self._known is not None:
            self._look_up(self._known, found, batches)
        else:
            asked = self.members[0].models.teacher_blocks
            for number, stacked in enumerate(self.stacks):
                states, blocks = _all_states(stacked, where, asked if number == 0 else ())
                for member, (said, hidden) in enumerate(zip(found, where.split(states), strict=True)):
                    said.rows += ((hidden, self._head(number, member)),)
                for block, outputs in blocks.items():
                    for said, hidden in zip(found, where.split(outputs), strict=True):
                        said.blocks[block] = hidden
        for said, batch in zip(found, batches, strict=True):
            said.tokens = len(self.stacks) * batch["attention_mask"].sum()
        return found

    def _head(self, teacher: int, member: int) -> Head:
        assert self.stacks is not None
        return Head(self.stacks[teacher].head[self.place(teacher, member)])

    def _look_up(
        self, known: list[dict[bytes, Tensor]], found: list[Said], batches: Sequence[Mapping[str, Any]]
    ) -> None:
        """Of rows that were seen before, what was said then; the others are asked together."""
        assert self.stacks is not None
        tables = [known[self.place(0, member)] for member in range(len(batches))]
        names = [_names(batch) for batch in batches]
        new = [
            [n for n, name in enumerate(own) if name not in table]
            for own, table in zip(names, tables, strict=True)
        ]
        said = [
            {name: table[name] for name in own if name in table}
            for own, table in zip(names, tables, strict=True)
        ]
        if any(new):
            parts = [
                {name: batch[name][rows] for name in ("input_ids", "labels")}
                for batch, rows in zip(batches, new, strict=True)
            ]
            where = Where(parts)
            states, _ = _all_states(self.stacks[0], where)
            for member, (hidden, part) in enumerate(zip(where.split(states), parts, strict=True)):
                sizes = (part["labels"][:, 1:] != -100).sum(1).tolist()
                for n, row in zip(new[member], hidden.split(sizes), strict=True):
                    name = names[member][n]
                    said[member][name] = row
                    if name not in tables[member] and self._room >= row.numel():
                        tables[member][name] = row.clone()
                        self._room -= row.numel()
        for member, (own, rows) in enumerate(zip(names, said, strict=True)):
            found[member].rows = ((torch.cat([rows[name] for name in own]), self._head(0, member)),)


@torch.no_grad()
def _all_states(
    stacked: StackedModel, where: Where, blocks: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """A stack's last hidden states (N, H) at all members' completion tokens, and outputs of blocks there."""
    ids = where.ids if stacked.size > 1 else where.ids.view(1, -1, where.ids.shape[-1])
    hidden, outputs = stacked(ids, blocks)
    return where.take(hidden), {block: where.take(states) for block, states in outputs.items()}


def _names(batch: Mapping[str, Any]) -> list[bytes]:
    """What tells each row of a batch from others: its ids and where its completion begins."""
    ids, labels = batch["input_ids"].cpu().numpy(), batch["labels"]
    lengths, begins = batch["attention_mask"].sum(1).tolist(), (labels != -100).int().argmax(1).tolist()
    rows = zip(ids, lengths, begins, strict=True)
    return [row[:length].tobytes() + bytes([begin % 256]) for row, length, begin in rows]


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
