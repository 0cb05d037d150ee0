"""Completions that student and teacher write together: at each token a rule says who of them draws it.

Both models read every token. A rule gets both next-token distributions `(B, V)` over the ids that both have, and gives
the tokens and who wrote them; it is told when a rollout begins. So it may look at how far the models are apart, at what
was drawn, and at what it has seen of the row before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.modeling.core import position_ids
from methods.modeling.decoder import decoder_for
from methods.modeling.rollouts import Rollouts, left_pad

Draw = Callable[[Tensor], Tensor]  # probabilities (B, V) -> ids (B,), in the rollout's own way


class Rule(Protocol):
    """Who writes the next token of each row, and which."""

    reads_teacher: bool

    def begin(self, batch: int, device: torch.device) -> None:
        """Forget the rollout before; B rows begin."""

    def __call__(self, student: Tensor, teacher: Tensor, draw: Draw, place: int) -> tuple[Tensor, Tensor]:
        """Tokens (B,) at a `place` of the completion, counted from 0, and whether the teacher wrote them (B,)."""
        ...


class Speculative:
    """The student proposes; what is not among the teacher's `top_k` likeliest tokens the teacher draws instead.

    So a token is distributed as q within the top k, plus the mass of q outside times p. Both draw among the fewest
    tokens with the mass `top_p`; the top k are those of the whole distribution.
    Source: SKD, arXiv 2410.11325 (K = 25 there): K = 1 is nearly the teacher, K = V the student.
    """

    reads_teacher = True

    def __init__(self, top_k: int, top_p: float = 1.0):
        self.top_k, self.top_p = top_k, top_p

    def begin(self, batch: int, device: torch.device) -> None:
        """Nothing is remembered."""

    def __call__(self, student: Tensor, teacher: Tensor, draw: Draw, place: int) -> tuple[Tensor, Tensor]:
        sides = (student, teacher)
        if self.top_p < 1:
            sides = (truncated(student, None, self.top_p), truncated(teacher, None, self.top_p))
        proposed, instead = (draw(side) for side in sides)
        accepted = teacher.topk(min(self.top_k, teacher.shape[-1]), -1).indices
        replaced = (accepted != proposed.unsqueeze(-1)).all(-1)
        return torch.where(replaced, instead, proposed), replaced


class Switching:
    """The teacher writes where the Jensen-Shannon divergence of both is above threshold * exp(-decay place).

    Control may go back and forth; the threshold falls, so that the teacher steps in more often late in the text.
    Source: Switch-KD, arXiv 2410.19503 (`threshold` is tau_0, `decay` lambda).
    """

    reads_teacher = True

    def __init__(self, threshold: float, decay: float):
        self.threshold, self.decay = threshold, decay

    def begin(self, batch: int, device: torch.device) -> None:
        """Nothing is remembered."""

    def __call__(self, student: Tensor, teacher: Tensor, draw: Draw, place: int) -> tuple[Tensor, Tensor]:
        by_teacher = jensen_shannon(student, teacher) > self.threshold * math.exp(-self.decay * place)
        return draw(torch.where(by_teacher.unsqueeze(-1), teacher, student)), by_teacher


class HandingOver:
    """The student writes until both are `factor` times as far apart as on average before; then the teacher to the end.

    The average is over the last `recent` tokens (None: all) that the student wrote in the row; the first token is
    always the student's.
    Source: AdaSwitch, arXiv 2510.07842 (`factor` is K, on the running mean; how it begins is our reading).
    """

    reads_teacher = True

    def __init__(self, factor: float, recent: int | None = None):
        self.factor, self.recent = factor, recent
        self._seen: list[Tensor] = []
        self._gone = torch.zeros(0, dtype=torch.bool)

    def begin(self, batch: int, device: torch.device) -> None:
        """All rows are the student's."""
        self._seen, self._gone = [], torch.zeros(batch, dtype=torch.bool, device=device)

    def __call__(self, student: Tensor, teacher: Tensor, draw: Draw, place: int) -> tuple[Tensor, Tensor]:
        apart = forward_kl(student, teacher)
        if self._seen:
            before = self._seen if self.recent is None else self._seen[-self.recent :]
            self._gone = self._gone | (apart > self.factor * torch.stack(before).mean(0))
        self._seen.append(apart)
        return draw(torch.where(self._gone.unsqueeze(-1), teacher, student)), self._gone


class Alone:
    """The student's own tokens, drawn among its `top_k` likeliest, of those the fewest with the mass `top_p`."""

    reads_teacher = False

    def __init__(self, top_k: int | None = None, top_p: float = 1.0):
        self.top_k, self.top_p = top_k, top_p

    def begin(self, batch: int, device: torch.device) -> None:
        """Nothing is remembered."""

    def __call__(self, student: Tensor, teacher: Tensor, draw: Draw, place: int) -> tuple[Tensor, Tensor]:
        kept = truncated(student, self.top_k, self.top_p)
        return draw(kept), torch.zeros(len(kept), dtype=torch.bool, device=kept.device)


@dataclass(frozen=True)
class Interleaved:
    """Rollouts, and which of their tokens the teacher wrote, (B, C), nothing behind the end."""

    rollouts: Rollouts
    by_teacher: Tensor


@torch.no_grad()
def interleaved(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    prompts: list[list[int]],
    *,
    rule: Rule,
    max_new_tokens: int,
    eos_ids: list[int],
    pad_id: int,
    temperature: float = 1.0,
    greedy: bool = False,
    vocabulary: int | None = None,
    generator: torch.Generator | None = None,
) -> Interleaved:
    """One completion for each prompt, each token written by whom `rule` says; both models in evaluation mode.

    Temperature divides the logits of both; `greedy` takes the likeliest token of whatever would be drawn from. Only ids
    that both models have, and of those the first `vocabulary`, are written.
    Raises MethodError for an empty prompt, a rule without its teacher, and a temperature that is not positive.
    """
    if not greedy:
        check_temperature(temperature)
    if not prompts or any(len(p) == 0 for p in prompts):
        raise MethodError("cannot roll out from an empty prompt")
    models: list[Any] = [model]
    if rule.reads_teacher:
        if teacher is None:
            raise MethodError(f"{type(rule).__name__} needs a teacher that writes")
        models.append(teacher)
    sizes = [m.get_output_embeddings().weight.shape[0] for m in models]
    size = min([*sizes, *([] if vocabulary is None else [vocabulary])])

    def draw(probs: Tensor) -> Tensor:
        if greedy:
            return probs.argmax(-1)
        return torch.multinomial(probs, 1, generator=generator).squeeze(1)

    modes = [m.training for m in models]
    for m in models:
        m.eval()
    try:
        ids, prompt_mask = left_pad(prompts, pad_id, model.device)
        batch, prompt_ids = len(ids), ids
        positions = position_ids(prompt_mask)
        room = torch.cat([prompt_mask, prompt_mask.new_ones(batch, max_new_tokens)], 1)
        decoders = [decoder_for(m, room) for m in models]
        stop = torch.tensor(eos_ids, device=model.device)
        alive = torch.ones(batch, dtype=torch.bool, device=model.device)
        rule.begin(batch, model.device)
        columns, lives, writers = [], [], []
        for place in range(max_new_tokens):
            logits = [decode(ids, positions)[:, :size].float() for decode in decoders]
            probs = [torch.softmax(z / temperature, -1) for z in logits]
            drawn, by_teacher = rule(probs[0], probs[-1], draw, place)
            token = drawn.masked_fill(~alive, pad_id)
            columns.append(token)
            lives.append(alive)
            writers.append(by_teacher & alive)
            alive = alive & ~torch.isin(token, stop)
            if not bool(alive.any()):
                break
            ids, positions = token.unsqueeze(1), positions[:, -1:] + 1
    finally:
        for m, mode in zip(models, modes, strict=True):
            m.train(mode)
    completion_ids, completion_mask = torch.stack(columns, 1), torch.stack(lives, 1).long()
    empty = torch.isin(completion_ids[:, 0], stop)
    made = Rollouts(prompt_ids, prompt_mask, completion_ids, completion_mask, truncated=alive, empty=empty)
    return Interleaved(made, torch.stack(writers, 1))


def forward_kl(q: Tensor, p: Tensor) -> Tensor:
    """KL(p || q) of probabilities (..., V), nats; finite, as no probability is taken below the smallest number."""
    tiny = torch.finfo(q.dtype).tiny
    return (p * (p.clamp_min(tiny).log() - q.clamp_min(tiny).log())).sum(-1)


def jensen_shannon(q: Tensor, p: Tensor) -> Tensor:
    """Jensen-Shannon divergence of probabilities (..., V), between 0 and ln 2 nats."""
    middle = (p + q) / 2
    return (forward_kl(middle, p) + forward_kl(middle, q)) / 2


def truncated(probs: Tensor, top_k: int | None, top_p: float) -> Tensor:
    """Probabilities (..., V) of the `top_k` likeliest ids, of those the fewest with the mass `top_p`; unnormalised."""
    ordered, order = probs.sort(dim=-1, descending=True, stable=True)
    kept = torch.ones_like(ordered, dtype=torch.bool)
    if top_k is not None:
        kept[..., top_k:] = False
    ordered = ordered * kept
    ordered = ordered / ordered.sum(-1, keepdim=True)
    kept &= ordered.cumsum(-1) - ordered < top_p
    return torch.zeros_like(probs).scatter(-1, order, ordered * kept)
