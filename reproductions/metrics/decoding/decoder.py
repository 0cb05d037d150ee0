"""How a testbed's models are asked, and how they compare with a teacher on the same contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from reproductions.engine.files import digest
from reproductions.metrics.decoding import sampling
from reproductions.tasks.base import fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from reproductions.engine.work.run import Run

Prompts = tuple[Tensor, Tensor]  # left-padded ids and attention mask

TEACHER_SEED = 1_000_000  # keeps the teacher's samples apart from every student's
KEPT_NUMBERS = 2**24  # the teacher's log-probabilities are kept between evaluations up to this many (64 MiB)
KEPT_TABLES = 4  # of those
ALL_ANSWERS = 2**28  # bytes of all teachers' answers on disk


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
        self,
        model: PreTrainedModel,
        run: Run,
        prompts: Sequence[str],
        copies: int = 1,
        temperature: float = 1.0,
    ) -> sampling.Samples:
        """Answers to the prompts, then to the prompts again, `copies` times; by `run.seed`.

        At whatever temperature and of whatever model: the same numbers choose the tokens.
        """
        with autocast(run):
            drawn = uniforms(run.seed, len(prompts), copies, self.new_tokens)
            return self.decode(model, self.encode(prompts), drawn, temperature)

    def greedy(self, model: PreTrainedModel, run: Run, prompts: Sequence[str]) -> sampling.Samples:
        """The most probable token at every step."""
        with autocast(run):
            return self.decode(model, self.encode(prompts), None)

    def encode(self, prompts: Sequence[str]) -> Prompts:
        """Ids and mask, cut to the prompt's limit."""
        return _encoded(self.tokenizer, tuple(prompts), self.prompt_tokens, self.keep)

    def decode(
        self, model: PreTrainedModel, prompts: Prompts, uniforms: Tensor | None, temperature: float = 1.0
    ) -> sampling.Samples:
        """Answers to the N prompts, one by each of `uniforms` (S, N, T): first to all, then to all again; or greedy."""
        ids, attention = prompts
        copies = 1 if uniforms is None else len(uniforms)
        step, parts = max(1, self.batch // copies), []
        for start in range(0, len(ids), step):
            span = slice(start, start + step)
            made = sampling.sample(
                model,
                ids[span],
                attention[span],
                max_new_tokens=self.new_tokens,
                eos_ids=self.eos_ids,
                pad_id=self.tokenizer.pad_token_id,
                uniforms=None if uniforms is None else uniforms[:, span].flatten(0, 1),
                temperature=temperature,
            )
            parts.append([part.view(copies, -1, self.new_tokens) for part in made.tensors()])
        return sampling.Samples(*(torch.cat(same, 1).flatten(0, 1) for same in zip(*parts, strict=True)))


@lru_cache(maxsize=4)  # an evaluation asks the same prompts in several ways
def _encoded(tokenizer: Any, prompts: tuple[str, ...], tokens: int, keep: str) -> Prompts:
    return sampling.encode_prompts(tokenizer, prompts, tokens, keep=keep)


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
    """A teacher's answers to prompts, which are the same in all runs of a seed, and models beside it.

    `model` is a copy of its own: a trainer may wrap the forward of the teacher it was handed. `key` says what made it;
    the answers are an artifact (0.2 MB for 4,000 words), and `known` keeps the last log-probabilities on them for
    whoever asks next in this process.
    """

    def __init__(
        self,
        decoder: Decoder,
        run: Run,
        model: PreTrainedModel,
        key: Mapping[str, Any],
        known: dict[str, Tensor],
    ) -> None:
        self.decoder, self.run, self.model, self.key = decoder, run, model, dict(key)
        self._known_logprobs = known
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
            key = self._answers_key(asked)
            found = self.run.shared.tensors(
                "teacher-answers", key, lambda run: self._draw(asked), ALL_ANSWERS
            )
            samples = sampling.Samples(found["ids"].long(), found["mask"], found["logprobs"])
            samples = sampling.Samples(*(part.to(self.model.device) for part in samples.tensors()))
            known = None
            if samples.ids.numel() * self.model.config.vocab_size <= KEPT_NUMBERS:
                name = digest(key, 16)
                if name not in self._known_logprobs:
                    while len(self._known_logprobs) >= KEPT_TABLES:
                        del self._known_logprobs[next(iter(self._known_logprobs))]
                    self._known_logprobs[name] = self._logprobs(self.decoder.encode(asked), samples)
                known = self._known_logprobs[name]
            self._answers[asked] = samples, known
        return self._answers[asked]

    def _answers_key(self, asked: tuple[str, ...]) -> dict[str, Any]:
        """Who answers what, by which random numbers and within which limits, in which arithmetic."""
        decoder, run = self.decoder, self.run
        return {
            "teacher": self.key,
            "prompts": fingerprint(list(asked)),
            "draws": TEACHER_SEED + run.seed,
            "temperature": 1.0,
            "limits": [decoder.prompt_tokens, decoder.keep, decoder.new_tokens],
            "arithmetic": [run.settings.get("precision", "fp32"), run.device.type],
        }

    def _draw(self, asked: tuple[str, ...]) -> dict[str, Tensor]:
        with torch.no_grad(), autocast(self.run):
            drawn = uniforms(TEACHER_SEED + self.run.seed, len(asked), 1, self.decoder.new_tokens)
            made = self.decoder.decode(self.model, self.decoder.encode(asked), drawn)
        return {"ids": made.ids.int().cpu(), "mask": made.mask.cpu(), "logprobs": made.logprobs.cpu()}

    def _logprobs(self, prompts: Prompts, samples: sampling.Samples) -> Tensor:
        step = sampling.FORWARD_ROWS
        spans = [slice(i, i + step) for i in range(0, len(samples.ids), step)]
        parts = [(prompts[0][s], prompts[1][s], samples.rows(s)) for s in spans]
        return torch.cat([sampling.completion_logprobs(self.model, *part) for part in parts])


def uniforms(seed: int, rows: int, copies: int, tokens: int) -> Tensor:
    """Random numbers of an evaluation in [0, 1), (copies, rows, tokens): one for each seed, copy, row and place.

    The same on every device, and for a row however many rows and copies there are: two arms of one seed, or one at two
    temperatures, see the same lottery.
    """
    drawn = [
        np.random.Generator(np.random.Philox(key=[seed, copy])).random((rows, tokens), dtype=np.float32)
        for copy in range(copies)
    ]
    return torch.from_numpy(np.stack(drawn))


def autocast(run: Run) -> AbstractContextManager[Any]:
    """bfloat16 arithmetic where the scale's settings ask for it."""
    enabled = run.settings.get("precision") == "bf16-autocast"
    return torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=enabled)
