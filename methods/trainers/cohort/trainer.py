"""The trainers of terms of an arm's seeds as one: their students' passes, teachers and rollouts together."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.modeling.core import attached
from methods.modeling.rollouts import Rollouts
from methods.trainers.base import set_apart
from methods.trainers.cohort.passes import Where
from methods.trainers.cohort.rollouts import Meeting, Request, stacked_rollouts
from methods.trainers.cohort.stack import cannot_join, cannot_stack
from methods.trainers.cohort.teachers import CohortTeachers
from methods.trainers.cohort.together import Together, unlike
from methods.trainers.distiller import Distiller
from methods.trainers.models import SAID

LEARNING = "members_terms"


class Cohort(Together):
    """Trains S members together; each ends with what it would have learnt alone, up to rounding.

    A member is a `Distiller` that has not been trained. It keeps the batches and their order, its sampler and rollouts,
    its terms with their counts and schedules, its random numbers, the clip of its gradient and its counts of tokens;
    what they share is the learning rate's schedule and the optimizer's step, which is elementwise.
    Raises MethodError for members that cannot be trained together (`unfit`).
    """

    def __init__(self, members: Sequence[Distiller], states: Sequence[Tensor] | None = None):
        why = unfit(members)
        if why is not None:
            raise MethodError(f"these trainings cannot be one: {why}")
        super().__init__(members, states)
        self._meeting = Meeting(self._serve)
        self._windows: list[Any] = []
        self.teachers = CohortTeachers(members)
        for place, member in enumerate(members):
            if member.sampling is not None:
                member.sampling.rollout = self._asks(place)

    def _own_parameters(self, place: int) -> list[Any]:
        return list(self.members[place]._learning.parameters())

    # The loop.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        modules: Any = nn.ModuleList(member._learning for member in self.members)
        with attached(self._stack, **({LEARNING: modules} if any(len(own) for own in modules) else {})):
            return super().train(*args, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        terms = [term for member in self.members for term in member._learning]
        set_apart(optimizer, terms, self.args.learning_rate)
        return optimizer

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._stack.train()
        batches = next(epoch_iterator)
        for member in self.members:
            member.state = self.state

        def window(place: int) -> Any:
            return self.members[place].get_batch_samples(iter([batches[place]]), 1, device)

        places = range(len(self.members))
        if self.members[0].sampling is None:
            made = [window(place) for place in places]
        else:
            made = self._meeting.hold([functools.partial(window, place) for place in places])
        self._windows = [tokens for _, tokens in made]
        return [[own[0] for own, _ in made]], None

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise MethodError("a cohort makes no logits to return")
        where = Where(inputs)
        hidden, outputs = where.states(self._stack, self.members[0].models.student_blocks)
        taken = where.split(hidden)
        blocks = {block: where.split(states) for block, states in outputs.items()}
        losses = []
        for place, (batch, said) in enumerate(zip(inputs, self.teachers.said(inputs, where), strict=True)):
            with self._as_member(place) as member:
                window, states = (
                    self._windows[place],
                    (taken[place], {b: s[place] for b, s in blocks.items()}),
                )
                rows = member.models.rows(self.cores[place], {**batch, SAID: said}, states)
                total = member.sum_of_terms(rows, member.factors_of(batch, window))
                losses.append(member.share_of_window(total, batch, window))
        return torch.stack(losses).sum()

    # Rollouts.

    def _asks(self, place: int) -> Any:
        """What stands in for `rollout` at a member."""

        def rollout(
            model: Any, prompts: list[list[int]], *, generator: Any = None, **settings: Any
        ) -> Rollouts:
            return self._meeting.ask(place, Request(prompts, generator, settings))

        return rollout

    def _serve(self, requests: Mapping[int, Request]) -> dict[int, Rollouts]:
        """Rollouts for those who ask for the same, apart from their prompts, together."""
        left = dict(requests)
        made: dict[int, Rollouts] = {}
        while left:
            settings = dict(next(iter(left.values())).settings)
            teacher = settings.pop("teacher", None)
            alike = {
                place: request
                for place, request in left.items()
                if {n: v for n, v in request.settings.items() if n != "teacher"} == settings
                and (request.settings.get("teacher") is None) == (teacher is None)
            }
            places = None
            if teacher is not None:
                if self.teachers.stacks is None:
                    raise MethodError("these teachers cannot write in a cohort")
                teacher, places = self.teachers.stacks[0], {p: self.teachers.place(0, p) for p in alike}
            made |= stacked_rollouts(self._stack, alike, teacher=teacher, teacher_places=places, **settings)
            left = {place: request for place, request in left.items() if place not in alike}
        return made


def unfit(members: Sequence[Any]) -> str | None:
    """Why these trainers cannot be trained as one, in a few words; None where they can."""
    for member in members:
        if type(member) is not Distiller:
            return f"{type(member).__name__} is no Distiller"
        why = cannot_join(member)
        if why is not None:
            return why
        if member.is_fsdp_enabled or member.is_deepspeed_enabled:
            return "its weights are sharded"
    why = cannot_stack([member.model for member in members])
    if why is not None:
        return why
    why = unlike(members)
    if why is not None:
        return why
    kinds = [
        ([type(term) for term in member.terms], member.models.student_blocks, member.models.teacher_blocks)
        for member in members
    ]
    if any(kind != kinds[0] for kind in kinds):
        return "their terms differ"
    if len({member.sampling is None for member in members}) > 1:
        return "some of them sample"
    if len({tuple((one.reads, one.follows) for one in member.models.who.same) for member in members}) > 1:
        return "their teachers read or follow in other ways"
    return None
