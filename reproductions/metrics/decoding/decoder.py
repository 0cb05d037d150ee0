"""How a testbed's models are asked, and how they compare with a teacher on the same contexts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reproductions.metrics.decoding import sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.work.run import Run

Prompts = tuple[Tensor, Tensor]  # left-padded ids and attention mask

TEACHER_SEED = 1_000_000  # keeps the teacher's samples apart from every student's
KEPT_NUMBERS = 2**24  # the teacher's log-probabilities are kept between evaluations up to this many (64 MiB)


@dataclass(frozen=True)
class Decoder:
    """Asks models in the tokens of `tokenizer`; `batch` rows are computed together, `keep` is the part of a prompt that
    stays of one that is too long."""

    tokenizer: PreTrainedTokenizerBase
    prompt_tokens: int
    new_tokens: int
    batch: int
    keep: str = "end"

    @property
    def eos_ids(self) -> list[int]:
        """Any of these ends an answer."""
        return [self.tokenizer.eos_token_id]

    def sampled(
        self, model: PreTrainedModel, run: Run, prompts: Sequence[str], copies: int = 1
    ) -> sampling.Samples:
        """Answers at temperature 1 to the prompts, then to the prompts again, `copies` times; by `run.seed`."""
        with autocast(run):
            return self.decode(
                model, self.encode(prompts), uniforms(self, run.seed, len(prompts) * copies), copies
            )

    def greedy(self, model: PreTrainedModel, run: Run, prompts: Sequence[str]) -> sampling.Samples:
        """The most probable token at every step."""
        with autocast(run):
            return self.decode(model, self.encode(prompts), None)

    def encode(self, prompts: Sequence[str]) -> Prompts:
        """Ids and mask, cut to the prompt's limit."""
        return sampling.encode_prompts(self.tokenizer, prompts, self.prompt_tokens, keep=self.keep)

    def decode(
        self, model: PreTrainedModel, prompts: Prompts, uniforms: Tensor | None, copies: int = 1
    ) -> sampling.Samples:
        """Answers to the prompts, then to the prompts again, `copies` times."""
        ids, attention = (part.repeat(copies, 1) for part in prompts)
        parts = []
        for start in range(0, len(ids), self.batch):
            span = slice(start, start + self.batch)
            parts.append(
                sampling.sample(
                    model,
                    ids[span],
                    attention[span],
                    max_new_tokens=self.new_tokens,
                    eos_ids=self.eos_ids,
                    pad_id=self.tokenizer.pad_token_id,
                    uniforms=None if uniforms is None else uniforms[span],
                )
            )
        return sampling.Samples(
            *(torch.cat(same) for same in zip(*(p.tensors() for p in parts), strict=True))
        )


@dataclass(frozen=True)
class Comparison:
    """A teacher and a model on the same N contexts, each (N,).

    `divergence`: KL(teacher || model) in nats, summed over the answer; `teacher_nll` and `model_nll`: -log of the
    answer's probability, nats per token.
    """

    divergence: np.ndarray
    teacher_nll: np.ndarray
    model_nll: np.ndarray


class TeacherSide:
    """A teacher's answers to prompts, which stay the same all through a run, and models beside it.

    `model` is a copy of its own: a trainer may wrap the forward of the teacher it was handed.
    """

    def __init__(self, decoder: Decoder, run: Run, model: PreTrainedModel) -> None:
        self.decoder, self.run, self.model = decoder, run, model
        self._answers: dict[tuple[str, ...], tuple[sampling.Samples, Tensor | None]] = {}

    def samples(self, prompts: Sequence[str]) -> sampling.Samples:
        """The teacher's answers to the prompts, sampled at temperature 1: the same to all who ask in a run."""
        with autocast(self.run):
            return self._known(tuple(prompts))[0]

    def compare(
        self, model: PreTrainedModel, prompts: Sequence[str], contexts: sampling.Samples | None = None
    ) -> Comparison:
        """Both on given answers to the prompts, the teacher's own samples where none are given."""
        encoded = self.decoder.encode(prompts)
        with autocast(self.run):
            answers, known = (contexts, None) if contexts is not None else self._known(tuple(prompts))
            parts = []
            step = min(self.decoder.batch, sampling.FORWARD_ROWS)
            for start in range(0, len(answers.ids), step):
                span = slice(start, start + step)
                some = answers.rows(span)
                ids, attention = (part[span] for part in encoded)
                p = (
                    sampling.completion_logprobs(self.model, ids, attention, some)
                    if known is None
                    else known[span]
                )
                q = sampling.completion_logprobs(model, ids, attention, some)
                kl = sampling.accumulated_kl(p, q, some.mask)
                parts.append((kl, sampling.token_nll(p, some), sampling.token_nll(q, some)))
            return Comparison(*(torch.cat(column).cpu().numpy() for column in zip(*parts, strict=True)))

    def _known(self, asked: tuple[str, ...]) -> tuple[sampling.Samples, Tensor | None]:
        """Its samples, and its log-probabilities there where they are few enough to keep."""
        if asked not in self._answers:
            prompts = self.decoder.encode(asked)
            drawn = uniforms(self.decoder, TEACHER_SEED + self.run.seed, len(asked))
            samples = self.decoder.decode(self.model, prompts, drawn)
            known = None
            if samples.ids.numel() * self.model.config.vocab_size <= KEPT_NUMBERS:
                step = sampling.FORWARD_ROWS
                spans = [slice(i, i + step) for i in range(0, len(asked), step)]
                parts = [(prompts[0][s], prompts[1][s], samples.rows(s)) for s in spans]
                known = torch.cat([sampling.completion_logprobs(self.model, *part) for part in parts])
            self._answers[asked] = samples, known
        return self._answers[asked]


def uniforms(decoder: Decoder, seed: int, rows: int) -> Tensor:
    """Random numbers of an evaluation, (rows, new tokens): the same for the same seed, on every device."""
    return torch.rand(rows, decoder.new_tokens, generator=torch.Generator().manual_seed(seed))


def autocast(run: Run) -> AbstractContextManager[Any]:
    """bfloat16 arithmetic where the scale's settings ask for it."""
    enabled = run.settings.get("precision") == "bf16-autocast"
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=enabled)
