"""Distillation from a teacher with another tokenizer: ULD and ALM, on fixed text that both sides encode."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from methods.algorithms.sft import SFTConfig, SFTTrainer
from methods.alignment import starts_with
from methods.cross_tokenizer import (
    CHUNK_DIVERGENCES,
    chunk_divergence,
    linear_log_mass,
    linear_sorted_l1,
    merge_chunks,
)
from methods.errors import MethodError
from methods.fused import Head, head_of, linear_cross_entropy, linear_log_probs
from methods.models import core_model, freeze, hidden_states
from methods.normalise import window_tokens
from methods.text_pairs import PairCollator, encode_pairs, eos_of

__all__ = ["ChunkLikelihood", "CrossTokenizerTrainer", "NextToken", "SFTConfig", "SortedProbabilities"]

BOUNDARY_BYTES = b" \n\t"


@dataclass(frozen=True)
class Side:
    """The N completion tokens of one model in a micro-batch, sequence by sequence."""

    hidden: Tensor  # (N, H); row n predicts label n
    head: Head
    labels: Tensor  # (N,)
    sequence: Tensor  # (N,) row of the micro-batch
    chunks: Tensor  # (N,) number of the chunk within the micro-batch, -1 for none
    boundary: Tensor  # (V,) bool: ids that begin a word or end the text
    eos: int


class LossTerm(Protocol):
    """A term of the loss: its weight, what it counts in a collated batch, and its sum over the micro-batch."""

    @property
    def weight(self) -> float: ...

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        """How many items its mean is over; known from the ids alone."""
        ...

    def total(self, student: Side, teacher: Side) -> Tensor:
        """Sum over the items, in nats."""
        ...


@dataclass(frozen=True)
class NextToken:
    """-log q(label): mean over the student's completion tokens."""

    weight: float = 1.0

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["labels"][:, 1:] != -100).sum()

    def total(self, student: Side, teacher: Side) -> Tensor:
        return linear_cross_entropy(student.hidden, student.head, student.labels).total


@dataclass(frozen=True)
class SortedProbabilities:
    """ULD: L1 distance of sorted probabilities, token k of the student's completion against token k of the teacher's.

    Mean over the positions that both completions have: they are paired by their number alone, from the first token of
    the completion to the end of the shorter one.
    Source: Boizard et al., arXiv 2402.12030; weight (`distil_factor` 1.5), pairing and temperatures as in its code.
    """

    weight: float = 1.5
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        sizes = [(batch[name][:, 1:] != -100).sum(1) for name in ("labels", "teacher_labels")]
        return torch.minimum(*sizes).sum()

    def total(self, student: Side, teacher: Side) -> Tensor:
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


@dataclass(frozen=True)
class ChunkLikelihood:
    """ALM: the probability of each aligned chunk, as an event that happens or not, under student and teacher.

    Mean over the smallest common chunks. `debias` multiplies a chunk's probability by that of a word boundary behind
    it; a chunk behind which the teacher's boundary probability is at most `threshold` is joined to the next one. EOS
    ends a chunk for certain. Joined chunks still count as the ones they are made of.
    Source: Minixhofer et al., arXiv 2503.20083, section 3, appendix B (tau 100, gamma 0.1, f the KL); A.2 for others.
    """

    weight: float = 1.0
    temperature: float = 100.0  # tau
    debias: bool = True
    threshold: float = 0.1  # gamma
    divergence: str = "kl"
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if self.divergence not in CHUNK_DIVERGENCES:
            raise MethodError(f"unknown divergence of chunks {self.divergence!r}; one of {CHUNK_DIVERGENCES}")
        if not 0 <= self.threshold < 1:
            raise MethodError(f"threshold is {self.threshold}, not in [0, 1)")

    def count(self, batch: dict[str, Tensor]) -> Tensor:
        return (batch["chunks"].amax(1) + 1).sum()

    def total(self, student: Side, teacher: Side) -> Tensor:
        count = int(student.chunks.max()) + 1 if len(student.chunks) else 0
        if not count:
            return student.hidden.sum() * 0
        q = _per_chunk(student, linear_log_probs(student.hidden, student.head, student.labels), count)
        with torch.no_grad():
            p = _per_chunk(teacher, linear_log_probs(teacher.hidden, teacher.head, teacher.labels), count)
        if self.debias:
            with torch.no_grad():
                p_end, ends = _end_log_probs(teacher, count)
            q_end, q_known = _end_log_probs(student, count)
            sequence = student.sequence[_last_rows(student, count)]
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


def _last_rows(side: Side, count: int) -> Tensor:
    """The row of each chunk's last token (count,)."""
    rows = torch.arange(len(side.chunks), device=side.chunks.device)
    inside = side.chunks >= 0
    return rows.new_zeros(count).scatter_reduce_(0, side.chunks[inside], rows[inside], "amax")


def _end_log_probs(side: Side, count: int) -> tuple[Tensor, Tensor]:
    """log P(a boundary follows) of each chunk (count,), and where it is known: not where a length limit cut the text.

    The row after a chunk's last token is the one that predicts what follows it. Behind EOS nothing does: log P = 0.
    """
    last = _last_rows(side, count)
    following = (last + 1).clamp(max=len(side.chunks) - 1)
    has_next = (following > last) & (side.sequence[following] == side.sequence[last])
    mass = linear_log_mass(side.hidden[following[has_next]], side.head, side.boundary)
    place = has_next.nonzero().squeeze(-1)
    return mass.new_zeros(count).index_add(0, place, mass), has_next | (side.labels[last] == side.eos)


class CrossTokenizerTrainer(SFTTrainer):
    """Weighted sum of terms between a student and a teacher with another tokenizer, on fixed text.

    loss = sum_terms weight * (sum over the accumulation window and all ranks) / (the term's own count there)

    Each term is a mean over what it counts (tokens, paired positions, aligned chunks): counts that depend on the ids
    alone, so that micro-batches and ranks do not change the update. Rows are text (`prompt`, `completion`), encoded
    and aligned once, by both tokenizers, or what `methods.text_pairs.encode_pairs` made of such rows. `max_length` of
    the arguments limits the student's tokens, `teacher_max_length` (default: the same) the teacher's.
    `gradient_balance` multiplies each term's weight by 1 / |its gradient on the LM head| over the window, normalised
    to sum to 1 (GradMag: ALM, arXiv 2503.20083, section 3.3); it costs a forward pass of the student.
    Raises MethodError for rows or tokenizers that cannot be aligned.
    """

    def __init__(
        self,
        model: Any,
        *,
        teacher: PreTrainedModel,
        teacher_tokenizer: PreTrainedTokenizerBase,
        terms: Sequence[LossTerm],
        args: SFTConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        eval_dataset: Dataset | None = None,
        gradient_balance: bool = False,
        teacher_max_length: int | None = None,
        boundary_bytes: bytes = BOUNDARY_BYTES,
        **kwargs: Any,
    ):
        if not terms:
            raise MethodError("a distillation needs at least one term")
        args = copy.copy(args)
        args.dataset_kwargs = {"skip_prepare_dataset": True}
        args.remove_unused_columns = False
        limits = {"max_length": args.max_length, "teacher_max_length": teacher_max_length or args.max_length}

        def encoded(rows: Dataset | None) -> Dataset | None:
            if rows is None or "teacher_input_ids" in rows.column_names:
                return rows
            return encode_pairs(rows, processing_class, teacher_tokenizer, **limits)

        eos = eos_of(processing_class), eos_of(teacher_tokenizer)
        pads = [t.pad_token_id for t in (processing_class, teacher_tokenizer)]
        super().__init__(
            model,
            args=args,
            train_dataset=encoded(train_dataset),
            eval_dataset=encoded(eval_dataset),
            processing_class=processing_class,
            data_collator=PairCollator(
                *(e if pad is None else pad for pad, e in zip(pads, eos, strict=True))
            ),
            **kwargs,
        )
        self.terms, self.gradient_balance = tuple(terms), gradient_balance
        student = core_model(self.accelerator.unwrap_model(self.model))
        self.teacher = self.accelerator.prepare_model(freeze(teacher), evaluation_mode=True)
        self._eos = eos
        self._boundary = tuple(
            starts_with(tokenizer, boundary_bytes, len(head_of(core).weight)).to(self.accelerator.device)
            for tokenizer, core in ((processing_class, student), (teacher_tokenizer, teacher))
        )
        self._factors: list[Tensor | float] = []

    # The window: what each term counts in it, and, where asked for, how large its gradient is.

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            self._factors = self._window_factors(batches, tokens)
        return batches, tokens

    def _window_factors(self, batches: list[dict[str, Tensor]], tokens: Any) -> list[Tensor | float]:
        """What each term's sum is multiplied by before `compute_loss` divides by the window's tokens."""
        factors = []
        for term in self.terms:
            count = window_tokens(sum(term.count(batch) for batch in batches), self.accelerator)
            factors.append(term.weight * tokens / count.clamp(min=1))
        if not self.gradient_balance:
            return factors
        norms = torch.stack(
            [factor * g.norm() for factor, g in zip(factors, self._head_gradients(batches), strict=True)]
        )
        shares = 1 / norms.clamp(min=1e-30)
        shares = torch.where(norms > 0, shares, 0.0)
        return [f * s for f, s in zip(factors, shares / shares.sum().clamp(min=1e-30), strict=True)]

    def _head_gradients(self, batches: list[dict[str, Tensor]]) -> list[Tensor]:
        """The gradient of each term's sum over the window on the LM head's weight, summed over ranks."""
        core = core_model(self.accelerator.unwrap_model(self.model))
        sums = [torch.zeros_like(head_of(core).weight) for _ in self.terms]
        for batch in batches:
            labels = batch["labels"][:, 1:]
            rows = labels != -100
            with self.accelerator.autocast():
                with torch.no_grad():
                    states = hidden_states(core, batch["input_ids"], batch["attention_mask"])
                    batch["teacher_hidden"] = self._teacher_hidden(batch)
                student, teacher = self._sides(core, states[:, :-1][rows], labels[rows], batch, rows)
                weight = student.head.weight.detach().requires_grad_()
                student = replace(student, head=replace(student.head, weight=weight))
                for total, term in zip(sums, self.terms, strict=True):
                    value = term.total(student, teacher)
                    total += torch.autograd.grad(value, weight, allow_unused=True, materialize_grads=True)[0]
        return [self.accelerator.reduce(total, "sum") for total in sums]

    # The loss.

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if (
            num_items_in_batch is None
        ):  # evaluation: each term's mean over this batch, weighted without balance
            tokens = (inputs["labels"][:, 1:] != -100).sum()
            self._factors = [t.weight * tokens / t.count(inputs).clamp(min=1) for t in self.terms]
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def row_loss(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> Tensor:
        student, teacher = self._sides(core, hidden, labels, inputs, rows)
        self.count_tokens("teacher", inputs["teacher_attention_mask"].sum())
        total = hidden.sum() * 0  # a graph even where no term has items
        for factor, term in zip(self._factors, self.terms, strict=True):
            total = total + factor * term.total(student, teacher)
        return total

    def _teacher_hidden(self, inputs: dict[str, Tensor]) -> Tensor:
        teacher = self.accelerator.unwrap_model(self.teacher)
        rows = inputs["teacher_labels"][:, 1:] != -100
        with torch.no_grad():
            states = hidden_states(teacher, inputs["teacher_input_ids"], inputs["teacher_attention_mask"])
        return states[:, :-1][rows]

    def _sides(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> tuple[Side, Side]:
        counts = inputs["chunks"].amax(1) + 1
        offsets = counts.cumsum(0) - counts
        theirs = inputs["teacher_labels"][:, 1:] != -100
        made = inputs.get("teacher_hidden")  # by the gradient balance
        teacher = self.accelerator.unwrap_model(self.teacher)

        def side(
            hidden: Tensor, head: Head, labels: Tensor, chunks: Tensor, rows: Tensor, which: int
        ) -> Side:
            sequence = torch.arange(len(rows), device=rows.device).unsqueeze(1).expand_as(rows)[rows]
            inside = chunks[:, 1:][rows]
            numbers = torch.where(inside >= 0, inside + offsets[sequence], -1)
            return Side(hidden, head, labels, sequence, numbers, self._boundary[which], self._eos[which])

        return (
            side(hidden, head_of(core), labels, inputs["chunks"], rows, 0),
            side(
                self._teacher_hidden(inputs) if made is None else made,
                head_of(teacher),
                inputs["teacher_labels"][:, 1:][theirs],
                inputs["teacher_chunks"],
                theirs,
                1,
            ),
        )
