"""Terms of the loss between models with different tokenizers: ULD, ALM, GOLD and SimCT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.losses.fused.linear import Head, linear_log_probs
from methods.registry import component
from methods.slots.rows import Rows, Side, count_chunks
from methods.slots.term import PAIR, Term, Weight
from methods.tokenizers.alignment import starts_with
from methods.tokenizers.common_space import (
    ChunkRows,
    check_divergence,
    merged_divergence,
    over_chunks,
    unit_divergence,
)
from methods.tokenizers.losses import (
    CHUNK_DIVERGENCES,
    chunk_divergence,
    linear_log_mass,
    linear_sorted_l1,
    merge_chunks,
)


class PairTerm(Term):
    """A term between two tokenisations of one text; a subclass gives `between`."""

    reads = PAIR

    def total(self, rows: Rows) -> Tensor:
        return self.between(*rows.sides())

    def between(self, student: Side, teacher: Side) -> Tensor:
        """Sum over the items of a micro-batch, in nats."""
        raise MethodError(f"{type(self).__name__} does not say what it sums")


@component("term", "sorted-probabilities")
@dataclass(eq=False)
class SortedProbabilities(PairTerm):
    """ULD: L1 distance of sorted probabilities, token k of the student's completion against token k of the teacher's.

    Mean over the positions that both completions have: they are paired by their number alone, from the first token of
    the completion to the end of the shorter one.
    Source: Boizard et al., arXiv 2402.12030; weight (`distil_factor` 1.5), pairing and temperatures as in its code.
    """

    weight: Weight = 1.5
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        sizes = [(batch[name][:, 1:] != -100).sum(1) for name in ("labels", "teacher_labels")]
        return torch.minimum(*sizes).sum()

    def between(self, student: Side, teacher: Side) -> Tensor:
        # Every sequence of the micro-batch, so that both counts have one length.
        sequences = int(max(s.sequence.max() if len(s.sequence) else -1 for s in (student, teacher))) + 1
        sizes = [torch.bincount(side.sequence, minlength=sequences) for side in (student, teacher)]
        shared = torch.minimum(*sizes)
        rows = []
        for side, size in zip((student, teacher), sizes, strict=True):
            place = (
                torch.arange(len(side.sequence), device=shared.device)
                - (size.cumsum(0) - size)[side.sequence]
            )
            rows.append(side.hidden[place < shared[side.sequence]])
        return linear_sorted_l1(
            rows[0],
            student.head,
            rows[1],
            teacher.head,
            student_temperature=self.student_temperature,
            teacher_temperature=self.teacher_temperature,
        ).total


@component("term", "chunk-likelihood")
@dataclass(eq=False)
class ChunkLikelihood(PairTerm):
    """ALM: the probability of each aligned chunk, as an event that happens or not, under student and teacher.

    Mean over the smallest common chunks. `debias` multiplies a chunk's probability by that of a word boundary behind
    it: a token that begins with one of the characters of `boundary`, or a special one. A chunk behind which the
    teacher's boundary probability is at most `threshold` is joined to the next one. EOS ends a chunk for certain.
    Joined chunks still count as the ones they are made of.
    Source: Minixhofer et al., arXiv 2503.20083, section 3, appendix B (tau 100, gamma 0.1, f the KL); A.2 for others.
    """

    weight: Weight = 1.0
    temperature: float = 100.0  # tau
    debias: bool = True
    threshold: float = 0.1  # gamma
    divergence: str = "kl"
    epsilon: float = 1e-6
    boundary: str = " \n\t"

    def __post_init__(self) -> None:
        self._boundary: tuple[
            Tensor, ...
        ] = ()  # (V,) bool of both sides: ids that begin a word or end the text
        self.divergence = self.divergence.replace("-", "_")
        if self.divergence not in CHUNK_DIVERGENCES:
            raise MethodError(f"unknown divergence of chunks {self.divergence!r}; one of {CHUNK_DIVERGENCES}")
        if not 0 <= self.threshold < 1:
            raise MethodError(f"threshold is {self.threshold}, not in [0, 1)")

    def prepare(self, trainer: Any) -> None:
        self._boundary = tuple(
            starts_with(tokenizer, self.boundary.encode(), size).to(trainer.accelerator.device)
            for tokenizer, size in trainer.models.pair_vocabularies()
        )

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        return count_chunks(batch)

    def between(self, student: Side, teacher: Side) -> Tensor:
        count = student.chunk_count()
        if not count:
            return student.hidden.sum() * 0
        q = _per_chunk(student, linear_log_probs(student.hidden, student.head, student.labels), count)
        with torch.no_grad():
            p = _per_chunk(teacher, linear_log_probs(teacher.hidden, teacher.head, teacher.labels), count)
        if self.debias:
            with torch.no_grad():
                p_end, ends = _end_log_probs(teacher, self._boundary[1], count)
            q_end, q_known = _end_log_probs(student, self._boundary[0], count)
            sequence = student.sequence[student.rows_of_chunks(count)]
            numbers, stays = merge_chunks(sequence, ends & q_known & (p_end.exp() > self.threshold))
            # What joined chunks share is their end: the last one's.
            last = torch.zeros(len(stays), dtype=torch.long, device=q.device).scatter_reduce_(
                0, numbers, torch.arange(count, device=q.device), "amax"
            )
            q, p = (x.new_zeros(len(stays)).index_add(0, numbers, x) for x in (q, p))
            q, p = (q + q_end[last])[stays], (p + p_end[last])[stays]
        return chunk_divergence(
            q, p, temperature=self.temperature, divergence=self.divergence, epsilon=self.epsilon
        ).sum()


def _per_chunk(side: Side, log_probs: Tensor, count: int) -> Tensor:
    """Log-probability of each chunk (count,): the sum over its tokens."""
    inside = side.chunks >= 0
    return log_probs.new_zeros(count).index_add(0, side.chunks[inside], log_probs[inside])


def _end_log_probs(side: Side, boundary: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """log P(a boundary follows) of each chunk (count,), and where it is known: not where a length limit cut the text.

    The row after a chunk's last token is the one that predicts what follows it. Behind EOS nothing does: log P = 0.
    """
    last = side.rows_of_chunks(count)
    following = (last + 1).clamp(max=len(side.chunks) - 1)
    has_next = (following > last) & (side.sequence[following] == side.sequence[last])
    mass = linear_log_mass(side.hidden[following[has_next]], side.head, boundary)
    place = has_next.nonzero().squeeze(-1)
    return mass.new_zeros(count).index_add(0, place, mass), has_next | (side.labels[last] == side.eos)


@component("term", "merged-chunks")
@dataclass(eq=False)
class MergedChunks(PairTerm):
    """GOLD: one distribution of each chunk on each side, shared tokens compared as they are and the others sorted.

    Mean over the smallest common chunks. A chunk's distribution is that of its first token (`merge` "first") or of its
    last one ("last"), times the probability of its other tokens. `hybrid` false sorts all tokens, as ULD does.
    `matched_weight` None is the share of the teacher's ids that the student has.
    Source: HuggingFaceH4, "Unlocking On-Policy Distillation for Any Model Family", and TRL's trainer GOLD ("observed"
    and "bayesian" merging), with two differences: EOS is a chunk like any other, and all chunks of the window weigh the
    same where TRL averages within a sequence first.
    """

    weight: Weight = 1.0
    matched_weight: float | None = None
    divergence: str = "jensen_shannon"
    teacher_weight: float = 0.5  # beta of the generalised JSD
    hybrid: bool = True
    merge: str = "first"

    def __post_init__(self) -> None:
        self.divergence = self.divergence.replace("-", "_")
        check_divergence(self.divergence, self.teacher_weight)
        if self.merge not in ("first", "last"):
            raise MethodError(f"unknown merge {self.merge!r}; one of first, last")
        if self.matched_weight is not None:
            check_fraction("matched_weight", self.matched_weight)

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        return count_chunks(batch)

    def between(self, student: Side, teacher: Side) -> Tensor:
        count = student.chunk_count()
        if not count:
            return student.hidden.sum() * 0
        shared = [side.shared if self.hybrid else side.shared[:0] for side in (student, teacher)]
        divergence = partial(
            merged_divergence,
            student_shared=shared[0],
            teacher_shared=shared[1],
            matched_weight=self.matched_weight if self.hybrid else 0.0,
            divergence=self.divergence,
            teacher_weight=self.teacher_weight,
        )
        with torch.no_grad():
            theirs = self._rows(teacher, count)
        return over_chunks(divergence, self._rows(student, count), theirs).sum()

    def _rows(self, side: Side, count: int) -> ChunkRows:
        """The row whose distribution each chunk has, and the log-probability of its other tokens."""
        base = side.rows_of_chunks(count, self.merge)
        others = side.chunks >= 0
        others[base] = False
        log_probs = linear_log_probs(side.hidden[others], side.head, side.labels[others])
        rest = log_probs.new_zeros(count).index_add(0, side.chunks[others], log_probs)
        return ChunkRows(side.hidden[base], side.head, rest)


@component("term", "continuation-units")
@dataclass(eq=False)
class ContinuationUnits(PairTerm):
    """SimCT: a choice among the shared tokens and, where the text goes on otherwise, the chunk that it goes on with.

    Mean over the smallest common chunks. The chunk is scored by the mean log-probability of its tokens, from the state
    before its first one; with `unit_score` "logit" by their mean logit, each from its own state, beside the logits of
    the shared tokens. `units` false leaves out the chunks of several tokens: on-policy distillation on the shared
    vocabulary alone.
    Source: Sun et al., arXiv 2605.07711v2, section 3.3 and appendix B (reverse KL). Its code, unlike the paper's
    definition of a unit, lets a unit reach to the next token that both sides have, and averages logits.
    """

    weight: Weight = 1.0
    divergence: str = "reverse_kl"
    teacher_weight: float = 0.5
    units: bool = True
    unit_score: str = "log-probability"

    def __post_init__(self) -> None:
        self.divergence = self.divergence.replace("-", "_")
        check_divergence(self.divergence, self.teacher_weight)
        if self.unit_score not in ("log-probability", "logit"):
            raise MethodError(f'a unit is scored by log-probability or logit, not "{self.unit_score}"')

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        return count_chunks(batch) if self.units else count_single_chunks(batch)

    def between(self, student: Side, teacher: Side) -> Tensor:
        count = student.chunk_count()
        if not count:
            return student.hidden.sum() * 0
        single, known = _single_chunks(student, teacher, count)
        keep = torch.ones_like(single) if self.units else single
        unit = ~(single & known) if self.units else torch.zeros_like(single)
        divergence = partial(
            unit_divergence,
            student_shared=student.shared,
            teacher_shared=teacher.shared,
            divergence=self.divergence,
            teacher_weight=self.teacher_weight,
        )
        by_logit = self.unit_score == "logit"
        with torch.no_grad():
            theirs = _unit_rows(teacher, count, unit, keep, by_logit)
        return over_chunks(divergence, _unit_rows(student, count, unit, keep, by_logit), theirs).sum()


def count_single_chunks(batch: Mapping[str, Any]) -> Tensor:
    """How many chunks of a collated batch are one token on either side."""
    width = int(batch["chunks"].max()) + 2
    sizes = []
    for name in ("chunks", "teacher_chunks"):
        numbers = batch[name] + 1
        sizes.append(
            numbers.new_zeros(len(numbers), width).scatter_add_(1, numbers, torch.ones_like(numbers))
        )
    return ((sizes[0] == 1) & (sizes[1] == 1))[:, 1:].sum()


def _single_chunks(student: Side, teacher: Side, count: int) -> tuple[Tensor, Tensor]:
    """Which chunks (count,) are one token on either side, and which begin with a token that both sides have."""
    single, places = torch.ones(count, dtype=torch.bool, device=student.chunks.device), []
    for side in (student, teacher):
        inside = side.chunks[side.chunks >= 0]
        single = single & (torch.bincount(inside, minlength=count) == 1)
        place = side.shared.new_full((len(side.head.weight),), -1)
        place[side.shared] = torch.arange(len(side.shared), device=place.device)
        places.append(place[side.labels[side.rows_of_chunks(count, "first")]])
    return single, (places[0] == places[1]) & (places[0] >= 0)


def _unit_rows(side: Side, count: int, unit: Tensor, keep: Tensor, by_logit: bool) -> ChunkRows:
    """The first row of each kept chunk; its score where it is a unit, else -inf.

    The score is the mean log-probability of its tokens, or their mean logit less what makes the first row's logits
    log-probabilities.
    """
    inside = side.chunks >= 0
    inside[inside.clone()] = unit[side.chunks[inside]]
    hidden, labels, chunks = side.hidden[inside], side.labels[inside], side.chunks[inside]
    log_probs = linear_log_probs(hidden, side.head, labels)
    scores, first = log_probs, log_probs.new_zeros(count)
    if by_logit:
        scores = label_logits(hidden, side.head, labels).to(log_probs.dtype)
        begins = torch.ones_like(chunks, dtype=torch.bool)
        begins[1:] = chunks[1:] != chunks[:-1]
        first = first.index_add(0, chunks[begins], (log_probs - scores)[begins])
    total = log_probs.new_zeros(count).index_add(0, chunks, scores)
    size = torch.bincount(chunks, minlength=count).clamp(min=1)
    score = torch.where(unit, total / size + first, -torch.inf)
    return ChunkRows(side.hidden[side.rows_of_chunks(count, "first")][keep], side.head, score[keep])


def label_logits(hidden: Tensor, head: Head, labels: Tensor) -> Tensor:
    """The logit of one id for each row: hidden states (N, H), ids (N,) -> (N,), in fp32 or float64."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    logits = (hidden.to(wide) * head.weight[labels].to(wide)).sum(-1)
    if head.bias is not None:
        logits = logits + head.bias[labels].to(wide)
    logits = logits * head.scale
    return logits if head.soft_cap is None else head.soft_cap * (logits / head.soft_cap).tanh()
