"""What hard tokens get: the share of them that is learnt, by the course of the loss, and a temperature for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.scores import Score, by_sequence
from methods.slots.term import Window
from methods.slots.token_weights import TopShare


@component("token-weights", "focused")
class Focused(TopShare):
    """1 for the share of a sequence's tokens with the highest scores, 0 for the others; the share follows the loss.

    It begins at 1. The training's loss is averaged over steps (rate `momentum`); its mean after the part `warm_up` of
    the training is the reference. A mean that falls below 1 - `tolerance` of the reference makes the share smaller by
    the part `change`, down to `least`, one that rises above 1 + `tolerance` makes it larger, up to 1; each change puts
    the reference to the mean. At least one token is kept.
    Source: AdaKD, arXiv 2510.11615 (loss-driven adaptive token focusing; `tolerance` is epsilon, `change` sigma, both
    0.05 in its scripts), whose code chooses among the tokens of a batch and not of each sequence.
    """

    def __init__(
        self,
        score: Score,
        *,
        change: float = 0.05,
        tolerance: float = 0.05,
        momentum: float = 0.99,
        warm_up: float = 0.05,
        least: float = 0.1,
    ):
        for name, value in {
            "change": change,
            "momentum": momentum,
            "warm_up": warm_up,
            "least": least,
        }.items():
            check_fraction(name, value)
        if tolerance < 0:
            raise MethodError(f"tolerance={tolerance} is below zero")
        super().__init__(score, 1.0)
        self.change, self.tolerance, self.momentum = change, tolerance, momentum
        self.warm_up, self.least = warm_up, least
        self._mean: float | None = None
        self._reference: float | None = None

    def begin_step(self, window: Window) -> None:
        """Look at the loss of the step before."""
        loss = window.last_loss
        if loss is None:
            return
        self._mean = loss if self._mean is None else self.momentum * self._mean + (1 - self.momentum) * loss
        if self._reference is None:
            if window.progress > self.warm_up:
                self._reference = self._mean
        elif abs(self._mean - self._reference) > self.tolerance * self._reference:
            falls = self._mean < self._reference
            moved = self.share * (1 - self.change if falls else 1 + self.change)
            self.share, self._reference = min(1.0, max(self.least, moved)), self._mean

    def state(self) -> dict[str, float | None]:
        """What a checkpoint must keep, as plain data."""
        return {"share": self.share, "mean": self._mean, "reference": self._reference}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.share, self._mean, self._reference = state["share"], state["mean"], state["reference"]


@component("row-settings", "difficulty-temperature")
class DifficultyTemperature:
    """exp(-reach tanh(log(s / m))) for each token, s its score and m the median score of those learnt in its sequence.

    Between e^-reach and e^reach, and multiplied by the temperature of the term. So of the tokens learnt half are
    sharpened, the hard ones, and half smoothed; with `inverse` false it is the other way round. The median is the lower
    one of two.
    Source: AdaKD, arXiv 2510.11615 (inverse difficulty temperature scaling; `reach` is c), whose code takes the median
    over the tokens of a batch, and lets the gradient reach the temperature. Here it is a constant, as every weight is.
    """

    def __init__(self, score: Score, *, reach: float = 0.5, inverse: bool = True):
        if reach < 0:
            raise MethodError(f"reach={reach} is below zero")
        self.score, self.reach, self.inverse = score, reach, inverse

    @torch.no_grad()
    def __call__(self, rows: Rows, mask: Tensor | None) -> dict[str, Tensor]:
        score = self.score(rows)
        inside = torch.ones_like(score, dtype=torch.bool) if mask is None else mask
        return {"temperature": by_sequence(self._of, rows, score, inside)}

    def _of(self, score: Tensor, inside: Tensor) -> Tensor:
        if not bool(inside.any()):
            return torch.ones_like(score)
        tiny = torch.finfo(score.dtype).tiny
        relative = (score / score[inside].median().clamp_min(tiny)).clamp_min(1e-8)
        power = self.reach * relative.log().tanh()
        return torch.where(inside, (-power if self.inverse else power).exp(), 1.0)

    def begin_step(self, window: Window) -> None:
        """Nothing changes."""
