"""Revision at three grains: the student's worst token corrected, the teacher clipped to a band, neighbours tied.

Source: "Multi-Granularity Semantic Revision", arXiv 2407.10068: SCRG (eq. 3-5), DAC-KL (eq. 6-8), span consistency
(eq. 10). The paper was read through reviews of its ICLR 2025 submission only and has no published code; what they leave
open is marked "our reading" below.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from methods.errors import MethodError
from methods.losses.divergences import check_fraction, forward_kl
from methods.losses.fused.kernels import Layout
from methods.losses.fused.linear import Head
from methods.slots.samplers import Comparison, Example, Sampler, Step
from methods.slots.targets import Rows, linear


class Corrected:
    """Another sampler's student answers, each corrected at its worst token and answered anew from there.

    The worst token is the one of the highest KL(teacher || student) among those where the teacher, given the student's
    tokens before it, says something else (`greedy`: its likeliest token, else one drawn); the teacher's token takes its
    place. An answer on which both agree everywhere stays. Answers of other sources stay.
    Source: SCRG, arXiv 2407.10068, eq. 3-5; the direction of the KL and what happens without a disagreement are our
    reading. Raises MethodError for a sampler that keeps what it sampled.
    """

    def __init__(self, sampler: Sampler, *, temperature: float = 1.0, greedy: bool = False):
        if hasattr(sampler, "state"):
            raise MethodError(f"{type(sampler).__name__} keeps its samples, so they cannot be corrected here")
        self.sampler, self.temperature, self.greedy = sampler, temperature, greedy

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        examples = list(self.sampler(window, step))
        places = [n for n, example in enumerate(examples) if example.source == "student"]
        if not places:
            return examples
        written = [examples[n] for n in places]
        begun = [
            beginning(example.completion, found)
            for example, found in zip(written, step.compare(written, greedy=self.greedy), strict=True)
        ]
        prompts = [example.prompt for example in written]
        completions = step.generate(prompts, begun=begun, temperature=self.temperature)
        for n, prompt, completion in zip(places, prompts, completions, strict=True):
            examples[n] = Example(prompt, completion, "student")
        return examples


def beginning(completion: list[int], found: Comparison) -> list[int]:
    """The completion up to its worst token, that one the teacher's; all of it where the teacher agrees."""
    wrong = [n for n, token in enumerate(completion) if token != found.teacher_tokens[n]]
    if not wrong:
        return completion
    worst = max(wrong, key=lambda n: found.divergence[n])
    return [*completion[:worst], found.teacher_tokens[worst]]


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


class ClippedKL(nn.Module):
    """weight * sum over rows of KL(clip(p) || q), clip(p) the teacher clipped to the band that `band` gives it.

    The band learns with the student, from the same loss. Logits of `chunk_size` rows exist at a time (default: by
    memory). Source: DAC-KL, arXiv 2407.10068, eq. 8; how the sub-network learns is our reading.
    """

    def __init__(
        self, band: nn.Module, *, sharpness: float = 20.0, weight: float = 1.0, chunk_size: int | None = None
    ):
        super().__init__()
        self.band, self.sharpness, self.weight, self.chunk_size = band, sharpness, weight, chunk_size

    def forward(self, rows: Rows) -> Tensor:
        states, head = linear(rows.teachers[0])
        size = min(len(head.weight), len(rows.head.weight))

        def divergence(ours: Tensor, theirs: Tensor) -> Tensor:
            log_p = head.logits(theirs, size).log_softmax(-1)
            clipped = clip_to_band(log_p, *self.band(log_p.exp()), sharpness=self.sharpness)
            return forward_kl(rows.head.logits(ours, size), clipped).sum()

        return self.weight * _by_chunk(divergence, size, self.chunk_size, rows.hidden, states)


class SpanConsistency(nn.Module):
    """weight * sum over neighbouring tokens i, j of a span of || p_i * p_j - q_i * q_j ||, products token by token.

    A span ends at each of the ids `span_ends` and with its sequence. Logits of `chunk_size` pairs exist at a time
    (default: by memory).
    Source: arXiv 2407.10068, eq. 10, whose spans are phrases that a chunker finds; the norm unsquared is our reading.
    """

    def __init__(self, span_ends: Sequence[int], *, weight: float = 1.0, chunk_size: int | None = None):
        super().__init__()
        self.span_ends, self.weight, self.chunk_size = tuple(span_ends), weight, chunk_size

    def forward(self, rows: Rows) -> Tensor:
        states, head = linear(rows.teachers[0])
        size = min(len(head.weight), len(rows.head.weight))
        ends = torch.isin(rows.labels, torch.tensor(self.span_ends, device=rows.labels.device))
        inside = (rows.sequence[1:] == rows.sequence[:-1]) & ~ends[:-1]
        first = inside.nonzero().squeeze(-1)

        def product(hidden: Tensor, of: Head) -> Tensor:
            i, j = (of.logits(part, size).log_softmax(-1) for part in hidden.unbind(1))
            return (i + j).exp()

        def distance(ours: Tensor, theirs: Tensor) -> Tensor:
            return torch.linalg.vector_norm(product(ours, rows.head) - product(theirs, head), dim=-1).sum()

        pairs = (torch.stack([h[first], h[first + 1]], 1) for h in (rows.hidden, states))
        return self.weight * _by_chunk(distance, size, self.chunk_size, *pairs)


def _by_chunk(
    function: Callable[..., Tensor], size: int, chunk: int | None, ours: Tensor, theirs: Tensor
) -> Tensor:
    """Sum of `function` over chunks of rows; the backward pass computes each again, so one exists at a time."""
    plan = Layout.plan(len(ours), size, ours.device, torch.float32, chunk)
    total = ours.sum() * 0  # a graph even where there are no rows
    for part in zip(ours.split(plan.chunk), theirs.split(plan.chunk), strict=True):
        total = total + checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False)
    return total
