"""Advantages made of advantages, and the plainest one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.losses.policy_gradient import return_to_go
from methods.registry import component
from methods.slots.advantages.signals import Advantage, Condition, Signals


@component("advantage", "constant")
class Constant(Advantage):
    """The same for every token.

    Source: the control of OPSA, arXiv 2608.31046 (-0.5 on the tokens of least probability).
    """

    def __init__(self, value: float = 1.0):
        self.value = value

    def __call__(self, signals: Signals) -> Tensor:
        # In the default precision: a mask is made of whole numbers.
        return torch.full(signals.mask.shape, self.value, device=signals.mask.device)


@component("advantage", "sum")
class Sum(Advantage):
    """The sum of several advantages.

    Source: KDRL, arXiv 2506.02208 (a verifier's advantage and the teacher's log-ratio, weighted).
    """

    def __init__(self, parts: Sequence[Advantage]):
        self.parts = tuple(parts)

    def inside(self) -> tuple[Advantage, ...]:
        return self.parts

    def __call__(self, signals: Signals) -> Tensor:
        first, *others = (part(signals) for part in self.parts)
        for other in others:
            first = first + other
        return first


@component("advantage", "only")
class Only(Advantage):
    """An advantage where a condition holds, 0 elsewhere.

    `over` "kept" multiplies by a completion's tokens over those that are kept: a mean over all its tokens, as of the
    loss type "grpo", is then one over the kept ones.
    Source: AOPD, arXiv 2605.06387 (by sign); KDRL, arXiv 2506.02208, section 3.4 (by reward); OPSA, arXiv 2608.31046
    (its code leaves the others out of the mean too: "kept").
    """

    def __init__(self, advantage: Advantage, where: Condition, *, over: str = "tokens"):
        if over not in ("tokens", "kept"):
            raise MethodError(f'only: "over" is tokens or kept, not "{over}"')
        self.advantage, self.where, self.over = advantage, where, over

    def inside(self) -> tuple[Advantage | Condition, ...]:
        return self.advantage, self.where

    def __call__(self, signals: Signals) -> Tensor:
        where = self.where(signals)
        given = self.advantage(signals).masked_fill(~where, 0.0)
        if self.over == "tokens":
            return given
        inside = signals.mask.bool()
        return given * inside.sum(1, keepdim=True) / (inside & where).sum(1, keepdim=True).clamp_min(1)


@component("advantage", "clipped")
class Clipped(Advantage):
    """An advantage kept between `low` and `high`, an end that is null left open.

    Source: REOPOLD, arXiv 2603.11137 (a floor of log(lambda / (1 - lambda)) under the log-ratio).
    """

    def __init__(self, advantage: Advantage, *, low: float | None = None, high: float | None = None):
        if low is None and high is None:
            raise MethodError("nothing to clip: give low, high, or both")
        self.advantage, self.low, self.high = advantage, low, high

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        return self.advantage(signals).clamp(self.low, self.high)


@component("advantage", "powered")
class Powered(Advantage):
    """(exp(power A) - 1) / power of an advantage A: of a log-ratio, the Box-Cox transform of the ratio; power 0 is A.

    Source: PowerOPD, arXiv 2606.17199, known through list notes (the transform and where it is applied).
    """

    def __init__(self, advantage: Advantage, *, power: float = 1.0):
        self.advantage, self.power = advantage, power

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        given = self.advantage(signals)
        return given if self.power == 0 else torch.expm1(self.power * given) / self.power


@component("advantage", "return-to-go")
class ReturnToGo(Advantage):
    """The sum of an advantage over this token and those that follow, `discount`^k for the k-th of them.

    `normalize` divides by the number of tokens that are left; `include_present: false` begins at the next token.
    Source: MiniLLM, arXiv 2306.08543, eq. 2, 3 and 5.
    """

    def __init__(
        self,
        advantage: Advantage,
        *,
        discount: float = 1.0,
        normalize: bool = False,
        include_present: bool = True,
    ):
        check_fraction("discount", discount)
        self.advantage, self.discount = advantage, discount
        self.normalize, self.include_present = normalize, include_present

    def inside(self) -> tuple[Advantage, ...]:
        return (self.advantage,)

    def __call__(self, signals: Signals) -> Tensor:
        given = self.advantage(signals).masked_fill(signals.mask == 0, 0.0)
        return return_to_go(
            given,
            signals.mask,
            include_present=self.include_present,
            normalize=self.normalize,
            discount=self.discount,
        )


@component("advantage", "by-column")
class ByColumn(Advantage):
    """One advantage for each value of a column of the data: a teacher of its own for each domain.

    `values` and `parts` belong together; a row of another value has the advantage 0.
    Source: MOPD of MiMo-V2-Flash, arXiv 2601.02780 (the teacher of a row's domain).
    """

    def __init__(self, values: Sequence[str], parts: Sequence[Advantage], *, column: str = "domain"):
        if len(values) != len(parts) or len(set(values)) != len(values):
            raise MethodError(
                f"{len(values)} values and {len(parts)} parts: one part for each value, none twice"
            )
        self.values, self.parts, self.column = tuple(values), tuple(parts), column

    def inside(self) -> tuple[Advantage, ...]:
        return self.parts

    def __call__(self, signals: Signals) -> Tensor:
        if self.column not in signals.columns:
            raise MethodError(
                f'the rows have no column "{self.column}"; they have {", ".join(signals.columns)}'
            )
        rows = signals.columns[self.column]
        total: Tensor | None = None
        for value, part in zip(self.values, self.parts, strict=True):
            there = torch.tensor([row == value for row in rows], device=signals.mask.device).unsqueeze(1)
            given = part(signals).masked_fill(~there, 0.0)
            total = given if total is None else total + given
        assert total is not None
        return total
