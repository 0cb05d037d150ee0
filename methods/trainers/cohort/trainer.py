"""One trainer for the seeds of an arm: TRL's loop over a stack of their students, each with its own step."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PrinterCallback, TrainerCallback

from methods.errors import MethodError
from methods.modeling.core import attached, core_model
from methods.modeling.rollouts import Rollouts
from methods.trainers.base import set_apart
from methods.trainers.cohort.batches import Windows
from methods.trainers.cohort.passes import Where
from methods.trainers.cohort.rollouts import Meeting, Request, stacked_rollouts
from methods.trainers.cohort.stack import StackedModel, cannot_join, cannot_stack
from methods.trainers.cohort.teachers import CohortTeachers
from methods.trainers.distiller import Distiller
from methods.trainers.models import SAID
from methods.trainers.trl_compat import SFTTrainer

LEARNING = "members_terms"
# What members share: arguments that say something else for each of them.
_OWN = {"seed", "data_seed", "output_dir", "logging_dir", "run_name"}


class Cohort(SFTTrainer):
    """Trains S members together; each ends with what it would have learnt alone, up to rounding.

    A member is a `Distiller` that has not been trained. It keeps the batches and their order, its sampler and rollouts,
    its terms with their counts and schedules, its random numbers, the clip of its gradient and its counts of tokens;
    what they share is the learning rate's schedule and the optimizer's step, which is elementwise. The loss is the sum
    of theirs, so that no gradient reaches another member. After `train` each member's model holds its weights.
    Raises MethodError for members that cannot be trained together (`unfit`).
    """

    # Each member divides by its own window.
    loss_is_scaled_for_ga = True  # type: ignore[assignment]

    def __init__(self, members: Sequence[Distiller], states: Sequence[Tensor] | None = None):
        why = unfit(members)
        if why is not None:
            raise MethodError(f"these trainings cannot be one: {why}")
        first: Any = members[0]
        self.cores: list[Any] = [core_model(member.model) for member in members]
        args = copy.copy(first.args)
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        super().__init__(
            StackedModel(self.cores),
            args=args,
            train_dataset=first.train_dataset,
            processing_class=first.processing_class,
            data_collator=first.data_collator,
        )
        self.members = tuple(members)
        # Random numbers that a member draws from the global state, from where it would have begun.
        self._states = list(states) if states is not None else [torch.get_rng_state() for _ in members]
        self._windows: list[Any] = []
        self._callbacks = _OfMembers()
        self.add_callback(self._callbacks)
        self.remove_callback(PrinterCallback)
        self._stack.seat(self.cores)
        self.teachers = CohortTeachers(members)
        self._meeting = Meeting(self._serve)
        for place, member in enumerate(members):
            if member.sampling is not None:
                member.sampling.rollout = self._asks(place)

    @property
    def _stack(self) -> StackedModel:
        return self.accelerator.unwrap_model(self.model)

    # What belongs to one member.

    @contextmanager
    def _as_member(self, place: int) -> Iterator[Distiller]:
        """Torch's global random numbers are those of a member."""
        torch.set_rng_state(self._states[place])
        yield self.members[place]
        self._states[place] = torch.get_rng_state()

    def add_callback_of(self, place: int, callback: TrainerCallback) -> None:
        """A callback for one member: it sees that member's model and arguments."""
        self._callbacks.told.append((self.members[place], callback))

    # TRL's loop.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        modules: Any = nn.ModuleList(member._learning for member in self.members)
        with attached(self._stack, **({LEARNING: modules} if any(len(own) for own in modules) else {})):
            result = super().train(*args, **kwargs)
        for core in self.cores:
            for parameter in core.parameters():
                parameter.data, parameter.grad = parameter.data.clone(), None
        return result

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        terms = [term for member in self.members for term in member._learning]
        set_apart(optimizer, terms, self.args.learning_rate)
        return optimizer

    def get_train_dataloader(self) -> Any:
        return Windows(self.members, self.args.max_steps, self._as_member)

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

    def _clip_grad_norm(self, model: Any) -> Tensor:
        """Each member's gradient to `max_grad_norm`, what learns in its terms included; the largest norm before."""
        stacked = [p.grad for p in self._stack.tree.parameters() if p.grad is not None]
        norms = [torch.linalg.vector_norm(grad.flatten(1), dim=1) for grad in stacked]
        own = [
            [p.grad for p in member._learning.parameters() if p.grad is not None] for member in self.members
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


class _OfMembers(TrainerCallback):
    """Callbacks that are told of one member's training each."""

    def __init__(self) -> None:
        self.told: list[tuple[Distiller, TrainerCallback]] = []

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("on_"):
            return super().__getattribute__(name)
        told = self.told

        def event(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            for member, callback in told:
                getattr(callback, name)(member.args, state, control, **{**kwargs, "model": member.model})

        return event


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
    shared = [
        {name: value for name, value in member.args.to_dict().items() if name not in _OWN}
        for member in members
    ]
    for name in shared[0]:
        if any(other[name] != shared[0][name] for other in shared[1:]):
            return f"their {name} differ"
    kinds = [
        ([type(term) for term in member.terms], member.models.student_blocks, member.models.teacher_blocks)
        for member in members
    ]
    if any(kind != kinds[0] for kind in kinds):
        return "their terms differ"
    if len({member.sampling is None for member in members}) > 1:
        return "some of them sample"
    return None
