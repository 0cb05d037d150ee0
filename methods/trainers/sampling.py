"""What a sampler may ask of a trainer at a step: completions, comparisons, validation losses, perplexities."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.fused.linear import head_of, linear_cross_entropy, linear_divergence, linear_draws
from methods.modeling.core import core_model, eos_ids, hidden_states
from methods.modeling.interleaved import Rule, interleaved
from methods.modeling.rollouts import rollout
from methods.modeling.sharding import gathered
from methods.slots.samplers import Comparison, Example, Sampler, Step
from methods.slots.scores import by_row, entropies
from methods.slots.targets import linear
from methods.teachers.store import TeacherStore
from methods.trainers.trl_compat import through_wrapper
from methods.trainers.views import TextPairs

VALIDATION_ROWS = 256  # measured together


class Sampling:
    """Asks `sampler` once per optimizer step for the whole window, and serves it from a `Distiller`'s models.

    Rollouts are in evaluation mode, at most `limit` tokens long; `counts` says how many there were.
    """

    def __init__(self, trainer: Any, sampler: Sampler, limit: int):
        self.trainer, self.sampler, self.limit = trainer, sampler, limit
        self.counts = {"completions": 0, "truncated": 0, "empty": 0}
        self.stop_ids = eos_ids(core_model(self._student), trainer.processing_class)
        self._teacher_perplexities: dict[str, float] | None = None
        self.rollout: Callable[..., Any] | None = None  # a cohort's, which puts the members' together

    @property
    def _student(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    @property
    def _readable(self) -> int | None:
        """How many leading ids every teacher of the student's tokens reads: a head padded beyond them samples those."""
        models = self.trainer.models
        if not models.who.read_ids:  # teachers read the text, or nothing
            return None
        return min((models.shared_size(n) for n in range(len(models.same))), default=None)

    def __call__(self, batches: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The window's batches with what the sampler makes of their examples."""
        trainer, view = self.trainer, self.trainer.view
        if isinstance(view, TextPairs):
            view.begin_window()
        window = [example for batch in batches for example in view.examples(batch)]
        # One source for a step and rank, so that a resumed run draws the same.
        rank = trainer.accelerator.process_index
        source = random.Random(f"{trainer.args.seed}:{rank}:{trainer.state.global_step}")
        with gathered(self._student):
            examples = self.sampler(window, self.step(source))
        if len(examples) % len(window):
            raise MethodError(
                f"the sampler made {len(examples)} examples of {len(window)}, not a whole number each"
            )
        times, parts, done = len(examples) // len(window), [], 0
        for batch in batches:
            size = times * len(batch["input_ids"])
            parts.append(view.collate(examples[done : done + size], batch["input_ids"].device))
            done += size
        return parts

    def step(self, source: random.Random) -> Step:
        """What the sampler gets."""
        trainer = self.trainer
        return Step(
            trainer.progress,
            source,
            lambda *a, **k: self.generate(source, *a, **k),
            self.validation_loss,
            lambda *a, **k: self.compare(source, *a, **k),
            self.perplexities,
            int(trainer.args.seed),
            trainer.accelerator.process_index,
            trainer.accelerator.num_processes,
            lambda *a, **k: self.interleave(source, *a, **k),
            self.entropy,
        )

    def generate(
        self,
        source: random.Random,
        prompts: list[list[int]],
        begun: list[list[int]] | None = None,
        limit: int | None = None,
        **settings: Any,
    ) -> list[list[int]]:
        """Completions of prompts, those `begun` from where they stand, of at most `limit` tokens."""
        student = self._student
        draws = torch.Generator(device=student.device).manual_seed(source.getrandbits(63))
        teacher = self._writing_teacher() if settings.get("teacher_mix") else None
        completions = [list(ids) for ids in begun or [[]] * len(prompts)]
        limit, stops = min(self.limit, limit or self.limit), set(self.stop_ids)
        asked = [n for n, c in enumerate(completions) if len(c) < limit and not stops.intersection(c[-1:])]
        if not asked:
            return completions
        with self.trainer.accelerator.autocast():
            made = (self.rollout or rollout)(
                student,
                [prompts[n] + completions[n] for n in asked],
                max_new_tokens=limit - min(len(completions[n]) for n in asked),
                eos_ids=self.stop_ids,
                pad_id=self.trainer.view.pad_id,
                teacher=teacher,
                vocabulary=self._readable,
                generator=draws,
                **settings,
            )
        read = made.prompt_mask.sum() + made.completion_mask.sum()
        self.trainer.count_tokens("generated", made.completion_mask.sum())
        self.trainer.count_tokens("student", read)
        if teacher is not None:
            self.trainer.count_tokens("teacher", read)
        for n, ids, keep in zip(asked, made.completion_ids, made.completion_mask.bool(), strict=True):
            # Those that had begun with more tokens than others were given too many new ones.
            completions[n] = (completions[n] + ids[keep].tolist())[:limit]
            self.counts["completions"] += 1
            self.counts["truncated"] += completions[n][-1] not in stops
            self.counts["empty"] += completions[n][0] in stops
        return completions

    def interleave(
        self, source: random.Random, prompts: list[list[int]], *, rule: Rule, **settings: Any
    ) -> list[list[int]]:
        """Completions that student and first teacher write together as a rule says; counts who wrote how much."""
        student = self._student
        teacher = self._writing_teacher() if rule.reads_teacher else None
        with self.trainer.accelerator.autocast():
            made = interleaved(
                student,
                teacher,
                prompts,
                rule=rule,
                max_new_tokens=self.limit,
                eos_ids=self.stop_ids,
                pad_id=self.trainer.view.pad_id,
                vocabulary=self._readable,
                generator=torch.Generator(device=student.device).manual_seed(source.getrandbits(63)),
                **settings,
            )
        rollouts = made.rollouts
        read = rollouts.prompt_mask.sum() + rollouts.completion_mask.sum()
        self.trainer.count_tokens("generated", rollouts.completion_mask.sum())
        self.trainer.count_tokens("student", read)
        if teacher is not None:
            self.trainer.count_tokens("teacher", read)
            written = self.counts.get("tokens_by_teacher", 0) + int(made.by_teacher.sum())
            self.counts["tokens_by_teacher"] = written
        for name, count in rollouts.counts().items():
            self.counts[name] += count
        return [
            ids[keep].tolist()
            for ids, keep in zip(rollouts.completion_ids, rollouts.completion_mask.bool(), strict=True)
        ]

    def _writing_teacher(self) -> Any:
        if not self.trainer.models.same:
            raise MethodError("a teacher with other tokens cannot write half of a completion")
        teacher = self.trainer.models.same[0]
        if isinstance(teacher, TeacherStore):
            raise MethodError("a teacher store cannot generate: this sampler needs the teacher itself")
        if any(self.trainer.models.prompts):
            raise MethodError("this sampler needs a teacher that reads what the student reads")
        return self.trainer.accelerator.unwrap_model(teacher)

    @torch.no_grad()
    def compare(
        self, source: random.Random, examples: list[Example], *, greedy: bool = False
    ) -> list[Comparison]:
        """What the first teacher of the student's ids and the student say at each token."""
        trainer, student = self.trainer, self._student
        if not trainer.models.same:
            raise MethodError(
                "a teacher with other tokens cannot be compared with the student token by token"
            )
        draws = torch.Generator(device=student.device).manual_seed(source.getrandbits(63))
        batch = trainer.view.collate(examples, student.device)
        core = core_model(student)
        with trainer.accelerator.autocast():
            with _evaluating(student):
                hidden, _ = self._inside(student, lambda: trainer.models.student_states(core, batch))
            # Tokens count in training only.
            read = trainer.models.read(batch)[:1]
            target, head = linear(trainer.models.say(read)[0]), head_of(core)
            gap = linear_divergence(hidden, head, *target).values
            drawn = linear_draws(*target, len(head.weight), None if greedy else draws)
        trainer.count_tokens("student", batch["attention_mask"].sum())
        if not isinstance(trainer.models.same[0], TeacherStore):
            trainer.count_tokens("teacher", read[0]["attention_mask"].sum())
        sizes = [int((labels[1:] != -100).sum()) for labels in batch["labels"]]
        parts = zip(gap.split(sizes), drawn.split(sizes), strict=True)
        return [Comparison(divergence.tolist(), tokens.tolist()) for divergence, tokens in parts]

    @torch.no_grad()
    def entropy(self, examples: Sequence[Example]) -> float:
        """Mean entropy of the student's distribution at the completion tokens of all ranks' examples, nats."""
        trainer, student = self.trainer, self._student
        batch, core = trainer.view.collate(examples, student.device), core_model(student)
        with trainer.accelerator.autocast(), _evaluating(student):
            hidden, _ = self._inside(student, lambda: trainer.models.student_states(core, batch))
            head = head_of(core)
            values = by_row(entropies, len(head.weight), (hidden, head)).double()
        trainer.count_tokens("student", batch["attention_mask"].sum())
        sums = torch.stack([values.sum(), values.new_tensor(len(values))])
        total, count = trainer.accelerator.reduce(sums, "sum").tolist()
        return total / max(1.0, count)

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean -log q(label) over the completion tokens of `eval_dataset` on all ranks."""
        if self.trainer.eval_dataset is None:
            raise MethodError("this sampler looks at the validation loss: give the trainer an eval_dataset")
        sums = torch.zeros(2, dtype=torch.float64, device=self.trainer.accelerator.device)
        with _evaluating(self._student):
            for batch in self.trainer.get_eval_dataloader():
                sums += self._nll(self._student, batch)
        loss, tokens = self.trainer.accelerator.reduce(sums, "sum").tolist()
        return loss / max(1.0, tokens)

    def perplexities(
        self, groups: Mapping[str, Sequence[Example]]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """exp of the mean -log q(label) by group, of student and first teacher, per token of the student."""
        trainer = self.trainer
        if self._teacher_perplexities is None:
            if not trainer.models.teachers:
                raise MethodError("this sampler holds the student against a teacher: give the trainer one")
            prefix = "teacher_" if trainer.models.who.first_is_paired else ""
            self._teacher_perplexities = self._perplexities(trainer.models.first_teacher(), groups, prefix)
        return self._perplexities(self._student, groups), self._teacher_perplexities

    @torch.no_grad()
    def _perplexities(
        self, model: Any, groups: Mapping[str, Sequence[Example]], prefix: str = ""
    ) -> dict[str, float]:
        accelerator = self.trainer.accelerator
        rank, ranks = accelerator.process_index, accelerator.num_processes
        sums = torch.zeros(len(groups), 2, dtype=torch.float64, device=accelerator.device)
        with _evaluating(model):
            for place, examples in enumerate(groups.values()):
                own = examples[rank::ranks]
                for start in range(0, len(own), VALIDATION_ROWS):
                    batch = self.trainer.view.collate(
                        own[start : start + VALIDATION_ROWS], accelerator.device
                    )
                    sums[place] += self._nll(model, batch, prefix)
        totals = accelerator.reduce(sums, "sum").tolist()
        return {name: math.exp(nll / max(1.0, n)) for name, (nll, n) in zip(groups, totals, strict=True)}

    @staticmethod
    def _inside(model: Any, function: Callable[[], Any]) -> Any:
        """`function()` inside the forward of `model`: FSDP must not see a part of it before the whole."""
        return through_wrapper(model, model, function)

    def _nll(self, model: Any, batch: Mapping[str, Tensor], prefix: str = "") -> Tensor:
        """Sum of -log q(label), and the number of the student's labels: (2,)."""
        core = core_model(model)

        def total() -> Tensor:
            ids, mask, labels = (batch[prefix + name] for name in ("input_ids", "attention_mask", "labels"))
            hidden = hidden_states(core, ids, mask)[:, :-1]
            return linear_cross_entropy(hidden, head_of(core), labels[:, 1:]).total

        with self.trainer.accelerator.autocast():
            nll = self._inside(model, total)
        tokens = (batch["labels"][:, 1:] != -100).sum()
        return torch.stack([nll.double(), tokens.to(nll).double()])


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """`model` in evaluation mode, then in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
