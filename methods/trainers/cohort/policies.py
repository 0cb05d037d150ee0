"""The policy trainers of an arm's seeds as one: their rollouts, what models think of these, and updates together.

What a trainer makes of its completions stays its own: rewards, advantages, buffered generations, the loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.modeling.core import core_model, token_states
from methods.modeling.rollouts import Rollouts
from methods.trainers.cohort.batches import Windows
from methods.trainers.cohort.passes import Where
from methods.trainers.cohort.rollouts import Meeting, Request, stacked_rollouts
from methods.trainers.cohort.stack import StackedModel, cannot_join, cannot_stack
from methods.trainers.cohort.teachers import same_weights
from methods.trainers.cohort.together import Together, unlike
from methods.trainers.optimisation import PolicyOptimiser
from methods.trainers.policy import PolicyDistiller


@dataclass(frozen=True)
class Reading:
    """What a member asks of `token_states`: what a model thinks of a batch."""

    model: Any
    batch: Mapping[str, Tensor]


class PolicyCohort(Together):
    """Trains S policies together; each ends with what it would have learnt alone, up to rounding.

    A member is a `PolicyOptimiser` or `PolicyDistiller` that has not been trained. It keeps its prompts and their
    order, its rollouts, rewards, advantages and terms, its random numbers, its clip and its counts of tokens; what they
    share is the learning rate's schedule and the optimizer's step. `states`: torch's random numbers from where each
    would have begun. Raises MethodError for members that cannot be trained together (`unfit_policies`).
    """

    def __init__(self, members: Sequence[Any], states: Sequence[Tensor] | None = None):
        why = unfit_policies(members)
        if why is not None:
            raise MethodError(f"these trainings cannot be one: {why}")
        super().__init__(members, states)
        self._meeting = Meeting(self._serve)
        self._stacks: dict[tuple[int, ...], tuple[list[Any], StackedModel | None]] = {}
        self._followers = {
            id(member.teacher_model(number))
            for member in members
            if isinstance(member, PolicyOptimiser)
            for number, one in enumerate(member.models.who.same)
            if one.follows
        }
        for place, member in enumerate(members):
            member.rollout = partial(self._ask_rollouts, place)
            member.token_states = partial(self._ask_states, place)

    # The loop.

    def get_train_dataloader(self) -> Any:
        return Windows(self.members, self.args.max_steps, self._as_member, lazily=True)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._stack.train()
        batches = next(epoch_iterator)
        places = range(len(self.members))
        return [self._meeting.hold([partial(self._prepare, place, batches[place]) for place in places])], None

    def _prepare(self, place: int, rows: Any) -> Any:
        """What a member's own loop would hand to its loss."""
        with self._as_member(place) as member:
            member.state = self.state
            member.current_gradient_accumulation_steps = 1
            member.model.train()
            if isinstance(member, PolicyOptimiser):
                member.models.begin_step()
            inputs = member._prepare_inputs(rows)
            member._step += 1  # as GRPO's `training_step` does
        return inputs

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise MethodError("a cohort makes no logits to return")
        where = Where([member.micro_batch(own) for member, own in zip(self.members, inputs, strict=True)])
        taken = where.split(where.states(self._stack)[0])
        losses = []
        for place, (core, hidden, own) in enumerate(zip(self.cores, taken, inputs, strict=True)):
            with self._as_member(place) as member:
                losses.append(member.micro_batch_loss(core, hidden, own))
        return torch.stack(losses).sum()

    # What members ask for. Others prepare theirs while one waits: random numbers are each one's own.

    def _ask_rollouts(
        self, place: int, model: Any, prompts: list[list[int]], *, generator: Any = None, **settings: Any
    ) -> Rollouts:
        """What stands in for `rollout` at a member."""
        state = torch.get_rng_state()
        draws = torch.Generator().set_state(state) if generator is None else generator
        made: Rollouts = self._meeting.ask(place, Request(prompts, draws, settings))
        torch.set_rng_state(draws.get_state() if generator is None else state)
        return made

    def _ask_states(self, place: int, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
        """What stands in for `token_states` at a member."""
        state = torch.get_rng_state()
        states: Tensor = self._meeting.ask(place, Reading(model, batch))
        torch.set_rng_state(state)
        return states

    def _serve(self, requests: Mapping[int, Any]) -> dict[int, Any]:
        made: dict[int, Any] = {}
        for kind, answer in ((Request, self._roll_out), (Reading, self._read)):
            alike: dict[int, Any] = {p: asked for p, asked in requests.items() if isinstance(asked, kind)}
            if alike:
                made |= answer(alike)
        return made

    def _roll_out(self, requests: Mapping[int, Request]) -> dict[int, Rollouts]:
        given = {place: request.settings.get("teacher") for place, request in requests.items()}
        settings, places = dict(next(iter(requests.values())).settings), None
        if settings.pop("teacher", None) is not None and settings["teacher_mix"]:
            settings["teacher"] = stacked = self._stack_of(list(map(core_model, given.values())))
            if stacked is None:
                raise MethodError("these teachers cannot write in a cohort")
            numbers = range(len(requests)) if stacked.size > 1 else [0] * len(requests)
            places = dict(zip(requests, numbers, strict=True))
        return stacked_rollouts(self._stack, requests, teacher_places=places, **settings)

    @torch.no_grad()
    def _read(self, requests: Mapping[int, Reading]) -> dict[int, Tensor]:
        models = [core_model(request.model) for request in requests.values()]
        stacked = self._stack_of(models)
        if stacked is None:
            found = [token_states(r.model, r.batch) for r in requests.values()]
        else:
            where = Where([request.batch for request in requests.values()])
            found = where.split(where.states(stacked)[0])
        return dict(zip(requests, found, strict=True))

    def _stack_of(self, models: list[Any]) -> StackedModel | None:
        """The students, or models that do not learn, as one: a single one where they are equal; None if they cannot."""
        if models == self.cores:
            return self._stack
        key = tuple(map(id, models))
        if key not in self._stacks:
            stacked = None
            if not set(models) & set(self.cores) and cannot_stack(models) is None:
                follows = bool(set(map(id, models)) & self._followers)
                equal = not follows and all(same_weights(models[0], model) for model in models[1:])
                stacked = StackedModel(models[:1] if equal else models).requires_grad_(False).eval()
                if follows:
                    stacked.seat(models)  # what they take over reaches the stack
            self._stacks[key] = models, stacked
        return self._stacks[key][1]


def unfit_policies(members: Sequence[Any]) -> str | None:
    """Why these trainings cannot be one, in a few words; None where they can."""
    if not members:
        return "no training is given"
    if len({type(member) for member in members}) > 1:
        return "their trainers differ"
    for member in members:
        if not isinstance(member, (PolicyOptimiser, PolicyDistiller)):
            return f"a {type(member).__name__} is no policy trainer"
        if getattr(member, "writer", None) is not None:
            return "an environment writes its completions"
        why = cannot_join(member)
        if why is not None:
            return why
    asked = [
        (member.temperature, member.args.max_completion_length, member.readable, tuple(member.stop_ids))
        for member in members
    ]
    if any(other != asked[0] for other in asked):
        return "they sample in different ways"
    why = unlike(members) or cannot_stack([core_model(member.model) for member in members])
    if why is None and members[0].args.teacher_mix:
        why = cannot_stack([member.teacher_model() for member in members])
        why = None if why is None else f"their teachers write along, and {why}"
    return why
