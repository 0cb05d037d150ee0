"""Distillation from a teacher with another tokenizer: on text that both sides encode, given or the student's own."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from methods.errors import MethodError
from methods.losses.fused.linear import head_of
from methods.modeling.core import attached, core_model, eos_ids, freeze, hidden_states
from methods.modeling.normalise import window_tokens
from methods.modeling.rollouts import rollout
from methods.modeling.sharding import gathered
from methods.slots.samplers import Example, Sampler, Step
from methods.tokenizers.alignment import ByteSpans, shared_tokens, starts_with
from methods.tokenizers.terms import (
    ChunkLikelihood,
    ContinuationUnits,
    LossTerm,
    MergedChunks,
    NextToken,
    Side,
    SortedProbabilities,
)
from methods.tokenizers.text_pairs import PairCollator, encode_pairs, encode_texts, eos_of, rows_of
from methods.trainers.sft import SFTConfig, SFTTrainer
from methods.trainers.trl_compat import through_wrapper

__all__ = [
    "ChunkLikelihood",
    "ContinuationUnits",
    "CrossTokenizerTrainer",
    "LossTerm",
    "MergedChunks",
    "NextToken",
    "SFTConfig",
    "SortedProbabilities",
]

BOUNDARY_BYTES = b" \n\t"
TERMS, TERMS_FILE = "loss_terms", "loss_terms.safetensors"


class CrossTokenizerTrainer(SFTTrainer):
    """Weighted sum of terms between a student and a teacher with another tokenizer.

    loss = sum_terms weight * (sum over the accumulation window and all ranks) / (the term's own count there)

    Each term is a mean over what it counts (tokens, paired positions, aligned chunks): counts that depend on the ids
    alone, so that micro-batches and ranks do not change the update. Rows are text (`prompt`, `completion`), encoded
    and aligned once, by both tokenizers, or what `text_pairs.encode_pairs` made of such rows. `max_length` of the
    arguments limits the student's tokens, `teacher_max_length` (default: the same) the teacher's.
    A `sampler` changes completions before a step, e.g. to what the student writes (GOLD, SimCT): its tokens are made
    text, which both tokenizers encode; `retokenised` counts completions that the student's own then cuts otherwise.
    A term may be a module (DSKD): its parameters train with the student, at `learning_rate_factor` times its learning
    rate, and a checkpoint keeps them beside it; the student leaves the training without them.
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
        sampler: Sampler | None = None,
        max_completion_length: int = 256,
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
        limits = (args.max_length, teacher_max_length or args.max_length)

        def encoded(rows: Dataset | None) -> Dataset | None:
            if rows is None or "teacher_input_ids" in rows.column_names:
                return rows
            longest, teacher_longest = limits
            return encode_pairs(
                rows,
                processing_class,
                teacher_tokenizer,
                max_length=longest,
                teacher_max_length=teacher_longest,
            )

        tokenizers = processing_class, teacher_tokenizer
        eos = eos_of(processing_class), eos_of(teacher_tokenizer)
        pads = [e if t.pad_token_id is None else t.pad_token_id for t, e in zip(tokenizers, eos, strict=True)]
        super().__init__(
            model,
            args=args,
            train_dataset=encoded(train_dataset),
            eval_dataset=encoded(eval_dataset),
            processing_class=processing_class,
            data_collator=PairCollator(*pads),
            **kwargs,
        )
        self.terms, self.gradient_balance = tuple(terms), gradient_balance
        device = self.accelerator.device
        student = core_model(self.accelerator.unwrap_model(self.model))
        self.teacher = self.accelerator.prepare_model(freeze(teacher), evaluation_mode=True)
        self._trained_terms = nn.ModuleList(t for t in terms if isinstance(t, nn.Module)).to(device)
        self._eos, self._pad_id = eos, pads[0]
        sizes = [len(head_of(core).weight) for core in (student, teacher)]
        self._boundary = tuple(
            starts_with(tokenizer, boundary_bytes, size).to(device)
            for tokenizer, size in zip(tokenizers, sizes, strict=True)
        )
        ids = torch.tensor(shared_tokens(*tokenizers), device=device)
        self._shared = ids[:, (ids < torch.tensor(sizes, device=device).unsqueeze(1)).all(0)]
        self._factors: list[Tensor | float] = []
        self.sampler, self.max_completion_length = sampler, max_completion_length
        self.rollout_counts = {"completions": 0, "truncated": 0, "empty": 0}
        self.retokenised = 0
        self._limits, self._spans = limits, tuple(ByteSpans(t) for t in tokenizers)
        self._stop_ids = eos_ids(student, processing_class) if sampler is not None else []

    # Terms that learn: part of the student while it trains, beside it in its checkpoints.

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if not len(self._trained_terms):
            return super().train(*args, **kwargs)
        core: Any = core_model(self.accelerator.unwrap_model(self.model))
        left_out = core._keys_to_ignore_on_save
        with attached(core, **{TERMS: self._trained_terms}):
            core._keys_to_ignore_on_save = {
                *(left_out or ()),
                *(f"{TERMS}.{name}" for name in self._trained_terms.state_dict()),
            }
            try:
                return super().train(*args, **kwargs)
            finally:
                core._keys_to_ignore_on_save = left_out

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(*args, **kwargs)
        for term in self._trained_terms:
            own = {id(p) for p in term.parameters()}
            for group in optimizer.param_groups:
                group["params"] = [p for p in group["params"] if id(p) not in own]
            rate = self.args.learning_rate * float(term.learning_rate_factor)  # type: ignore[arg-type]
            optimizer.add_param_group({"params": list(term.parameters()), "lr": rate})
        return optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call and len(self._trained_terms) and self.args.should_save:
            tensors = {name: t.detach().cpu() for name, t in self._trained_terms.state_dict().items()}
            save_file(tensors, Path(output_dir or str(self.args.output_dir)) / TERMS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint) / TERMS_FILE
        if len(self._trained_terms) and path.is_file():
            self._trained_terms.load_state_dict(load_file(path))

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        plain, tensors = super().remembered()
        sampler: Any = self.sampler
        own = {"rollouts": self.rollout_counts, "retokenised": self.retokenised}
        if hasattr(sampler, "state"):
            own["sampler"] = sampler.state()
        return plain | own, tensors

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().recall(plain, tensors)
        self.rollout_counts, self.retokenised = plain["rollouts"], plain["retokenised"]
        sampler: Any = self.sampler
        if hasattr(sampler, "restore"):
            sampler.restore(plain["sampler"])

    # The window: what each term counts in it, and, where asked for, how large its gradient is.

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, tokens
        if self.sampler is not None:
            batches = self._sampled(batches)
            tokens = self._get_num_items_in_batch(batches, device)
        self._factors = self._window_factors(batches, tokens)
        return batches, tokens

    def _sampled(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The batches with the completions that the sampler makes of theirs."""
        assert self.sampler is not None
        rows = [row for batch in batches for row in rows_of(batch)]
        window = [_example(row) for row in rows]
        # As in methods.trainers.distillation: one source for a step and rank, so that a resumed run draws the same.
        source = random.Random(f"{self.args.seed}:{self.accelerator.process_index}:{self.state.global_step}")
        progress = self.state.global_step / max(1, self.state.max_steps)
        with gathered(self.accelerator.unwrap_model(self.model)):
            examples = self.sampler(window, Step(progress, source, self._generator(source), _no_validation))
        if len(examples) != len(window):
            raise MethodError(
                f"the sampler made {len(examples)} examples of {len(window)}: one for each is needed"
            )
        changed = [
            n
            for n, pair in enumerate(zip(window, examples, strict=True))
            if pair[0].completion != pair[1].completion
        ]
        written = [examples[n].completion for n in changed]
        made = encode_texts(
            [rows[n]["prompt"] for n in changed],
            [self._spans[0].text(ids) for ids in written],
            self._spans,
            self._limits,
            ended=[bool(ids) and ids[-1] in self._stop_ids for ids in written],
        )
        for n, ids, row in zip(changed, written, made, strict=True):
            self.retokenised += _example(row).completion != ids
            rows[n] = row
        parts, device = [], batches[0]["input_ids"].device
        for batch in batches:
            part, rows = rows[: len(batch["prompt"])], rows[len(batch["prompt"]) :]
            parts.append(
                {k: v.to(device) if isinstance(v, Tensor) else v for k, v in self.data_collator(part).items()}
            )
        return parts

    def _generator(self, source: random.Random) -> Callable[..., list[list[int]]]:
        def generate(prompts: list[list[int]], **settings: Any) -> list[list[int]]:
            if settings.get("teacher_mix"):
                raise MethodError("a teacher with other tokens cannot write half of a completion")
            student = self.accelerator.unwrap_model(self.model)
            with self.accelerator.autocast():
                made = rollout(
                    student,
                    prompts,
                    max_new_tokens=self.max_completion_length,
                    eos_ids=self._stop_ids,
                    pad_id=self._pad_id,
                    generator=torch.Generator(device=student.device).manual_seed(source.getrandbits(63)),
                    **settings,
                )
            self.count_tokens("generated", made.completion_mask.sum())
            self.count_tokens("student", made.prompt_mask.sum() + made.completion_mask.sum())
            for name, number in made.counts().items():
                self.rollout_counts[name] += number
            kept = made.completion_mask.bool()
            return [ids[keep].tolist() for ids, keep in zip(made.completion_ids, kept, strict=True)]

        return generate

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
        inner = self.accelerator.unwrap_model(self.model)
        core = core_model(inner)

        def local() -> list[Tensor]:
            sums: list[Any] = [0] * len(self.terms)
            for batch in batches:
                labels = batch["labels"][:, 1:]
                rows = labels != -100
                with self.accelerator.autocast():
                    states = hidden_states(core, batch["input_ids"], batch["attention_mask"])
                    batch["teacher_hidden"] = self._teacher_hidden(batch)
                    student, teacher = self._sides(core, states[:, :-1][rows], labels[rows], batch, rows)
                    weight = student.head.weight.detach().requires_grad_()
                    student = replace(student, head=replace(student.head, weight=weight))
                    for i, term in enumerate(self.terms):
                        with torch.enable_grad():
                            value = term.total(student, teacher)
                        sums[i] += torch.autograd.grad(
                            value, weight, allow_unused=True, materialize_grads=True
                        )[0]
            return sums

        with torch.no_grad():
            sums = through_wrapper(self.model_wrapped, inner, local)
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

        def side(model: Any, hidden: Tensor, labels: Tensor, rows: Tensor, which: int) -> Side:
            prefix = ("", "teacher_")[which]
            sequence = torch.arange(len(rows), device=rows.device).unsqueeze(1).expand_as(rows)[rows]
            inside = inputs[prefix + "chunks"][:, 1:][rows]
            return Side(
                hidden=hidden,
                head=head_of(model),
                labels=labels,
                sequence=sequence,
                chunks=torch.where(inside >= 0, inside + offsets[sequence], -1),
                boundary=self._boundary[which],
                shared=self._shared[which],
                eos=self._eos[which],
                inputs=inputs[prefix + "input_ids"][:, :-1][rows],
                embed=model.get_input_embeddings(),
            )

        return (
            side(core, hidden, labels, rows, 0),
            side(
                teacher,
                self._teacher_hidden(inputs) if made is None else made,
                inputs["teacher_labels"][:, 1:][theirs],
                theirs,
                1,
            ),
        )


def _example(row: dict[str, Any]) -> Example:
    """The student's tokens of a row; the completion begins at the first label."""
    begin = next((n for n, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))
    return Example(row["input_ids"][:begin], row["input_ids"][begin:])


def _no_validation() -> float:
    raise MethodError(
        "this sampler looks at the validation loss, which is not measured between two tokenizers"
    )
