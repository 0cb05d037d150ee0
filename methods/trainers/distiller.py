"""One trainer for every loss that is a sum of terms: on any sampler's sequences, from any teachers, or from none."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, PrinterCallback

from methods.errors import MethodError
from methods.modeling.core import core_model, snapshot
from methods.modeling.normalise import window_mean, window_tokens
from methods.slots.features import LayerFilters
from methods.slots.rows import Rows
from methods.slots.samplers import Example, Sampler
from methods.slots.term import Term, Window, weight_at
from methods.slots.terms.hidden import TaskFilters
from methods.tokenizers.alignment import ByteSpans
from methods.tokenizers.text_pairs import PairCollator, encode_pairs, eos_of
from methods.trainers.base import RowsTrainer, same_random_numbers
from methods.trainers.models import SAID, Models
from methods.trainers.sampling import Sampling
from methods.trainers.teachers import Teachers, as_teachers, readers
from methods.trainers.trl_compat import SFTConfig, through_wrapper
from methods.trainers.views import SameTokens, TextPairs, View


class Hook(Protocol):
    """Told of each optimizer step before it; what has `state` and `restore` (plain data) is kept in checkpoints."""

    def begin_step(self, window: Window) -> None:
        """Called on every rank: `window` has the batches after sampling, the progress and the trainer."""
        ...


class Distiller(RowsTrainer):
    """Sum of terms on the sequences that a sampler chooses, from any number of teachers or from none.

    loss = sum_terms weight * (sum over the accumulation window and all ranks) / (the term's own count there)

    A term of weight 0 is left out. A term counts completion tokens where it says nothing else, whatever their source.
    Counts depend on the ids alone, so that micro-batches and ranks do not change the update. A term that is a module
    learns along (methods.slots.term).
    Teachers are frozen and never resized; each is held against the student's tokenizer. Those with the student's tokens
    read its ids, heads of different size sharing the leading ones; a `TeacherStore` takes a teacher's place where the
    sequences are those that it was filled with. Where a term compares two tokenisations, rows are text (`prompt`,
    `completion`), encoded and aligned once by both tokenizers, or what `text_pairs.encode_pairs` made of such rows;
    `max_length` of the arguments limits the student's tokens, `teacher_max_length` (default: the same) the teacher's.
    Sampling happens once per optimizer step for the whole window, in evaluation mode; `max_completion_length` is the
    limit of a rollout in tokens; `rollout_counts`, `retokenised` and `token_counts` say what it cost.
    `gradient_balance` multiplies each term's weight by 1 / |its gradient on the LM head| over the window, normalised
    to sum to 1 (GradMag: ALM, arXiv 2503.20083, section 3.3); it costs a forward pass of the student.
    Source: the slots of GKD (arXiv 2306.13649, section 3) and of the papers after it; without a teacher, supervised
    fine-tuning (the survey, arXiv 2402.13116, section 3.2.1).
    Raises MethodError for terms, teachers and rows that do not fit.
    """

    def __init__(
        self,
        model: Any,
        *,
        terms: Sequence[Term],
        args: SFTConfig,
        train_dataset: Dataset,
        processing_class: PreTrainedTokenizerBase,
        teacher: Teachers | Sequence[Teachers] | None = None,
        sampler: Sampler | None = None,
        hooks: Sequence[Hook] = (),
        eval_dataset: Dataset | None = None,
        gradient_balance: bool = False,
        max_completion_length: int = 256,
        teacher_max_length: int | None = None,
        **kwargs: Any,
    ):
        terms = [term for term in terms if callable(term.weight) or term.weight != 0]  # 0 leaves a term out
        if not terms:
            raise MethodError("a distillation needs at least one term")
        given = as_teachers(teacher)
        along = getattr(sampler, "teacher_reads_along", False)
        who = readers(given, terms, core_model(model), processing_class, along=along)
        pair_of: tuple[Any, ...] = ()
        if who.pair is not None:
            pair_of = (processing_class, who.pair.tokenizer or processing_class)
            args, kept = copy.copy(args), [getattr(sampler, "column", None)]
            args.dataset_kwargs = {"skip_prepare_dataset": True}
            args.remove_unused_columns = False
            limits = args.max_length, teacher_max_length or args.max_length
            train_dataset = _paired(train_dataset, pair_of, limits, kept)
            eval_dataset = None if eval_dataset is None else _paired(eval_dataset, pair_of, limits, kept)
            collator = PairCollator(*(_pad_of(tokenizer) for tokenizer in pair_of))
            kwargs["data_collator"] = collator
        super().__init__(
            model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.terms, self.hooks, self.gradient_balance = tuple(terms), tuple(hooks), gradient_balance
        self.max_completion_length = max_completion_length
        self.models = Models(self, given, who, pair_of)
        self.sampling = None if sampler is None else Sampling(self, sampler, max_completion_length)
        for rows in (self.train_dataset, self.eval_dataset):
            self.models.check_rows(rows)
        self.view: View = SameTokens(self.processing_class.pad_token_id)  # type: ignore[union-attr]
        if pair_of:
            stops = set() if self.sampling is None else set(self.sampling.stop_ids)
            spans = [ByteSpans(tokenizer) for tokenizer in pair_of]
            self.view = TextPairs(spans, limits, collator, stops.__contains__)
        parts: list[Any] = [*self.terms, *self.hooks, sampler, *self.models.prompts]
        for part in parts:
            if hasattr(part, "prepare"):
                part.prepare(self)
        self.models.record(terms)
        learning = [term for term in self.terms if isinstance(term, nn.Module)]
        self._learning = nn.ModuleList(learning).to(self.accelerator.device)
        self._factors: list[Tensor | float] | None = None
        self._window_loss: Tensor | None = None
        self._looking = False  # at gradients, before the step: what is read then is no training

    # What terms, hooks and samplers may ask.

    def examples_by(self, column: str, rows: Dataset) -> dict[str, list[Example]]:
        """The examples of tokenised rows by what stands in a column, in the order in which that first appears."""
        if column not in rows.column_names:
            raise MethodError(f"rows have no column {column!r}, only {', '.join(rows.column_names)}")
        groups: dict[str, list[Example]] = {name: [] for name in rows[column]}
        for name, example in zip(rows[column], self.view.examples_in(rows), strict=True):
            groups[name].append(example)
        return groups

    def task_filters(
        self, model: Any, blocks: Sequence[int], size: int, *, learning_rate: float | None, seed: int
    ) -> LayerFilters:
        """Filters `size` wide of some blocks of a frozen model, taught the task on the training rows (TED, stage I).

        As this trainer trains, but at a learning rate and from a seed of their own; its random numbers stay.
        """
        if self.models.pair is not None:
            raise MethodError("task filters are taught on one tokenisation, not on rows of two")
        args: Any = copy.copy(self.args)
        args.output_dir = str(Path(str(self.args.output_dir)) / "task-filters")
        args.save_strategy, args.dataset_kwargs = "no", {"skip_prepare_dataset": True}
        args.seed = args.data_seed = seed
        args.learning_rate = args.learning_rate if learning_rate is None else learning_rate
        filters = LayerFilters(tuple(blocks), model.config.hidden_size, size, seed=seed)
        with same_random_numbers():
            learner = Distiller(
                snapshot(model),
                terms=[TaskFilters(filters)],
                args=args,
                train_dataset=self.train_dataset,
                processing_class=self.processing_class,  # type: ignore[arg-type]
            )
            learner.remove_callback(PrinterCallback)  # it writes to stdout, which is not a library's
            learner.train()
        return filters

    # What is remembered.

    @property
    def rollout_counts(self) -> dict[str, int]:
        """Completions sampled on this rank, and how many of them were truncated or empty."""
        none = {"completions": 0, "truncated": 0, "empty": 0}
        return none if self.sampling is None else self.sampling.counts

    @property
    def retokenised(self) -> int:
        """Sampled completions that the student's own tokenizer cut otherwise when they came back from text."""
        return self.view.retokenised

    def count_tokens(self, who: str, tokens: Tensor) -> None:
        if not self._looking:
            super().count_tokens(who, tokens)

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        plain, tensors = super().remembered()
        own = {
            "rollouts": self.rollout_counts,
            "retokenised": self.retokenised,
            "window_loss": None if self._window_loss is None else self._window_loss.item(),
            "slots": {name: slot.state() for name, slot in self._slots() if hasattr(slot, "state")},
        }
        return plain | own, tensors | self.models.followers()

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().recall(plain, tensors)
        if self.sampling is not None:
            self.sampling.counts = plain["rollouts"]
        self.view.retokenised = plain["retokenised"]
        if plain["window_loss"] is not None:
            self._window_loss = torch.tensor(plain["window_loss"], device=self.accelerator.device)
        for name, weight in self.models.followers().items():
            weight.copy_(tensors[name])
        for name, slot in self._slots():
            if hasattr(slot, "state"):
                slot.restore(plain["slots"][name])

    def _slots(self) -> list[tuple[str, Any]]:
        """The sampler, terms and what is in them, and hooks, by name."""
        slots: list[tuple[str, Any]] = [("sampler", None if self.sampling is None else self.sampling.sampler)]
        for n, term in enumerate(self.terms):
            slots += [
                (f"term {n}", term),
                *((f"term {n} {name}", part) for name, part in term.parts().items()),
            ]
        return slots + [(f"hook {n}", hook) for n, hook in enumerate(self.hooks)]

    # One optimizer step: the window's examples, what the sampler makes of them, and each term's factor.

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, tokens
        last, self._window_loss = self._window_loss, None
        self.models.begin_step()
        if self.sampling is not None:
            batches = self.sampling(batches)
            tokens = self._get_num_items_in_batch(batches, device)
        reduce = self.accelerator.reduce
        window = Window(
            self.progress,
            batches,
            lambda: None if last is None else float(reduce(last, "mean")),
            lambda local: reduce(local.to(self.accelerator.device), "sum"),
            self,
        )
        for _, slot in self._slots():
            if hasattr(slot, "begin_step"):
                slot.begin_step(window)
        self._factors = self._window_factors(batches, tokens)
        return batches, tokens

    def _window_factors(self, batches: list[dict[str, Any]], tokens: Any) -> list[Tensor | float]:
        """What each term's sum is multiplied by before `compute_loss` divides by the window's tokens."""
        factors: list[Tensor | float] = []
        for term in self.terms:
            weight, counts = weight_at(term.weight, self.progress), [term.count(batch) for batch in batches]
            if counts[0] is None:
                factors.append(weight)
            else:
                count = window_tokens(sum(counts), self.accelerator)  # type: ignore[arg-type]
                factors.append(weight * tokens / count.clamp(min=1))
        if not self.gradient_balance:
            return factors
        norms = torch.stack(
            [factor * g.norm() for factor, g in zip(factors, self._head_gradients(batches), strict=True)]
        )
        shares = 1 / norms.clamp(min=1e-30)
        shares = torch.where(norms > 0, shares, 0.0)
        return [f * s for f, s in zip(factors, shares / shares.sum().clamp(min=1e-30), strict=True)]

    def _head_gradients(self, batches: list[dict[str, Any]]) -> list[Tensor]:
        """The gradient of each term's sum over the window on the LM head's weight, summed over ranks."""
        inner = self.accelerator.unwrap_model(self.model)
        core = core_model(inner)

        def local() -> list[Tensor]:
            sums: list[Any] = [0] * len(self.terms)
            for batch in batches:
                with self.accelerator.autocast():
                    batch[SAID] = self.models.said(batch)
                    rows = self.models.rows(core, batch)
                    weight = rows.head.weight.detach().requires_grad_()
                    head = replace(rows.head, weight=weight)
                    pair = None if rows.pair is None else (replace(rows.pair[0], head=head), rows.pair[1])
                    rows = replace(rows, head=head, pair=pair)
                    for i, term in enumerate(self.terms):
                        with torch.enable_grad():
                            value = term.total(rows)
                        if value.requires_grad:
                            sums[i] += torch.autograd.grad(
                                value, weight, allow_unused=True, materialize_grads=True
                            )[0]
            return [weight.new_zeros(()) if isinstance(s, int) else s for s in sums]

        self._looking = True
        try:
            with torch.no_grad():
                sums = through_wrapper(self.model_wrapped, inner, local)
        finally:
            self._looking = False
        return [self.accelerator.reduce(total, "sum") for total in sums]

    # The loss.

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if return_outputs:
            raise MethodError("the fused loss makes no logits to return")
        inner = self.accelerator.unwrap_model(model)
        core = core_model(inner)
        factors = self.factors_of(inputs, num_items_in_batch)
        total = through_wrapper(
            model, inner, lambda: self.sum_of_terms(self.models.rows(core, inputs), factors)
        )
        return self.share_of_window(total, inputs, num_items_in_batch)

    def factors_of(self, inputs: dict[str, Any], window: Any) -> Sequence[Tensor | float]:
        """What each term's sum over a batch is multiplied by; `window` is its window's tokens, None in evaluation."""
        if window is None:  # each term's mean over this batch, without balance
            tokens = (inputs["labels"][:, 1:] != -100).sum()
            counts = [term.count(inputs) for term in self.terms]
            weights = [weight_at(term.weight, self.progress) for term in self.terms]
            pairs = zip(weights, counts, strict=True)
            return [w if c is None else w * tokens / c.to(tokens.device).clamp(min=1) for w, c in pairs]
        if self._factors is None:  # no step has begun: the batch is the window
            return self._window_factors([inputs], window)
        return self._factors

    def sum_of_terms(self, rows: Rows, factors: Sequence[Tensor | float]) -> Tensor:
        """The terms' sums over a batch, each times its factor."""
        total = rows.hidden.sum() * 0  # a graph even where no term has items
        for factor, term in zip(factors, self.terms, strict=True):
            total = total + factor * term.total(rows)
        return total

    def share_of_window(self, total: Tensor, inputs: dict[str, Any], window: Any) -> Tensor:
        """The batch's share of the loss by its `sum_of_terms`; counts what the student has read."""
        self.count_tokens("student", inputs["attention_mask"].sum())
        if window is None:
            return total / (inputs["labels"][:, 1:] != -100).sum().clamp(min=1)
        loss = window_mean(total, window, self.accelerator)
        if self.model.training:  # type: ignore[union-attr]
            seen = loss.detach()
            self._window_loss = seen if self._window_loss is None else self._window_loss + seen
        return loss


def _pad_of(tokenizer: PreTrainedTokenizerBase) -> int:
    return eos_of(tokenizer) if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)


def _paired(
    rows: Dataset, tokenizers: Sequence[Any], limits: Sequence[int | None], kept: Sequence[str | None]
) -> Dataset:
    """Rows of text under both tokenizers; those that are already stay as they are."""
    if "teacher_input_ids" in rows.column_names:
        return rows
    columns = [name for name in kept if name is not None and name in rows.column_names]
    longest, teacher_longest = limits
    return encode_pairs(
        rows, *tokenizers, max_length=longest, teacher_max_length=teacher_longest, keep=columns
    )
