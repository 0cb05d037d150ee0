"""A weight for each token: made of a score, of its place in the answer, or of what is known of its prompt.

Token weights are functions from `Rows` to (N,), without gradient. The mean of the loss stays one over all completion
tokens of the window; `normalised` makes up for what a weight takes away. What compares tokens compares those of one
sequence, so that micro-batches and ranks do not matter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.columns import ByPrompt, spread
from methods.slots.rows import Rows
from methods.slots.scores import SIDES, LogRatio, Score, by_row, by_sequence, shared, side_of
from methods.slots.term import NOTHING, Window


class TokenWeights(Protocol):
    """A weight for each token."""

    def __call__(self, rows: Rows) -> Tensor:
        """(N,), without gradient."""
        ...


@component("token-weights", "by-score")
class ByScore:
    """The score itself, to some `power`; at most `most`.

    Source: TIP, arXiv 2604.14084, whose scores choose tokens; here they weigh them.
    """

    def __init__(self, score: Score, *, power: float = 1.0, most: float | None = None):
        self.score, self.power, self.most = score, power, most

    def __call__(self, rows: Rows) -> Tensor:
        weights = self.score(rows).clamp_min(0) ** self.power
        return weights if self.most is None else weights.clamp_max(self.most)


@component("token-weights", "gate")
class Gate:
    """1 where the score is above a level, 0 elsewhere; the other way round `below` it.

    With both on two terms, one divergence takes over from another token by token.
    Source: Entropy-Aware OPD, arXiv 2603.07079 (forward KL where the teacher's entropy is above tau, the `level`).
    """

    def __init__(self, score: Score, level: float, *, below: bool = False):
        self.score, self.level, self.below = score, level, below

    def __call__(self, rows: Rows) -> Tensor:
        score = self.score(rows)
        return ((score <= self.level) if self.below else (score > self.level)).to(score.dtype)


@component("token-weights", "sigmoid")
class Sigmoid:
    """sigmoid((score - centre) / width): a gate with a soft edge.

    Source: TSD-KD, arXiv 2603.13260, on the entropy gap (`width` is tau; its code has none).
    """

    def __init__(self, score: Score, *, centre: float = 0.0, width: float = 1.0):
        if width <= 0:
            raise MethodError(f"width={width} is not a positive number")
        self.score, self.centre, self.width = score, centre, width

    def __call__(self, rows: Rows) -> Tensor:
        return ((self.score(rows) - self.centre) / self.width).sigmoid()


@component("token-weights", "top-share")
class TopShare:
    """1 for the share of a sequence's tokens with the highest scores (`lowest`: the lowest), 0 for the others.

    At least one token is kept; the earlier one where scores are equal up to rounding (1e-5 of the largest: soft-or is 1
    for two tokens of every sequence, and which of them is more by a hair depends on the padding). `drawn` draws as many
    tokens without putting back, with chances in proportion to the score, anew at each step.
    Source: TIP, arXiv 2604.14084 (top rho of its score; its code draws); Revisiting OPD, arXiv 2603.25562 (entropy);
    TSD-KD, arXiv 2603.13260 (the top 10 % by entropy; its code keeps the top 90 %).
    """

    def __init__(
        self, score: Score, share: float, *, lowest: bool = False, drawn: bool = False, seed: int = 0
    ):
        check_fraction("share", share)
        self.score, self.share, self.lowest, self.drawn, self.seed = score, share, lowest, drawn, seed
        self._progress = 0.0

    def __call__(self, rows: Rows) -> Tensor:
        return by_sequence(self._kept, rows, self.score(rows), rows.labels)

    def _kept(self, score: Tensor, labels: Tensor) -> Tensor:
        if self.drawn:  # the largest log s + Gumbel noise
            uniform = torch.rand(len(score), generator=generator_for(self.seed, self._progress, labels))
            noise = -(-uniform.clamp(1e-12, 1 - 1e-7).log()).log()
            score = score.clamp_min(torch.finfo(score.dtype).tiny).log() + noise.to(score)
        else:
            largest = score.abs().max().clamp_min(torch.finfo(score.dtype).tiny)
            score = (score / largest * 1e5).round()
        count = max(1, math.ceil(self.share * len(score) - 1e-9))
        order = score.argsort(descending=not self.lowest, stable=True)
        return torch.zeros_like(score).index_fill_(0, order[:count], 1)

    def begin_step(self, window: Window) -> None:
        """Other tokens are drawn at another step."""
        self._progress = window.progress


@component("token-weights", "opening")
class Opening:
    """1 for the first tokens of a sequence until their scores have added up to a share of its sum, 0 behind.

    The token that reaches the share is in.
    Source: TSD-KD, arXiv 2603.13260 (the opener: the first 10 % of the student's entropy).
    """

    def __init__(self, score: Score, share: float = 0.1):
        check_fraction("share", share)
        self.score, self.share = score, share

    def __call__(self, rows: Rows) -> Tensor:
        return by_sequence(self._kept, rows, self.score(rows))

    def _kept(self, score: Tensor) -> Tensor:
        before = score.double().cumsum(0) - score.double()
        return (before < self.share * score.double().sum()).to(score.dtype)


@component("token-weights", "first")
class First:
    """1 for the first `tokens` of a sequence, 0 behind; the number may grow to `grown` over the training, linearly.

    Source: Prefix OPD, arXiv 2602.15260, on whole rollouts; the sampler `truncated` does not even write the rest.
    """

    def __init__(self, tokens: int, *, grown: int | None = None):
        if tokens < 1 or (grown is not None and grown < tokens):
            raise MethodError("the first tokens are one or more, and may grow, not shrink")
        self.tokens, self.grown = tokens, grown
        self._progress = 0.0

    def __call__(self, rows: Rows) -> Tensor:
        return (rows.position < ramp(self.tokens, self.grown, self._progress)).to(rows.hidden.dtype)

    def begin_step(self, window: Window) -> None:
        """The number grows."""
        self._progress = window.progress


@component("token-weights", "stretch")
class Stretch:
    """1 for a stretch of a sequence, from the share `begin` of its tokens up to the share `end`, 0 elsewhere.

    Token t of T, counted from 0, is in where begin <= t / T < end: of stretches that meet, each token is in one.
    Source: IW-OPD, arXiv 2606.22600 (trained on the first 30 % of the tokens alone, or on the last).
    """

    def __init__(self, begin: float = 0.0, end: float = 0.3):
        check_fraction("begin", begin)
        check_fraction("end", end)
        if begin >= end:
            raise MethodError(f"a stretch from {begin:g} to {end:g} has no token")
        self.begin, self.end = begin, end

    def __call__(self, rows: Rows) -> Tensor:
        return by_sequence(self._kept, rows, rows.position).to(rows.hidden.dtype)

    def _kept(self, position: Tensor) -> Tensor:
        share, rounding = position.double() / len(position), 1e-9
        return (share >= self.begin - rounding) & (share < self.end - rounding)


@component("token-weights", "prefix-drift")
class PrefixDrift:
    """Less and less for tokens behind a prefix that the teacher would not have written.

    "share": 1 + gamma (1 - D_t / D), D_t the sum of |log p - log q| over the tokens before t and D that of all.
    "ratio": the product of p / q over the tokens before t, kept within [`floor`, 1].
    Source: IW-OPD, arXiv 2606.22600: "share" as in TRL's trainer of that name (`gamma` 0.5 there), "ratio" a clipped
    importance ratio of the prefix, as its abstract has it; the bounds are our reading.
    """

    def __init__(self, form: str = "share", *, gamma: float = 0.5, floor: float = 0.0, index: int = 0):
        if form not in ("share", "ratio"):
            raise MethodError(f"form is {form!r}, none of share, ratio")
        check_fraction("floor", floor)
        self.form, self.gamma, self.floor = form, gamma, floor
        self.score = LogRatio(index=index)

    def __call__(self, rows: Rows) -> Tensor:
        return by_sequence(self._share if self.form == "share" else self._ratio, rows, self.score(rows))

    def _share(self, ratio: Tensor) -> Tensor:
        drift = ratio.abs().double()
        before = drift.cumsum(0) - drift
        return (1 + self.gamma * (1 - before / drift.sum().clamp_min(1e-8))).to(ratio.dtype)

    def _ratio(self, ratio: Tensor) -> Tensor:
        before = ratio.double().cumsum(0) - ratio.double()
        return before.exp().clamp(self.floor, 1.0).to(ratio.dtype)


@component("token-weights", "pass-rate")
class PassRate:
    """w(r) = r^rise (1 - r)^fall of a prompt's pass rate r: nothing where it always or never succeeds.

    The rate stands in a `column` of the training rows, between 0 and 1: how often the student solved the prompt.
    `between` two rates weighs 1 there and 0 elsewhere instead: a hard filter.
    Source: PACED, arXiv 2603.11178 (`rise` is a, `fall` b, both 1 there).
    """

    def __init__(
        self,
        column: str = "pass_rate",
        *,
        rise: float = 1.0,
        fall: float = 1.0,
        between: Sequence[float] | None = None,
    ):
        if rise < 0 or fall < 0:
            raise MethodError("the powers of a pass rate are zero or more")
        if between is not None and not (len(between) == 2 and 0 <= between[0] <= between[1] <= 1):
            raise MethodError(f"between are two rates such as [0.2, 0.8], not {between!r}")
        self.rise, self.fall, self.between = rise, fall, between
        self.rates = ByPrompt(column)
        self.column = column

    def prepare(self, trainer: Any) -> None:
        """Read the rates. Raises MethodError for one that is no number between 0 and 1."""
        self.rates.prepare(trainer)

    def weight(self, rate: Any) -> float:
        """Of one rate."""
        if not isinstance(rate, int | float) or not 0 <= rate <= 1:
            raise MethodError(f'"{self.column}" says {rate!r}, no rate between 0 and 1')
        if self.between is not None:
            return float(self.between[0] <= rate <= self.between[1])
        return float(rate**self.rise * (1 - rate) ** self.fall)

    def __call__(self, rows: Rows) -> Tensor:
        weights = [self.weight(rate) for rate in self.rates.of(rows)]
        return spread(torch.tensor(weights, dtype=rows.hidden.dtype, device=rows.hidden.device), rows)


@component("token-weights", "except-tokens")
class ExceptTokens:
    """0 where the sequence's token is one of those named, 1 elsewhere.

    Source: Revisiting OPD, arXiv 2603.25562 (special tokens masked).
    """

    def __init__(self, tokens: Sequence[str], tokenizer: Any = None):
        vocabulary = {} if tokenizer is None else tokenizer.get_vocab()
        missing = [token for token in tokens if tokenizer is not None and token not in vocabulary]
        if missing:
            raise MethodError(f"the tokenizer has no token {missing[0]!r}")
        self.ids = [vocabulary[token] for token in tokens if token in vocabulary]

    def __call__(self, rows: Rows) -> Tensor:
        ids = torch.tensor(self.ids, device=rows.labels.device, dtype=rows.labels.dtype)
        return (~torch.isin(rows.labels, ids)).to(rows.hidden.dtype)


class OfOthers:
    """Weights made of other weights."""

    def __init__(self, token_weights: TokenWeights):
        self.token_weights = token_weights
        self.column = getattr(token_weights, "column", None)

    def prepare(self, trainer: Any) -> None:
        """As the inner weights need it."""
        if hasattr(self.token_weights, "prepare"):
            self.token_weights.prepare(trainer)

    def begin_step(self, window: Window) -> None:
        """As the inner weights need it."""
        if hasattr(self.token_weights, "begin_step"):
            self.token_weights.begin_step(window)

    def __getattr__(self, name: str) -> Any:
        """`state` and `restore` are the inner weights', where those remember anything."""
        if name in ("state", "restore"):
            return getattr(self.token_weights, name)
        raise AttributeError(name)


@component("token-weights", "normalised")
class Normalised(OfOthers):
    """Other weights, divided by their mean within each sequence: what is kept counts for what is not.

    A sequence whose weights are all zero stays so.
    Source: UniSD, arXiv 2605.06597 (the loss over the sum of its weights); TIP, arXiv 2604.14084 (mean of the kept).
    """

    def __init__(self, token_weights: TokenWeights):
        super().__init__(token_weights)

    def __call__(self, rows: Rows) -> Tensor:
        return by_sequence(self._even, rows, self.token_weights(rows))

    @staticmethod
    def _even(weights: Tensor) -> Tensor:
        mean = weights.mean()
        return weights / mean if float(mean) > 0 else weights


@component("token-weights", "complement")
class Complement(OfOthers):
    """1 less other weights: the tokens that those leave out.

    Source: ATKD, arXiv 2402.11890 (hard tokens are those that are not easy).
    """

    def __init__(self, token_weights: TokenWeights):
        super().__init__(token_weights)

    def __call__(self, rows: Rows) -> Tensor:
        return 1 - self.token_weights(rows)


@component("token-weights", "shuffled")
class Shuffled(OfOthers):
    """Other weights in a random order within each sequence, another at each step: as many, on any tokens.

    The control of every choice of tokens.
    Source: TIP, arXiv 2604.14084 (tokens chosen at random, as many).
    """

    def __init__(self, token_weights: TokenWeights, *, seed: int = 0):
        super().__init__(token_weights)
        self.seed = seed
        self._progress = 0.0

    def begin_step(self, window: Window) -> None:
        """Another order at another step."""
        super().begin_step(window)
        self._progress = window.progress

    def __call__(self, rows: Rows) -> Tensor:
        return by_sequence(self._mixed, rows, self.token_weights(rows), rows.labels)

    def _mixed(self, weights: Tensor, labels: Tensor) -> Tensor:
        order = torch.randperm(len(weights), generator=generator_for(self.seed, self._progress, labels))
        return weights[order.to(weights.device)]


@component("token-weights", "verified")
class Verified:
    """1 where the teacher accepts what the student would say next, `floor` where not.

    "top-k": accepted is the student's likeliest id where it is one of the teacher's `k` likeliest. "speculative": one
    of `k` ids drawn from the student passes the test of speculative sampling, each by the chance min(1, p / q); that is
    one draw by the chance 1 - (1 - sum min(p, q))^k, at each step anew.
    Source: SelecTKD, arXiv 2510.24021 (`floor` is beta; k is 5 there, of some 150,000 ids).
    """

    def __init__(
        self, k: int = 5, *, form: str = "top-k", floor: float = 0.01, seed: int = 0, index: int = 0
    ):
        if form not in ("top-k", "speculative"):
            raise MethodError(f"form is {form!r}, neither top-k nor speculative")
        if k < 1:
            raise MethodError(f"k={k}: at least one id is looked at")
        check_fraction("floor", floor)
        self.k, self.form, self.floor, self.seed, self.index = k, form, floor, seed, index
        self._progress = 0.0

    def begin_step(self, window: Window) -> None:
        """Other ids are drawn at another step."""
        self._progress = window.progress

    def __call__(self, rows: Rows) -> Tensor:
        sides = [side_of(rows, of, self.index) for of in SIDES]
        if self.form == "top-k":
            accepted = by_row(self._among, shared(rows, self.index), *sides)
        else:
            chances = by_row(self._chances, shared(rows, self.index), *sides)
            accepted = by_sequence(self._drawn, rows, chances, rows.labels)
        return torch.where(accepted, 1.0, self.floor).to(rows.hidden.dtype)

    def _among(self, student: Tensor, teacher: Tensor) -> Tensor:
        least = teacher.topk(min(self.k, teacher.shape[-1])).values[..., -1:]
        return (teacher.gather(-1, student.argmax(-1, keepdim=True)) >= least).squeeze(-1)

    def _chances(self, student: Tensor, teacher: Tensor) -> Tensor:
        overlap = torch.minimum(student.softmax(-1), teacher.softmax(-1)).sum(-1)
        return 1 - (1 - overlap).clamp_min(0) ** self.k

    def _drawn(self, chances: Tensor, labels: Tensor) -> Tensor:
        uniform = torch.rand(len(chances), generator=generator_for(self.seed, self._progress, labels))
        return uniform.to(chances) < chances


AT_ONCE = 2**24  # logits that are looked at together


@component("token-weights", "annealed-labels")
class AnnealedLabels:
    """1, but 0 where the student is surer than a threshold of something else than the label.

    The threshold falls evenly from `start` to one over the number of ids (of classes) in the course of the training: at
    first a student is rarely sure, at the end every label that it disagrees with is taken for noise.
    Source: noisy label annealing of UDG, arXiv 2109.09193, known through notes (0.9, down to 1 / K; how it falls was
    not seen).
    """

    reads = NOTHING

    def __init__(self, *, start: float = 0.9):
        check_fraction("start", start)
        self.start, self._progress = start, 0.0

    def begin_step(self, window: Window) -> None:
        """The threshold is that of the step."""
        self._progress = window.progress

    def __call__(self, rows: Rows) -> Tensor:
        exact = torch.promote_types(rows.hidden.dtype, torch.float32)
        weight, bias = rows.head.weight.detach().to(exact), rows.head.bias
        bias = None if bias is None else bias.detach().to(exact)
        level = self.start + (1 / len(weight) - self.start) * self._progress
        pieces = max(1, AT_ONCE // len(weight))
        found = []
        with torch.autocast(weight.device.type, enabled=False):
            for hidden, labels in zip(
                rows.hidden.detach().split(pieces), rows.labels.split(pieces), strict=True
            ):
                shares, ids = torch.nn.functional.linear(hidden.to(exact), weight, bias).softmax(-1).max(-1)
                found.append((shares <= level) | (ids == labels))
        return torch.cat(found).to(rows.hidden.dtype)


def generator_for(seed: int, progress: float, labels: Tensor) -> torch.Generator:
    """Random numbers of one sequence at one step, whatever else is in the micro-batch."""
    source = random.Random(f"{seed}:{progress}:{labels.tolist()}").getrandbits(63)
    return torch.Generator().manual_seed(source)


def ramp(start: float, end: float | None, progress: float) -> float:
    """From `start` to `end` linearly over the training; `start` throughout without an end."""
    return start if end is None else start + (end - start) * progress
