"""Policy gradients of several seeds: each trains in a loop of its own, and what they sample is sampled for all at once.

Sampling is most of such a step, token by token for a few rows. Several seeds' rows go through it together in hardly
more time than those of one; scores, advantages, the gradient and its step stay with each trainer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from methods.errors import MethodError
from methods.modeling.core import core_model
from methods.modeling.rollouts import Rollouts
from methods.trainers.cohort.rollouts import Meeting, Request, stacked_rollouts
from methods.trainers.cohort.stack import StackedModel, cannot_join, cannot_stack
from methods.trainers.optimisation import PolicyOptimiser


class PolicyCohort:
    """Trains S members side by side; each ends with what it would have learnt alone, up to rounding.

    A member is a `PolicyOptimiser` that has not been trained. The members take turns, one step each: one that wants
    completions waits until all others do, or have ended. `states`: torch's random numbers from where each would have
    begun. Raises MethodError for members that cannot be trained together (`unfit_policies`).
    """

    def __init__(self, members: Sequence[PolicyOptimiser], states: Sequence[Tensor] | None = None):
        why = unfit_policies(members)
        if why is not None:
            raise MethodError(f"these trainings cannot be one: {why}")
        self.members = tuple(members)
        self._states = list(states) if states is not None else [torch.get_rng_state() for _ in members]
        self._meeting = Meeting(self._serve)
        self._stack: Any = None
        for place, member in enumerate(members):
            member.rollout = partial(self._ask, place)

    def add_callback_of(self, place: int, callback: TrainerCallback) -> None:
        """A callback for one member."""
        self.members[place].add_callback(callback)

    def train(self) -> None:
        """Trains all; what one of them raises is raised, when all have ended."""
        cores: list[Any] = [core_model(m.accelerator.unwrap_model(m.model)) for m in self.members]
        self._stack = StackedModel(cores)
        self._stack.seat(cores)  # members' weights are views of it, so that it samples with those of now
        try:
            self._meeting.hold([partial(self._train, place) for place in range(len(cores))])
        finally:
            for core in cores:
                for parameter in core.parameters():
                    parameter.data, parameter.grad = parameter.data.clone(), None

    def _train(self, place: int) -> None:
        torch.set_rng_state(self._states[place])
        self.members[place].train()

    def _ask(
        self, place: int, model: Any, prompts: list[list[int]], *, generator: Any, **settings: Any
    ) -> Rollouts:
        """What stands in for `rollout` at a member. Others train while it waits: random numbers are its own."""
        state = torch.get_rng_state()
        made: Rollouts = self._meeting.ask(place, Request(prompts, generator, settings))
        torch.set_rng_state(state)
        return made

    def _serve(self, requests: Mapping[int, Request]) -> dict[int, Rollouts]:
        settings = dict(next(iter(requests.values())).settings)
        return stacked_rollouts(self._stack, requests, **settings)


def unfit_policies(members: Sequence[PolicyOptimiser]) -> str | None:
    """Why these trainings cannot be side by side, in a few words; None where they can."""
    if not members:
        return "no training is given"
    for member in members:
        if not isinstance(member, PolicyOptimiser):
            return f"a {type(member).__name__} is no policy trainer"
        if member.writer is not None:
            return "an environment writes its completions"
        if member.args.teacher_mix:
            return "a teacher samples along"
        why = cannot_join(member)
        if why is not None:
            return why
    asked = [
        (member.temperature, member.args.max_completion_length, member._readable, tuple(member.stop_ids))
        for member in members
    ]
    if any(other != asked[0] for other in asked):
        return "they sample in different ways"
    return cannot_stack([core_model(member.model) for member in members])
