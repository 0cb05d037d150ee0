"""The KL to a teacher that is clipped to a band of its quantiles, which may be learnt: DAC-KL.

Source: "Multi-Granularity Semantic Revision", arXiv 2407.10068, eq. 6-8. The paper was read through reviews of its ICLR
2025 submission only and has no published code; what they leave open is marked "our reading" below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from methods.errors import MethodError
from methods.losses.divergences import check_fraction, forward_kl
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.targets import linear
from methods.slots.term import Term, Weight
from methods.slots.terms.chunks import by_chunk


def clip_to_band(log_p: Tensor, lower: Tensor, upper: Tensor, *, sharpness: float = 20.0) -> Tensor:
    """Log-probabilities (..., V) of a distribution clipped to a band of its quantiles and renormalised.

    With tokens in order of their probability, a token's level is the mass below it and half of its own. It is kept to
    sigmoid(sharpness (level - lower)) sigmoid(sharpness (upper - level)), the likeliest token wholly. `lower` and
    `upper` (...) may be of any order and have gradients; so a wide band leaves p as it is and an empty one leaves its
    likeliest token.
    Source: DAC-KL, arXiv 2407.10068, eq. 7 (sigmoid mask, target class added); levels of mass instead of ranks, the
    sharpness and the normalisation are our reading.
    """
    with torch.no_grad():
        p, order = log_p.exp().sort(-1)
        level = torch.empty_like(p).scatter_(-1, order, p.cumsum(-1) - p / 2)
    above = logsigmoid(sharpness * (level - lower.unsqueeze(-1)))
    below = logsigmoid(sharpness * (upper.unsqueeze(-1) - level))
    kept = (above + below).scatter(-1, order[..., -1:], 0.0)
    return (log_p + kept).log_softmax(-1)


class FixedBand(nn.Module):
    """The same two quantiles everywhere."""

    def __init__(self, lower: float, upper: float):
        super().__init__()
        check_fraction("lower", lower)
        check_fraction("upper", upper)
        self.lower, self.upper = lower, upper

    def forward(self, p: Tensor) -> tuple[Tensor, Tensor]:
        return p.new_full(p.shape[:-1], self.lower), p.new_full(p.shape[:-1], self.upper)


class LearnedBand(nn.Module):
    """Two quantiles for every teacher distribution p (..., V), by a perceptron with one hidden layer: (...), (...).

    Before training they are `lower` and `upper` everywhere.
    Source: DAC-KL, arXiv 2407.10068, eq. 6; that it reads p, its width and its start are our reading.
    """

    def __init__(
        self, vocabulary: int, *, width: int = 32, lower: float = 0.05, upper: float = 0.95, seed: int = 0
    ):
        super().__init__()
        if not (0 < lower < 1 and 0 < upper < 1):
            raise MethodError(f"a band starts inside (0, 1), not at {lower} and {upper}")
        self.inner, self.outer = nn.Linear(vocabulary, width), nn.Linear(width, 2)
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # p is small in nearly all of its V places: weights of size one, not 1 / sqrt(V).
            self.inner.weight.copy_(torch.rand(width, vocabulary, generator=draws) * 2 - 1)
            self.inner.bias.zero_()
            self.outer.weight.zero_()
            self.outer.bias.copy_(torch.logit(torch.tensor([lower, upper])))

    def forward(self, p: Tensor) -> tuple[Tensor, Tensor]:
        if p.shape[-1] != self.inner.in_features:
            raise MethodError(f"a band for {self.inner.in_features} ids, a teacher with {p.shape[-1]}")
        hidden = self.inner(p.to(self.inner.weight.dtype)).relu()
        lower, upper = self.outer(hidden).sigmoid().to(p.dtype).unbind(-1)
        return lower, upper


@component("term", "clipped-kl")
class ClippedKL(Term, nn.Module):
    """KL(clip(p) || q), clip(p) the teacher clipped to a band of its quantiles: mean over completion tokens.

    `band` is "learned", two quantiles (`[0.05, 0.95]`), or a module that makes them of p. A learned one starts between
    `start` with weights of `seed` (the trainer's where None), and learns with the student, from the same loss. Logits
    of `chunk_size` rows exist at a time (default: by memory).
    Source: DAC-KL, arXiv 2407.10068, eq. 8; how the sub-network learns is our reading.
    """

    def __init__(
        self,
        band: str | Sequence[float] | nn.Module = "learned",
        *,
        sharpness: float = 20.0,
        weight: Weight = 1.0,
        width: int = 32,
        start: Sequence[float] = (0.05, 0.95),
        chunk_size: int | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        if isinstance(band, str) and band != "learned":
            raise MethodError(f'a band is "learned" or two quantiles such as [0.05, 0.95], not {band!r}')
        self.sharpness, self.weight, self.chunk_size = sharpness, weight, chunk_size
        self.seed = seed
        self._learned = {"width": width, "lower": start[0], "upper": start[1]}
        self.band: nn.Module | None = None
        if not isinstance(band, str):
            self.band = band if isinstance(band, nn.Module) else FixedBand(*band)

    def prepare(self, trainer: Any) -> None:
        if self.band is None:
            seed = int(trainer.args.seed if self.seed is None else self.seed)
            self.band = LearnedBand(trainer.models.shared_size(0), seed=seed, **self._learned)  # type: ignore[arg-type]

    def total(self, rows: Rows) -> Tensor:
        assert self.band is not None, "no trainer has prepared this term"
        band, (states, head) = self.band, linear(rows.teachers[0])
        size = min(len(head.weight), len(rows.head.weight))

        def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
            log_p = head.logits(theirs, size).log_softmax(-1)
            clipped = clip_to_band(log_p, *band(log_p.exp()), sharpness=self.sharpness)
            return forward_kl(rows.head.logits(ours, size), clipped).sum()

        return by_chunk(divergence, size, self.chunk_size, rows.hidden, states)
