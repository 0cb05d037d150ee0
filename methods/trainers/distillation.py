"""White-box distillation put together from slots: which sequences, which target, which divergence, which weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.losses.fused.formulas import Fused
from methods.losses.fused.linear import (
    FUSED_DIVERGENCES,
    Head,
    head_of,
    linear_cross_entropy,
    linear_divergence,
    linear_draws,
)
from methods.modeling.core import core_model, eos_ids, freeze, hidden_states, shared_vocabulary
from methods.modeling.rollouts import rollout
from methods.modeling.sharding import gathered
from methods.slots.samplers import SOURCES, Comparison, Example, Sampler, Step
from methods.slots.targets import Rows, RowSettings, Target, Teacher, linear
from methods.teachers.store import TeacherStore
from methods.teachers.top_k import TopK, linear_top_k_divergence
from methods.trainers.sft import SFTConfig, SFTTrainer

__all__ = ["DistillationTrainer", "SFTConfig", "Term"]

CROSS_ENTROPY = "cross_entropy"


@dataclass(frozen=True)
class Term:
    """weight * mean over completion tokens of token_weight * D(target, student), on sequences of some sources.

    `divergence`: a name of `methods.losses.divergences`, a function like those of `methods.losses.fused.formulas`, or
    "cross_entropy" for -log q(label). `settings` are its own (`skew`, ...); it and `weight` may be functions of the
    training's progress in [0, 1). `sources`: only sequences from there ("data", "teacher", "student"); all where empty.
    `token_weights` gives a weight for each of N rows, `row_settings` further settings for each; without gradient.
    """

    divergence: str | Fused = "forward_kl"
    weight: float | Callable[[float], float] = 1.0
    settings: Mapping[str, Any] | Callable[[float], Mapping[str, Any]] = field(default_factory=dict)
    temperature: float = 1.0
    target: Target = field(default_factory=Teacher)
    sources: tuple[str, ...] = ()
    token_weights: Callable[[Rows], Tensor] | None = None
    row_settings: RowSettings | None = None

    def __post_init__(self) -> None:
        if isinstance(self.divergence, str) and self.divergence not in (*FUSED_DIVERGENCES, CROSS_ENTROPY):
            known = ", ".join([*FUSED_DIVERGENCES, CROSS_ENTROPY])
            raise MethodError(f"unknown divergence {self.divergence!r}; one of {known}")
        for source in self.sources:
            if source not in SOURCES:
                raise MethodError(f"unknown source {source!r}; one of {', '.join(SOURCES)}")


class DistillationTrainer(SFTTrainer):
    """Sum of terms, each a divergence between a target and the student, on the sequences that a sampler chooses.

    loss = sum_terms weight * (1 / window tokens) * sum over tokens of token_weight * D(target, student) + auxiliaries

    An auxiliary is a module that makes of the `Rows` of a micro-batch a scalar sum over them; its parameters, if it has
    any, train with the student, which leaves the training without them.
    The mean is over all completion tokens of the accumulation window, whatever their source. Teachers are frozen and
    never resized; heads of different size share their leading ids. A `methods.teachers.store.TeacherStore` takes a
    teacher's place where the sequences are those that it was filled with. Sampling happens once per optimizer step
    for the whole window, in evaluation mode; `rollout_counts` and `token_counts` say what it cost.
    `teacher_tokenizer` is one for all teachers or a list, one for each: every teacher's ids must be the student's.
    `max_completion_length` is the limit of a rollout in tokens. Source: the slots of GKD (arXiv 2306.13649, section 3)
    and of the papers after it.
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel | TeacherStore | Sequence[PreTrainedModel | TeacherStore],
        terms: Sequence[Term] = (Term(),),
        auxiliaries: Sequence[nn.Module] = (),
        sampler: Sampler | None = None,
        max_completion_length: int = 256,
        teacher_tokenizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if not terms:
            raise MethodError("a distillation needs at least one term")
        self.terms, self.sampler, self.max_completion_length = tuple(terms), sampler, max_completion_length
        self.auxiliaries = nn.ModuleList(auxiliaries).to(self.accelerator.device)
        teachers = list(teacher) if isinstance(teacher, Sequence) else [teacher]
        student = core_model(self.accelerator.unwrap_model(self.model))
        tokenizers = teacher_tokenizer if isinstance(teacher_tokenizer, Sequence) else [teacher_tokenizer]
        if len(tokenizers) == 1:
            tokenizers = [*tokenizers] * len(teachers)
        if len(tokenizers) != len(teachers):
            raise MethodError(f"{len(teachers)} teachers but {len(tokenizers)} tokenizers: give one for each")
        self.teachers = [
            self._prepared(one, student, its) for one, its in zip(teachers, tokenizers, strict=True)
        ]
        self.rollout_counts = {"completions": 0, "truncated": 0, "empty": 0}
        self._stop_ids = eos_ids(student, self.processing_class) if sampler is not None else []  # type: ignore[arg-type]
        self._window_loss: Tensor | None = None

    def _prepared(self, teacher: PreTrainedModel | TeacherStore, student: Any, tokenizer: Any) -> Any:
        if isinstance(teacher, TeacherStore):
            teacher.check_tokenizer(self.processing_class)
            return teacher
        shared_vocabulary(student, teacher, self.processing_class, tokenizer)  # type: ignore[arg-type]
        return self.accelerator.prepare_model(freeze(teacher), evaluation_mode=True)

    def trained_along(self) -> dict[str, nn.Module]:
        return {"auxiliaries": self.auxiliaries}

    # One optimizer step: the window's examples, what the sampler makes of them, and the loss of the step before.

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, count
        last_loss = self._last_loss()
        for term in self.terms:
            term.target.begin_step(self.progress, last_loss)
            if term.row_settings is not None:
                term.row_settings.begin_step(self._sum_over_ranks)
        if self.sampler is not None:
            batches = self._sampled(batches)
            count = self._get_num_items_in_batch(batches, device)
        return batches, count

    @property
    def progress(self) -> float:
        """Optimizer steps done over all steps."""
        return self.state.global_step / max(1, self.state.max_steps)

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        plain, tensors = super().remembered()
        loss = None if self._window_loss is None else self._window_loss.item()
        slots = {name: slot.state() for name, slot in self._slots()}
        return plain | {"rollouts": self.rollout_counts, "window_loss": loss, "slots": slots}, tensors

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        super().recall(plain, tensors)
        self.rollout_counts = plain["rollouts"]
        if plain["window_loss"] is not None:
            self._window_loss = torch.tensor(plain["window_loss"], device=self.accelerator.device)
        for name, slot in self._slots():
            slot.restore(plain["slots"][name])

    def _slots(self) -> list[tuple[str, Any]]:
        """Samplers, targets and row settings that remember something from step to step."""
        slots: list[tuple[str, Any]] = [("sampler", self.sampler)]
        for n, term in enumerate(self.terms):
            slots += [(f"target {n}", term.target), (f"row settings {n}", term.row_settings)]
        return [(name, slot) for name, slot in slots if hasattr(slot, "state")]

    def _last_loss(self) -> float | None:
        """Mean loss of the step before, over all ranks; None before the first."""
        local, self._window_loss = self._window_loss, None
        return None if local is None else float(self.accelerator.reduce(local, "mean"))

    def _sum_over_ranks(self, local: Tensor) -> Tensor:
        return self.accelerator.reduce(local.to(self.accelerator.device), "sum")

    def _sampled(self, batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        assert self.sampler is not None
        window = [example for batch in batches for example in examples_of(batch)]
        seed = f"{self.args.seed}:{self.accelerator.process_index}:{self.state.global_step}"
        source = random.Random(seed)
        step = Step(self.progress, source, self._generator(source), self._validate, self._comparer(source))
        with gathered(self.accelerator.unwrap_model(self.model)):
            examples = self.sampler(window, step)
        if len(examples) % len(window):
            raise MethodError(
                f"the sampler made {len(examples)} examples of {len(window)}, not a whole number each"
            )
        times, parts, done = len(examples) // len(window), [], 0
        for batch in batches:
            size = times * len(batch["input_ids"])
            parts.append(
                collate(
                    examples[done : done + size],
                    self.processing_class.pad_token_id,  # type: ignore[union-attr]
                    batch["input_ids"].device,
                )
            )
            done += size
        return parts

    def _generator(self, source: random.Random) -> Callable[..., list[list[int]]]:
        def generate(
            prompts: list[list[int]], begun: list[list[int]] | None = None, **settings: Any
        ) -> list[list[int]]:
            student = self.accelerator.unwrap_model(self.model)
            draws = torch.Generator(device=student.device).manual_seed(source.getrandbits(63))
            teacher = self.teachers[0] if settings.get("teacher_mix") else None
            if isinstance(teacher, TeacherStore):
                raise MethodError("a teacher store cannot generate: this sampler needs the teacher itself")
            completions = [list(ids) for ids in begun or [[]] * len(prompts)]
            limit, stops = self.max_completion_length, set(self._stop_ids)
            asked = [
                n for n, c in enumerate(completions) if len(c) < limit and not stops.intersection(c[-1:])
            ]
            if not asked:
                return completions
            with self.accelerator.autocast():
                made = rollout(
                    student,
                    [prompts[n] + completions[n] for n in asked],
                    max_new_tokens=limit - min(len(completions[n]) for n in asked),
                    eos_ids=self._stop_ids,
                    pad_id=self.processing_class.pad_token_id,  # type: ignore[union-attr]
                    teacher=None if teacher is None else self.accelerator.unwrap_model(teacher),
                    generator=draws,
                    **settings,
                )
            read = made.prompt_mask.sum() + made.completion_mask.sum()
            self.count_tokens("generated", made.completion_mask.sum())
            self.count_tokens("student", read)
            if settings.get("teacher_mix"):
                self.count_tokens("teacher", read)
            for n, ids, keep in zip(asked, made.completion_ids, made.completion_mask.bool(), strict=True):
                # Those that had begun with more tokens than others were given too many new ones.
                completions[n] = (completions[n] + ids[keep].tolist())[:limit]
                self.rollout_counts["completions"] += 1
                self.rollout_counts["truncated"] += completions[n][-1] not in stops
                self.rollout_counts["empty"] += completions[n][0] in stops
            return completions

        return generate

    def _comparer(self, source: random.Random) -> Callable[..., list[Comparison]]:
        @torch.no_grad()
        def compare(examples: list[Example], *, greedy: bool = False) -> list[Comparison]:
            student = self.accelerator.unwrap_model(self.model)
            core, training = core_model(student), student.training
            draws = torch.Generator(device=student.device).manual_seed(source.getrandbits(63))
            batch = collate(examples, self.processing_class.pad_token_id, student.device)  # type: ignore[union-attr]
            labels = batch["labels"][:, 1:]
            where = labels != -100
            student.eval()
            with self.accelerator.autocast():
                hidden = hidden_states(core, batch["input_ids"], batch["attention_mask"])[:, :-1][where]
                student.train(training)  # tokens count in training only
                rows = self._rows(core, hidden, labels[where], batch, where)
                target = linear(rows.teachers[0])
                gap = linear_divergence(rows.hidden, rows.head, *target).values
                drawn = linear_draws(*target, len(rows.head.weight), None if greedy else draws)
            self.count_tokens("student", batch["attention_mask"].sum())
            sizes = [len(e.completion) for e in examples]
            parts = zip(gap.split(sizes), drawn.split(sizes), strict=True)
            return [Comparison(divergence.tolist(), tokens.tolist()) for divergence, tokens in parts]

        return compare

    @torch.no_grad()
    def _validate(self) -> float:
        """Mean -log q(label) over the completion tokens of `eval_dataset` on all ranks."""
        if self.eval_dataset is None:
            raise MethodError("this sampler looks at the validation loss: give the trainer an eval_dataset")
        student = self.accelerator.unwrap_model(self.model)
        core, training = core_model(student), student.training
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        student.eval()
        for batch in self.get_eval_dataloader():
            with self.accelerator.autocast():
                hidden = hidden_states(core, batch["input_ids"], batch["attention_mask"])[:, :-1]
                found = linear_cross_entropy(hidden, head_of(core), batch["labels"][:, 1:])
            sums += torch.stack([found.total.double(), torch.tensor(float(len(found.values))).to(sums)])
        student.train(training)
        loss, tokens = self.accelerator.reduce(sums, "sum").tolist()
        return loss / max(1.0, tokens)

    # The loss.

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if num_items_in_batch is not None and model.training:
            seen = loss.detach()
            self._window_loss = seen if self._window_loss is None else self._window_loss + seen
        return loss

    def row_loss(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> Tensor:
        everything = self._rows(core, hidden, labels, inputs, rows)
        total = hidden.sum() * 0  # a graph even where no term has rows
        for term in self.terms:
            total = total + self._term(term, everything)
        for auxiliary in self.auxiliaries:
            total = total + auxiliary(everything)
        return total

    def _term(self, term: Term, rows: Rows) -> Tensor:
        weight = term.weight(self.progress) if callable(term.weight) else term.weight
        settings = term.settings(self.progress) if callable(term.settings) else term.settings
        mask = None
        if term.sources:
            wanted = torch.tensor([SOURCES.index(name) for name in term.sources], device=rows.source.device)
            mask = torch.isin(rows.source, wanted)
            if not bool(mask.any()):
                return rows.hidden.new_zeros(())
        token_weights = None if term.token_weights is None else term.token_weights(rows)
        if term.row_settings is not None:
            settings = {**settings, **term.row_settings(rows, mask)}
        common: dict[str, Any] = {"mask": mask, "weights": token_weights, "temperature": term.temperature}
        if term.divergence == CROSS_ENTROPY:
            loss = linear_cross_entropy(rows.hidden, rows.head, rows.labels, **common)
        else:
            target = term.target(rows)
            common |= {"divergence": term.divergence, **settings}
            if isinstance(target, TopK):
                loss = linear_top_k_divergence(rows.hidden, rows.head, target, **common)
            else:
                loss = linear_divergence(rows.hidden, rows.head, *target, **common)
        return weight * loss.total

    def _rows(
        self, core: torch.nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor
    ) -> Rows:
        teachers: list[TopK | tuple[Tensor, Head]] = []
        for prepared in self.teachers:
            if isinstance(prepared, TeacherStore):
                teachers.append(prepared.rows(inputs))
                continue
            teacher = self.accelerator.unwrap_model(prepared)
            with torch.no_grad():
                states = hidden_states(teacher, inputs["input_ids"], inputs["attention_mask"])
            teachers.append((states[:, :-1][rows], head_of(teacher)))
            self.count_tokens("teacher", inputs["attention_mask"].sum())
        sequence = torch.arange(len(rows), device=rows.device).unsqueeze(1).expand_as(rows)[rows]
        source = inputs.get("source")
        return Rows(
            hidden=hidden,
            head=head_of(core),
            teachers=tuple(teachers),
            labels=labels,
            source=torch.zeros_like(sequence) if source is None else source[sequence],
            sequence=sequence,
            position=(rows.cumsum(-1) - 1)[rows],
        )


def examples_of(batch: Mapping[str, Tensor]) -> list[Example]:
    """Prompt and completion ids of a collated batch; the completion begins at the first label."""
    examples = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        keep = mask.bool()
        tokens, wanted = ids[keep].tolist(), (labels[keep] != -100).tolist()
        start = wanted.index(True) if True in wanted else len(tokens)
        examples.append(Example(tokens[:start], tokens[start:]))
    return examples


def collate(examples: Sequence[Example], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """Right-padded input_ids, attention_mask, labels (-100 on prompt and padding) and source (B,) of the examples."""
    width = max(len(e.prompt) + len(e.completion) for e in examples)
    columns: dict[str, list[list[int]]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for e in examples:
        length, room = len(e.prompt) + len(e.completion), width - len(e.prompt) - len(e.completion)
        columns["input_ids"].append([*e.prompt, *e.completion, *[pad_id] * room])
        columns["attention_mask"].append([1] * length + [0] * room)
        columns["labels"].append([-100] * len(e.prompt) + e.completion + [-100] * room)
    tensors = {name: torch.tensor(rows, device=device) for name, rows in columns.items()}
    return tensors | {"source": torch.tensor([SOURCES.index(e.source) for e in examples], device=device)}
