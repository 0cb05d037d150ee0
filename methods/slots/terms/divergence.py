"""Terms on the student's own tokens: a divergence from a target made of teachers, and the labels' cross entropy."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.formulas import Fused
from methods.losses.fused.linear import (
    FUSED_DIVERGENCES,
    RowLoss,
    at_temperatures,
    linear_cross_entropy,
    linear_divergence,
)
from methods.losses.fused.matching import linear_entropic_matching
from methods.losses.fused.reduced import linear_reduced_divergence
from methods.registry import component
from methods.slots.columns import sequence_lengths, spread
from methods.slots.rows import Rows, count_sequences
from methods.slots.samplers import SOURCES
from methods.slots.support import Support
from methods.slots.targets import OneTeacher, Target
from methods.slots.term import IDS, NOTHING, Term, Weight
from methods.slots.weights import RowSettings
from methods.teachers.top_k import TopK, linear_top_k_divergence


@component("divergence", "cross-entropy")
def cross_entropy(rows: Rows, **options: Any) -> RowLoss:
    """-log q(label): of the labels alone, whatever the teacher says.

    Source: supervised fine-tuning, the survey, arXiv 2402.13116, section 3.2.1.
    """
    return linear_cross_entropy(rows.hidden, rows.head, rows.labels, **options)


@component("divergence", "entropic-matching")
def entropic_matching(
    rows: Rows, controller_temperature: float = 0.7, growth: str = "linear", **options: Any
) -> RowLoss:
    """sum_i r_i g_i (log q_i - log q_y), y the label: of the labels alone, whatever the teacher says.

    r is the student at `controller_temperature`, below 1 and so sharper; g is 1 where `growth` is linear, and
    sigmoid((z_i - z_y) / 100) of the student's logits where it is log-sigmoid; both without gradient. With linear
    growth the gradient is r less the label, that of `controller_temperature` times the cross entropy of the student at
    that temperature: what is learnt is flatter than the data, and matches them when it is sharpened.
    Source: GEM, arXiv 2408.16673, and its code, github.com/liziniu/GEM (`controller_temperature` is beta, `growth` h).
    """
    options |= {"controller_temperature": controller_temperature, "growth": growth}
    return linear_entropic_matching(rows.hidden, rows.head, rows.labels, **options)


# Those that need no target.
BY_ROWS: Mapping[str, Callable[..., RowLoss]] = {
    "cross_entropy": cross_entropy,
    "entropic_matching": entropic_matching,
}


@dataclass(eq=False)
class Divergence(Term):
    """weight * mean over completion tokens of token_weight * D(target, student), on sequences of some sources.

    `divergence`: the name of a component (forward-kl, cross-entropy, ...), or a function like those of
    `methods.losses.fused.formulas`. `settings` are its own (`skew`, ...); it and `weight` may be functions of the
    training's progress in [0, 1). `sources`: only sequences from there ("data", "teacher", "student"); all where empty.
    The mean is over all completion tokens of the window, whatever their source. `token_weights` gives a weight for each
    of N rows, `row_settings` further settings for each, of those that have a weight; without gradient. A `temperature`
    among them multiplies the term's own. `temperature_squared` multiplies by temperature^2, each row by its own's.
    `support`: the ids that are looked at, all of them without it. With `over` "sequences" the mean is over the window's
    sequences, of each over its tokens (`NextToken`): many trainers of policies divide so.
    """

    divergence: str | Fused = "forward_kl"
    weight: Weight = 1.0
    settings: Mapping[str, Any] | Callable[[float], Mapping[str, Any]] = field(default_factory=dict)
    temperature: float = 1.0
    target: Target = field(default_factory=OneTeacher)
    sources: Sequence[str] = ()
    token_weights: Callable[[Rows], Tensor] | None = None
    row_settings: RowSettings | None = None
    temperature_squared: bool = False
    support: Support | None = None
    over: str = "tokens"

    def __post_init__(self) -> None:
        check_over("a divergence", self.over)
        if isinstance(self.divergence, str):
            self.divergence = self.divergence.replace("-", "_")
            if self.divergence not in (*FUSED_DIVERGENCES, *BY_ROWS):
                known = ", ".join([*FUSED_DIVERGENCES, *BY_ROWS])
                raise MethodError(f"unknown divergence {self.divergence!r}; one of {known}")
        check_sources(self.sources)
        weighed = [part for part in (self.token_weights, self.row_settings) if part is not None]
        plain = all(getattr(part, "reads", IDS) == NOTHING for part in weighed)
        if self.support is not None and self._by_rows is not None:
            raise MethodError("a divergence of the labels alone has no support")
        self.reads = NOTHING if self._by_rows is not None and plain else IDS
        self._progress = 0.0

    @property
    def _by_rows(self) -> Callable[..., RowLoss] | None:
        """The divergence where it is one of rows and labels alone."""
        if isinstance(self.divergence, str):
            return BY_ROWS.get(self.divergence)
        first = next(iter(inspect.signature(self.divergence).parameters))
        return self.divergence if first == "rows" else None  # type: ignore[return-value]

    def parts(self) -> Mapping[str, Any]:
        return {
            "target": self.target,
            "row_settings": self.row_settings,
            "token_weights": self.token_weights,
        }

    @property
    def columns(self) -> tuple[str, ...]:
        names = [getattr(part, "column", None) for part in self.parts().values()]
        return tuple(name for name in names if name is not None)

    def prepare(self, trainer: Any) -> None:
        for part in self.parts().values():
            if hasattr(part, "prepare"):
                part.prepare(trainer)

    def begin_step(self, window: Any) -> None:
        self._progress = window.progress

    def count(self, batch: Mapping[str, Any]) -> Tensor | None:
        return None if self.over == "tokens" else count_sequences(batch)

    def total(self, rows: Rows) -> Tensor:
        settings = dict(self.settings(self._progress) if callable(self.settings) else self.settings)
        mask = mask_of(self.sources, rows)
        if mask is not None and not bool(mask.any()):
            return rows.hidden.new_zeros(())
        token_weights = None if self.token_weights is None else self.token_weights(rows)
        temperatures: Tensor | None = None
        if self.row_settings is not None:
            settings |= self.row_settings(rows, among(mask, token_weights))
            temperatures = settings.pop("temperature", None)
        if temperatures is not None and self.temperature_squared:
            squared = temperatures**2
            token_weights = squared if token_weights is None else token_weights * squared
        if self.over == "sequences":
            shares = shares_of_sequences(rows)
            token_weights = shares if token_weights is None else token_weights * shares
        common: dict[str, Any] = {"mask": mask, "weights": token_weights, "temperature": self.temperature}
        total = self._loss(rows, common, settings, temperatures).total
        return total * self.temperature**2 if self.temperature_squared and self.temperature != 1 else total

    def _loss(
        self, rows: Rows, common: dict[str, Any], settings: Mapping[str, Any], temperatures: Tensor | None
    ) -> RowLoss:
        target = None if self._by_rows is not None else self.target(rows)
        if temperatures is not None:
            hidden, head = at_temperatures(rows.hidden, rows.head, temperatures)
            rows = replace(rows, hidden=hidden, head=head)
            if isinstance(target, TopK):
                raise MethodError("of this target only some ids are known: it has one temperature")
            target = None if target is None else at_temperatures(*target, temperatures)
        if self._by_rows is not None:
            return self._by_rows(rows, **common, **settings)
        assert target is not None
        common |= {"divergence": self.divergence, **settings}
        if self.support is not None:
            if isinstance(target, TopK):
                raise MethodError("of this target only some ids are known: it has a support of its own")
            common |= {"reduction": self.support.reduction, "labels": rows.labels}
            return linear_reduced_divergence(rows.hidden, rows.head, *target, **common)
        if isinstance(target, TopK):
            return linear_top_k_divergence(rows.hidden, rows.head, target, **common)
        return linear_divergence(rows.hidden, rows.head, *target, **common)


@component("term", "next-token")
@dataclass(eq=False)
class NextToken(Term):
    """-log q(label): mean over the completion tokens of the window, those of some `sources` where they are named.

    With `over` sequences each sequence weighs the same, whatever its length: the mean over the window's sequences of
    the mean over a sequence's tokens. Then two tasks with as many rows each have half of the loss each.
    Source: supervised fine-tuning, the survey, arXiv 2402.13116, section 3.2.1; Distilling Step-by-Step, arXiv
    2305.02301 (its code averages the loss of each task, then both with 0.5).
    """

    weight: Weight = 1.0
    sources: Sequence[str] = ()
    over: str = "tokens"
    reads = NOTHING

    def __post_init__(self) -> None:
        check_sources(self.sources)
        check_over("next-token", self.over)

    def count(self, batch: Mapping[str, Any]) -> Tensor | None:
        return None if self.over == "tokens" else count_sequences(batch)

    def total(self, rows: Rows) -> Tensor:
        weights = None if self.over == "tokens" else shares_of_sequences(rows)
        return cross_entropy(rows, mask=mask_of(self.sources, rows), weights=weights).total


def check_sources(sources: Sequence[str]) -> None:
    """Raise MethodError for a source that no sampler names."""
    for source in sources:
        if source not in SOURCES:
            raise MethodError(f"unknown source {source!r}; one of {', '.join(SOURCES)}")


def check_over(what: str, over: str) -> None:
    """Raise MethodError for a mean over anything but tokens or sequences."""
    if over not in ("tokens", "sequences"):
        raise MethodError(f'{what}: "over" is tokens or sequences, not "{over}"')


def shares_of_sequences(rows: Rows) -> Tensor:
    """1 / the length of its sequence for each row (N,): each sequence weighs the same."""
    exact = torch.promote_types(rows.hidden.dtype, torch.float32)
    return spread(1 / sequence_lengths(rows).to(exact), rows)


def among(mask: Tensor | None, token_weights: Tensor | None) -> Tensor | None:
    """Of the rows of a mask those that have a weight: what is left out of the loss counts for nothing; None for all."""
    if token_weights is None:
        return mask
    return token_weights != 0 if mask is None else mask & (token_weights != 0)


def mask_of(sources: Sequence[str], rows: Rows) -> Tensor | None:
    """Which rows (N,) come from these sources; None for all."""
    if not sources:
        return None
    wanted = torch.tensor([SOURCES.index(name) for name in sources], device=rows.source.device)
    return torch.isin(rows.source, wanted)
