"""What every generative testbed measures: sampled and greedy answers, confidence, excess accumulated error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from reproductions.testbeds import evaluation as ev

if TYPE_CHECKING:
    from reproductions.engine.run import Run

Prompts = tuple[Tensor, Tensor]  # left-padded ids and attention mask

TEACHER_SEED = 1_000_000  # keeps the teacher's samples apart from every student's
KEPT_NUMBERS = 2**24  # the teacher's log-probabilities are kept between evaluations up to this many (64 MiB)


@dataclass(frozen=True)
class Answers:
    """What a model answered to N prompts, as token ids without EOS: `sampled` (copies x N) and `greedy` (N).

    `confidence` (N,) is the probability of the greedy answer with its EOS, `token_confidence` (N,) its geometric
    mean per token; `regret` and `step_error` (N,) are
    KL(teacher || student) in nats summed over the model's own first sample and over the teacher's sample;
    `likelihood_risk` and `coverage_risk` (N,) are nats per token of the teacher on the model's first sample and of the
    model on the teacher's sample; `truncated` counts the samples that the token limit cut.
    """

    sampled: list[list[list[int]]]
    greedy: list[list[int]]
    confidence: np.ndarray
    token_confidence: np.ndarray
    regret: np.ndarray
    step_error: np.ndarray
    likelihood_risk: np.ndarray
    coverage_risk: np.ndarray
    truncated: int


@dataclass
class _Teacher:
    """The teacher's side of the excess error, which stays the same all through a run."""

    run: Run
    model: PreTrainedModel
    answers: dict[tuple[str, ...], tuple[ev.Samples, Tensor | None]]


class Judge:
    """Measures models on prompts; `teacher(run)` is asked once per run, `batch` rows are computed together."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        teacher: Callable[[Run], PreTrainedModel],
        *,
        max_prompt_tokens: int,
        max_new_tokens: int,
        batch: int,
        keep: str = "end",
    ) -> None:
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.max_new_tokens = max_new_tokens
        self.batch = batch
        self.keep = keep  # which part of a prompt that is too long
        self._make_teacher = teacher
        self._teacher: _Teacher | None = None

    @property
    def eos_ids(self) -> list[int]:
        """Any of these ends an answer."""
        return [self.tokenizer.eos_token_id]

    def answers(
        self, model: PreTrainedModel, run: Run, prompts: Sequence[str], *, copies: int = 1
    ) -> Answers:
        """Sample `copies` answers at temperature 1 and one greedily; the same for the same `run.seed`."""
        encoded = self._encode(prompts)
        with autocast(run):
            own = self._decode(model, encoded, self._uniforms(run.seed, len(prompts) * copies), copies)
            greedy = self._decode(model, encoded, None)
            first = own.rows(slice(len(prompts)))
            teacher = self._teacher_of(run)
            theirs, known = self._teacher_answers(teacher, tuple(prompts), encoded)
            regret, likelihood_risk, _ = self._compare(teacher.model, model, encoded, first, None)
            step_error, _, coverage_risk = self._compare(teacher.model, model, encoded, theirs, known)
        rows = own.answers(self.eos_ids)
        return Answers(
            sampled=[rows[i : i + len(prompts)] for i in range(0, len(rows), len(prompts))],
            greedy=greedy.answers(self.eos_ids),
            confidence=greedy.logprobs.sum(1).exp().cpu().numpy(),
            token_confidence=(greedy.logprobs.sum(1) / greedy.mask.sum(1)).exp().cpu().numpy(),
            regret=regret.cpu().numpy(),
            step_error=step_error.cpu().numpy(),
            likelihood_risk=likelihood_risk.cpu().numpy(),
            coverage_risk=coverage_risk.cpu().numpy(),
            truncated=int((~own.finished(self.eos_ids)).sum()),
        )

    def sampled(self, model: PreTrainedModel, run: Run, prompts: Sequence[str]) -> list[list[int]]:
        """One answer to each prompt at temperature 1, as token ids without EOS."""
        with autocast(run):
            return self._decode(model, self._encode(prompts), self._uniforms(run.seed, len(prompts))).answers(
                self.eos_ids
            )

    def greedy(
        self, model: PreTrainedModel, run: Run, prompts: Sequence[str]
    ) -> tuple[list[list[int]], np.ndarray]:
        """The most probable token at every step, without EOS, and the probability of each whole answer (N,)."""
        with autocast(run):
            made = self._decode(model, self._encode(prompts), None)
        return made.answers(self.eos_ids), made.logprobs.sum(1).exp().cpu().numpy()

    def teacher_samples(self, run: Run, prompts: Sequence[str]) -> ev.Samples:
        """The teacher's answers to the prompts, sampled at temperature 1: the same to all who ask in a run."""
        with autocast(run):
            return self._teacher_answers(self._teacher_of(run), tuple(prompts), self._encode(prompts))[0]

    def teacher_divergence(self, model: PreTrainedModel, run: Run, prompts: Sequence[str]) -> np.ndarray:
        """KL(teacher || model) summed over the teacher's sample, nats (N,): `step_error` of `answers` alone."""
        encoded = self._encode(prompts)
        with autocast(run):
            teacher = self._teacher_of(run)
            theirs, known = self._teacher_answers(teacher, tuple(prompts), encoded)
            return self._compare(teacher.model, model, encoded, theirs, known)[0].cpu().numpy()

    def _encode(self, prompts: Sequence[str]) -> Prompts:
        return ev.encode_prompts(self.tokenizer, prompts, self.max_prompt_tokens, keep=self.keep)

    def _uniforms(self, seed: int, rows: int) -> Tensor:
        return torch.rand(rows, self.max_new_tokens, generator=torch.Generator().manual_seed(seed))

    def _decode(
        self, model: PreTrainedModel, prompts: Prompts, uniforms: Tensor | None, copies: int = 1
    ) -> ev.Samples:
        """Answers to the prompts, then to the prompts again, `copies` times."""
        ids, attention = (part.repeat(copies, 1) for part in prompts)
        parts = []
        for start in range(0, len(ids), self.batch):
            span = slice(start, start + self.batch)
            parts.append(
                ev.sample(
                    model,
                    ids[span],
                    attention[span],
                    max_new_tokens=self.max_new_tokens,
                    eos_ids=self.eos_ids,
                    pad_id=self.tokenizer.pad_token_id,
                    uniforms=None if uniforms is None else uniforms[span],
                )
            )
        return ev.Samples(*(torch.cat(same) for same in zip(*(p.tensors() for p in parts), strict=True)))

    def _compare(
        self,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        prompts: Prompts,
        contexts: ev.Samples,
        known: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """On `contexts`, each (N,): accumulated KL(teacher || student), and -log of the tokens' probability per token
        by the teacher and by the student. `known` are the teacher's log-probabilities."""
        parts = []
        step = min(self.batch, ev.FORWARD_ROWS)
        for start in range(0, len(contexts.ids), step):
            span = slice(start, start + step)
            some = contexts.rows(span)
            ids, attention = (part[span] for part in prompts)
            p = ev.completion_logprobs(teacher, ids, attention, some) if known is None else known[span]
            q = ev.completion_logprobs(student, ids, attention, some)
            parts.append((ev.accumulated_kl(p, q, some.mask), ev.token_nll(p, some), ev.token_nll(q, some)))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    def _teacher_of(self, run: Run) -> _Teacher:
        if self._teacher is None or self._teacher.run is not run:
            # A copy of its own: a trainer may wrap the forward of the teacher it was handed.
            self._teacher = _Teacher(run, self._make_teacher(run), {})
        return self._teacher

    def _teacher_answers(
        self, teacher: _Teacher, asked: tuple[str, ...], prompts: Prompts
    ) -> tuple[ev.Samples, Tensor | None]:
        if asked not in teacher.answers:
            uniforms = self._uniforms(TEACHER_SEED + teacher.run.seed, len(asked))
            samples = self._decode(teacher.model, prompts, uniforms)
            known = None
            if samples.ids.numel() * teacher.model.config.vocab_size <= KEPT_NUMBERS:
                spans = [slice(i, i + ev.FORWARD_ROWS) for i in range(0, len(asked), ev.FORWARD_ROWS)]
                known = torch.cat(
                    [
                        ev.completion_logprobs(teacher.model, prompts[0][s], prompts[1][s], samples.rows(s))
                        for s in spans
                    ]
                )
            teacher.answers[asked] = samples, known
        return teacher.answers[asked]


def autocast(run: Run) -> AbstractContextManager[Any]:
    """bfloat16 arithmetic where the scale's settings ask for it."""
    enabled = run.settings.get("precision") == "bf16-autocast"
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=enabled)
