"""Completions sampled token by token: from a student, from a teacher, or from a mixture of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.losses.divergences import check_temperature
from methods.modeling.core import position_ids
from methods.modeling.decoder import decoder_for

# Ended rows leave the batch when that shrinks it to this share, for models of at least so many parameters. A small one
# computes 32 rows in the time of 16, so that it would gain nothing.
DROP_AT, DROP_FROM = 0.75, 10_000_000


@dataclass(frozen=True)
class Rollouts:
    """B prompts, left-padded to P tokens, each with one completion, right-padded to C tokens."""

    prompt_ids: torch.Tensor  # (B, P)
    prompt_mask: torch.Tensor  # (B, P), 1 on prompt tokens
    completion_ids: torch.Tensor  # (B, C), includes the end-of-sequence token
    completion_mask: torch.Tensor  # (B, C), 1 up to and including the first end-of-sequence token
    truncated: torch.Tensor  # (B,) bool: stopped by the length limit
    empty: torch.Tensor  # (B,) bool: nothing before the end-of-sequence token
    # (B, C) log-probabilities of the tokens under what was sampled from, in nats, where they were asked for
    log_probs: torch.Tensor | None = None

    def counts(self) -> dict[str, int]:
        """How many completions there are, and how many of them are truncated or empty."""
        return {
            "completions": len(self.truncated),
            "truncated": int(self.truncated.sum()),
            "empty": int(self.empty.sum()),
        }

    @property
    def tokens(self) -> int:
        """Tokens generated, end-of-sequence tokens included."""
        return int(self.completion_mask.sum())


def labelled(
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    completion_ids: torch.Tensor,
    completion_mask: torch.Tensor,
    learnt: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Prompts and completions as a micro-batch: ids, attention, labels (B, P + C), -100 off the completions.

    `learnt` (B, C): 1 on the tokens that are labels, where some of a completion's are not.
    """
    inside = completion_mask if learnt is None else learnt
    labels = completion_ids.masked_fill(inside == 0, -100)
    return {
        "input_ids": torch.cat([prompt_ids, completion_ids], 1),
        "attention_mask": torch.cat([prompt_mask, completion_mask], 1),
        "labels": torch.cat([torch.full_like(prompt_ids, -100), labels], 1),
    }


def spread(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Values (N, ...) of the tokens inside a mask (B, C) at their places, (B, C, ...), 0 elsewhere."""
    made = values.new_zeros(*mask.shape, *values.shape[1:])
    made[mask.bool()] = values
    return made


def prompt_tokens(tokenizer: Any, prompts: Sequence[str]) -> list[list[int]]:
    """Ids of the prompts as training encodes them: with the BOS that a tokenizer's template adds, without its EOS."""
    rows = tokenizer(list(prompts))["input_ids"]
    eos = tokenizer.eos_token_id
    return [row[:-1] if len(row) > 1 and row[-1] == eos else row for row in rows]


def left_pad(
    prompts: list[list[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (B, P) padded on the left, and their mask (B, P)."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad_id] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def _with_room(prompt_mask: torch.Tensor, tokens: int) -> torch.Tensor:
    """The mask of prompts (B, P) with that of so many tokens behind them."""
    return torch.cat([prompt_mask, prompt_mask.new_ones(len(prompt_mask), tokens)], 1)


def draw(
    probs: torch.Tensor, rows: torch.Tensor, batch: int, generator: torch.Generator | None
) -> torch.Tensor:
    """One id for each row of `probs` (R, V); `rows` (R,) of a batch get what they would have got within all of it."""
    if len(rows) == batch:
        return torch.multinomial(probs, 1, generator=generator).squeeze(1)
    noise = probs.new_empty(batch, probs.shape[1]).exponential_(1, generator=generator)
    return draw_with(probs, noise[rows])


def draw_with(probs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """What `torch.multinomial` draws of probs (..., V) with exponential noise (..., V) of rate 1: ids (...)."""
    return (probs / noise).argmax(-1)


@torch.no_grad()
def rollout(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    eos_ids: list[int],
    pad_id: int,
    temperature: float = 1.0,
    greedy: bool = False,
    teacher: PreTrainedModel | None = None,
    teacher_mix: float = 0.0,
    vocabulary: int | None = None,
    generator: torch.Generator | None = None,
    log_probs: bool = False,
) -> Rollouts:
    """Sample one completion for each prompt from `(1 - teacher_mix) * model + teacher_mix * teacher`, token by token.

    `teacher_mix` is alpha of MiniLLM (arXiv 2306.08543, section 2.2); 0 samples from `model` alone. Temperature divides
    the logits of both models. Models with different head sizes are mixed over their shared leading ids; of one alone
    only the first `vocabulary` ids are sampled, for whoever else has to read them. Both run in evaluation mode (dropout
    off) and get back their mode. Rows that have ended are dropped from the batch of models
    of DROP_FROM parameters or more; what is drawn for the others does not depend on it. `log_probs` keeps those of
    what was drawn (of the mixture, at this temperature).
    Raises MethodError for an empty prompt, and a temperature that is not positive unless `greedy`.
    """
    if not greedy:
        check_temperature(temperature)
    if not prompts or any(len(p) == 0 for p in prompts):
        raise MethodError("cannot roll out from an empty prompt")
    device = model.device
    models = [model] if teacher is None or teacher_mix == 0 else [model, teacher]
    mix = len(models) == 2
    if mix:
        heads = [m.get_output_embeddings().weight.shape[0] for m in models]
        vocabulary = min([*heads, *([] if vocabulary is None else [vocabulary])])
    modes = [m.training for m in models]
    for m in models:
        m.eval()
    try:
        prompt_ids, prompt_mask = left_pad(prompts, pad_id, device)
        stop = torch.tensor(eos_ids, device=device)
        batch = len(prompt_ids)
        ids, positions = prompt_ids, position_ids(prompt_mask)
        decoders = [decoder_for(m, _with_room(prompt_mask, max_new_tokens)) for m in models]
        droppable = sum(m.num_parameters() for m in models) >= DROP_FROM
        rows = torch.arange(batch, device=device)  # those in the models' batch
        alive = torch.ones(batch, dtype=torch.bool, device=device)
        columns, alive_columns = [], []
        said = torch.zeros(batch, dtype=torch.float32, device=device)
        said_columns: list[torch.Tensor] = []
        for _ in range(max_new_tokens):
            logits = (decode(ids, positions)[:, :vocabulary].float() for decode in decoders)
            probs = [torch.softmax(z if temperature == 1 else z / temperature, -1) for z in logits]
            mixture = (1 - teacher_mix) * probs[0] + teacher_mix * probs[1] if mix else probs[0]
            drawn = mixture.argmax(-1) if greedy else draw(mixture, rows, batch, generator)
            if log_probs:
                chosen = mixture.gather(1, drawn.unsqueeze(1)).squeeze(1).log()
                said_columns.append(said.index_copy(0, rows, chosen).masked_fill(~alive, 0.0))
            if len(rows) < batch:
                drawn = prompt_ids.new_full((batch,), pad_id).index_copy_(0, rows, drawn)
            token = drawn.masked_fill(~alive, pad_id)
            columns.append(token)
            alive_columns.append(alive)
            alive = alive & ~torch.isin(token, stop)
            left = int(alive.sum())
            if not left:
                break
            if droppable and left <= DROP_AT * len(rows):
                kept = alive[rows].nonzero().squeeze(1)
                rows, positions = rows[kept], positions[kept]
                for decode in decoders:
                    decode.keep(kept)
            ids, positions = token[rows].unsqueeze(1), positions[:, -1:] + 1
    finally:
        for m, mode in zip(models, modes, strict=True):
            m.train(mode)
    completion_ids = torch.stack(columns, 1)
    completion_mask = torch.stack(alive_columns, 1).long()
    return Rollouts(
        prompt_ids,
        prompt_mask,
        completion_ids,
        completion_mask,
        truncated=alive,
        empty=torch.isin(completion_ids[:, 0], stop),
        log_probs=torch.stack(said_columns, 1) if log_probs else None,
    )
