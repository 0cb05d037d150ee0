"""What one generation batch has written down: completions, groups, rewards, columns, turns, who wrote which token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from methods.modeling.rollouts import Rollouts, labelled
from methods.slots.samplers import SOURCES

DATA, STUDENT = SOURCES.index("data"), SOURCES.index("student")


@dataclass(frozen=True)
class Record:
    """B completions of at most C tokens on this rank."""

    rollouts: Rollouts  # with the log-probabilities under what was sampled from, where somebody kept them
    group: Tensor  # (B,) completions of one prompt have one number, on all ranks
    rewards: Tensor  # (B, R), NaN where a reward says nothing
    columns: Mapping[str, list[Any]] = field(default_factory=dict)  # of the data rows, the prompt among them
    model_tokens: Tensor | None = (
        None  # (B, C) 0 on what a tool or an environment wrote; all are the student's if None
    )
    turn: Tensor | None = None  # (B, C) in which turn a token stands, from 0
    given: Tensor | None = None  # (B,) whose completion is the data's; none is if None

    @property
    def mask(self) -> Tensor:
        """(B, C) 1 on the tokens that the student wrote: what is learnt from."""
        whole = self.rollouts.completion_mask
        return whole if self.model_tokens is None else whole * self.model_tokens


# (rows of the data, the trainer) -> completions, who wrote their tokens, and their turns: an environment with tools in
# the place of one completion a prompt.
Writer = Callable[[Sequence[Mapping[str, Any]], Any], tuple[Rollouts, Tensor | None, Tensor | None]]


def ids_of(written: Rollouts) -> list[list[int]]:
    """Each completion's ids."""
    kept = zip(written.completion_ids, written.completion_mask.bool(), strict=True)
    return [row[keep].tolist() for row, keep in kept]


def as_batch(inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """A micro-batch as terms see it: ids, attention, labels (B, P + C), -100 on what the student did not write."""
    names = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "mask")
    batch = labelled(*(inputs[name] for name in names))
    source = torch.full((len(batch["labels"]),), STUDENT, device=batch["labels"].device)
    if "given" in inputs:
        source = source.masked_fill(inputs["given"], DATA)
    return {**batch, "source": source}
