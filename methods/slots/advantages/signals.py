"""What is known of sampled completions when their advantages are computed; nothing of it has a gradient.

Shapes: B completions of at most C tokens, right-padded. `mask` is 1 on the tokens that the student wrote: 0 on padding
and on what a tool or an environment wrote in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError

STUDENT, START = "student", "start"  # who may stand in a log-ratio beside the numbers of teachers
ENTROPY, DIVERGENCE = "entropy", "divergence"


@dataclass(frozen=True)
class Signals:
    """B completions of one generation batch on this rank, with all that was asked for."""

    mask: Tensor  # (B, C)
    # log-probabilities (B, C) of the tokens, in nats, by whom: "student" when it sampled, "start" the student before
    # this training, 0, 1, ... the teachers; 0 off the completion
    log_probs: Mapping[str | int, Tensor] = field(default_factory=dict)
    behaviour: Tensor | None = None  # (B, C) log-probabilities under what was sampled from
    entropy: Tensor | None = None  # (B, C) of the student's next-token distribution, nats
    divergence: Tensor | None = None  # (B, C) KL(student || first teacher) of the next token, nats
    rewards: Tensor | None = None  # (B, R) by reward; NaN where one says nothing
    group: Tensor | None = None  # (B,) completions of one prompt have one number, on all ranks
    turn: Tensor | None = None  # (B, C) in which turn of a conversation a token stands, from 0
    given: Tensor | None = None  # (B,) whose completion is the data's, not the student's; none is if None
    columns: Mapping[str, list[Any]] = field(default_factory=dict)  # of the data, a value for each completion
    progress: float = 0.0  # of the training, in [0, 1)
    everyone: Callable[[Tensor], Tensor] = lambda local: (
        local
    )  # (n, ...) of this rank -> of all, in their order

    def by(self, who: str | int) -> Tensor:
        """Log-probabilities (B, C) of the sampled tokens by somebody; MethodError where nobody asked for them."""
        if who not in self.log_probs:
            known = ", ".join(map(str, self.log_probs)) or "nobody"
            raise MethodError(f"no log-probabilities by {who!r}; they are there by {known}")
        return self.log_probs[who]

    def reward(self, index: int | None = None) -> Tensor:
        """A reward (B,) by its number, or the sum of all; NaN where none says anything."""
        if self.rewards is None or not self.rewards.shape[1]:
            raise MethodError("an advantage asks for a reward, and the method has no rewards")
        if index is not None:
            if not 0 <= index < self.rewards.shape[1]:
                raise MethodError(f"no reward number {index}: there are {self.rewards.shape[1]}")
            return self.rewards[:, index]
        total = self.rewards.nansum(1)
        return total.masked_fill(self.rewards.isnan().all(1), torch.nan)

    def groups(self) -> Tensor:
        """The group (B,) of each completion; each its own where nobody said."""
        return torch.arange(len(self.mask), device=self.mask.device) if self.group is None else self.group

    def own(self) -> Tensor:
        """Which completions (B,) the student wrote itself."""
        every = torch.ones(len(self.mask), dtype=torch.bool, device=self.mask.device)
        return every if self.given is None else ~self.given

    def turns(self) -> Tensor:
        """The turn (B, C) of each token; one for all where nobody said."""
        return torch.zeros_like(self.mask) if self.turn is None else self.turn

    def quantile(self, values: Tensor, share: float) -> Tensor:
        """The value (scalar) below which that share of the student's tokens of all ranks lies."""
        own = values.masked_fill(self.mask == 0, torch.nan).reshape(len(values), -1)
        flat = self.everyone(own).flatten()
        return flat[~flat.isnan()].quantile(share)

    def spread(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and the largest of the values inside a mask, over all ranks."""
        inside = mask.bool()
        low = values.masked_fill(~inside, torch.inf).amin().reshape(1)
        high = values.masked_fill(~inside, -torch.inf).amax().reshape(1)
        return self.everyone(low).amin(), self.everyone(high).amax()


class Asks:
    """Something that reads signals: which it needs, and what stands inside it."""

    asks: tuple[str | int, ...] = ()  # of Signals: who gives log-probabilities, "entropy", "divergence"

    def inside(self) -> tuple[Any, ...]:
        """Advantages and conditions that this one is made of."""
        return ()


class Advantage(Asks):
    """(B, C) in the unit of its rewards; what stands off the mask does not matter."""

    def __call__(self, signals: Signals) -> Tensor:
        raise MethodError(f"{type(self).__name__} does not say what it computes")


class Condition(Asks):
    """(B, C) true or false."""

    def __call__(self, signals: Signals) -> Tensor:
        raise MethodError(f"{type(self).__name__} does not say when it holds")


def parts_of(*given: Any) -> Iterator[Any]:
    """Advantages and conditions with all that stands inside them."""
    for part in given:
        if part is not None:
            yield part
            yield from parts_of(*part.inside())


def asked_of(*given: Any) -> set[str | int]:
    """All that some advantages and conditions ask for."""
    return {what for part in parts_of(*given) for what in part.asks}
