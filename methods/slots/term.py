"""What a term of the loss is: a sum over what it counts, where the count is known from the ids alone.

    loss = sum over terms of weight * (sum over the accumulation window and all ranks) / (the term's own count there)

The count comes before any forward pass, so that micro-batches and ranks do not change the update.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from methods.errors import MethodError
from methods.slots.inside import Wanted
from methods.slots.rows import Rows

Weight = float | Callable[[float], float]  # a number, or a function of the training's progress in [0, 1)
# Which teachers a term reads: none; those of the student's own ids (Rows.teachers); the one with a tokenizer of its own
# (Rows.sides()); or the first one, whichever it is (Rows.teacher_blocks).
NOTHING, IDS, PAIR, FIRST = "nothing", "ids", "pair", "first"


class Term:
    """One term. A subclass gives `total`, and `count` where it counts something else than completion tokens.

    A term that is a torch module too learns with the student: from the same loss, at `learning_rate_factor` times its
    learning rate where it has one; a checkpoint keeps it, and the student leaves the training without it.
    What has `state` and `restore` (plain data) is kept in checkpoints.
    """

    weight: Weight = 1.0
    reads: str = IDS
    student_blocks: tuple[int, ...] = ()  # whose outputs it wants in Rows.blocks
    teacher_blocks: tuple[int, ...] = ()  # of the first teacher, in Rows.teacher_blocks
    student_inside: tuple[Wanted, ...] = ()  # of encoders, what of every token it wants in Rows.inside
    teacher_inside: tuple[Wanted, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the training rows that it reads beside their tokens (methods.slots.columns)."""
        return ()

    def prepare(self, trainer: Any) -> None:
        """Called once by the trainer that it is a term of: look at models and tokenizer, make what learns."""

    def begin_step(self, window: Window) -> None:
        """Called on every rank before each optimizer step, when its batches are known and nothing is computed."""

    def count(self, batch: Mapping[str, Any]) -> Tensor | None:
        """How many items a collated batch has, from its ids alone; None for its completion tokens."""
        return None

    def total(self, rows: Rows) -> Tensor:
        """Sum over the items of a micro-batch, in nats, without the weight."""
        raise MethodError(f"{type(self).__name__} does not say what it sums")

    def parts(self) -> Mapping[str, Any]:
        """Components inside it by name, for those that remember something or want to know of a step."""
        return {}


@dataclass
class Window:
    """An optimizer step, before it: for hooks and for whatever changes over the training."""

    progress: float  # steps done over all steps, in [0, 1)
    batches: list[dict[str, Any]] = field(default_factory=list)  # this rank's micro-batches, after sampling
    last: Callable[[], float | None] = lambda: None
    sum_over_ranks: Callable[[Tensor], Tensor] = lambda local: local
    trainer: Any = None  # its `state` holds step, epoch and log

    @cached_property
    def last_loss(self) -> float | None:
        """Mean loss of the step before, over all ranks; None before the first. Whoever asks, asks on every rank."""
        return self.last()


def weight_at(weight: Weight, progress: float) -> float:
    """The weight at some progress in [0, 1)."""
    return weight(progress) if callable(weight) else weight
