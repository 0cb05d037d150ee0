"""The loop of a cohort: one trainer over the stack of its members' students, each member with its own step."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback

from methods.modeling.core import core_model
from methods.trainers.cohort.batches import Windows
from methods.trainers.cohort.stack import StackedModel

# What members share: arguments that say something else for each of them.
OWN = {"seed", "data_seed", "output_dir", "logging_dir", "run_name"}


class Together(Trainer):
    """Trains S members as one: batches, random numbers and the clip are each one's own, the optimizer's step is shared.

    A member is a trainer that has not been trained; after `train` its model holds its weights. A subclass gives
    `get_batch_samples` and `compute_loss` (the sum of the members' losses, so that no gradient reaches another member).
    """

    # Each member divides by its own window.
    loss_is_scaled_for_ga = True

    def __init__(self, members: Sequence[Any], states: Sequence[Tensor] | None = None):
        first = members[0]
        self.cores: list[Any] = [core_model(member.model) for member in members]
        super().__init__(
            StackedModel(self.cores),
            args=copy.copy(first.args),
            train_dataset=first.train_dataset,
            processing_class=first.processing_class,
            data_collator=first.data_collator,
        )
        self.members = tuple(members)
        # Random numbers that a member draws from the global state, from where it would have begun.
        self._states = list(states) if states is not None else [torch.get_rng_state() for _ in members]
        self._callbacks = _OfMembers()
        self.add_callback(self._callbacks)
        self.remove_callback(PrinterCallback)
        self._stack.seat(self.cores)

    @property
    def _stack(self) -> StackedModel:
        return self.accelerator.unwrap_model(self.model)

    # What belongs to one member.

    @contextmanager
    def _as_member(self, place: int) -> Iterator[Any]:
        """Torch's global random numbers are those of a member."""
        torch.set_rng_state(self._states[place])
        yield self.members[place]
        self._states[place] = torch.get_rng_state()

    def add_callback_of(self, place: int, callback: TrainerCallback) -> None:
        """A callback for one member: it sees that member's model and arguments."""
        self._callbacks.told.append((self.members[place], callback))

    def _own_parameters(self, place: int) -> list[Any]:
        """What a member trains beside its student."""
        return []

    # The loop.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().train(*args, **kwargs)
        finally:
            for core in self.cores:
                for parameter in core.parameters():
                    parameter.data, parameter.grad = parameter.data.clone(), None

    def get_train_dataloader(self) -> Any:
        return Windows(self.members, self.args.max_steps, self._as_member)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # members have prepared theirs

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # nobody reads it, and counting the parameters takes as long as an optimizer's step

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Each member's gradient to `max_grad_norm`, what learns in its terms included; the largest norm before."""
        stacked = [p.grad for p in self._stack.tree.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in stacked]
        own = [
            [p.grad for p in self._own_parameters(place) if p.grad is not None]
            for place in range(len(self.members))
        ]
        theirs = [[grad.norm() for grad in grads] for grads in own]
        if any(theirs):
            nothing = torch.zeros((), device=self.accelerator.device)
            norms.append(torch.stack([torch.stack(ns).norm() if ns else nothing for ns in theirs]))
        totals = torch.linalg.vector_norm(torch.stack(norms), dim=0)
        factors = (self.args.max_grad_norm / (totals + 1e-6)).clamp(max=1.0)
        for grad in stacked:
            grad.mul_(factors.view(-1, *[1] * (grad.dim() - 1)))
        for factor, grads in zip(factors, own, strict=True):
            for grad in grads:
                grad.mul_(factor)
        return totals.max()


class _OfMembers(TrainerCallback):
    """Callbacks that are told of one member's training each."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, TrainerCallback]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        told = self.told

        def event(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for member, callback in told:
                getattr(callback, name)(member.args, state, control, **{**kwargs, "model": member.model})

        return event


def unlike(members: Sequence[Any]) -> str | None:
    """Which training argument the members do not share, in a few words; None where they share all but their seeds."""
    shared = [
        {name: value for name, value in member.args.to_dict().items() if name not in OWN}
        for member in members
    ]
    for name in shared[0]:
        if any(other[name] != shared[0][name] for other in shared[1:]):
            return f"their {name} differ"
    return None
