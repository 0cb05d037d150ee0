"""Thinking in vectors: a model's last hidden state, projected, becomes its next input, a fixed number of times.

    attach_latent(model, steps=6, begin_id=..., end_id=...)
    made = rollout_after_thoughts(model, prompts, max_new_tokens=..., eos_ids=..., pad_id=...)

The projection is a part of the model: its parameters are trained, moved and saved with the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from methods.errors import MethodError
from methods.modeling.caching import key_value_cache
from methods.modeling.core import core_model, position_ids
from methods.modeling.rollouts import Rollouts, left_pad

NAME = "latent_thoughts"


class LatentThoughts(nn.Module):
    """Projection (..., H) -> (..., H) of a hidden state to the next input: two layers, GELU between, LayerNorm after.

    `steps` thoughts stand between the tokens `begin_id`, whose hidden state makes the first, and `end_id`.
    Source: CODI, arXiv 2502.21074, section 3 (width 768 for GPT-2; H where `width` is None).
    """

    def __init__(
        self,
        hidden: int,
        *,
        steps: int,
        begin_id: int,
        end_id: int,
        width: int | None = None,
        std: float = 0.02,
    ):
        super().__init__()
        if steps < 1:
            raise MethodError(f"{steps} latent thoughts: at least one is needed")
        self.steps, self.begin_id, self.end_id = steps, begin_id, end_id
        self.layers = nn.Sequential(
            nn.Linear(hidden, width or hidden), nn.GELU(), nn.Linear(width or hidden, hidden)
        )
        # The size of a token's embedding, which is what the model expects in this place.
        self.norm = nn.LayerNorm(hidden)
        nn.init.constant_(self.norm.weight, std)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.layers(hidden))


def attach_latent(
    model: Any, *, steps: int, begin_id: int, end_id: int, width: int | None = None
) -> LatentThoughts:
    """Give a causal LM (in a PEFT wrapper or not) its LatentThoughts, trainable; a second call replaces the first."""
    core = core_model(model)
    embeddings: Any = core.get_input_embeddings().weight
    latent = LatentThoughts(
        embeddings.shape[1],
        steps=steps,
        begin_id=begin_id,
        end_id=end_id,
        width=width,
        std=float(embeddings.detach().float().std()),
    )
    setattr(core, NAME, latent.to(embeddings.device, embeddings.dtype))
    return latent


def latent_of(model: Any) -> LatentThoughts | None:
    """The LatentThoughts of a model, None where it has none."""
    found = getattr(core_model(model), NAME, None)
    return found if isinstance(found, LatentThoughts) else None


class Thinking(NamedTuple):
    """A model after its thoughts: `cache` holds prompt, begin token and thoughts, `mask` (B, P + 1 + K) which are real.

    `thoughts` (B, K, H) are the inputs that the projection made.
    """

    cache: DynamicCache
    mask: Tensor
    thoughts: Tensor


def think(core: PreTrainedModel, prompt_ids: Tensor, prompt_mask: Tensor) -> Thinking:
    """Read left-padded prompts (B, P), then the begin token, then think: K inputs, each made of the output before.

    Gradients flow through all of it. Raises MethodError for a model without LatentThoughts or padding on the right.
    """
    latent = latent_of(core)
    if latent is None:
        raise MethodError("this model has no latent thoughts: call attach_latent first")
    if not bool(prompt_mask[:, -1].all()):
        raise MethodError("latent thoughts follow the prompt directly: pad prompts on the left")
    begin = prompt_ids.new_full((len(prompt_ids), 1), latent.begin_id)
    ids = torch.cat([prompt_ids, begin], 1)
    mask = extended(prompt_mask, 1)
    cache = key_value_cache(core)
    hidden = advance(core, cache, mask, input_ids=ids).last_hidden_state[:, -1:]
    thoughts = []
    for _ in range(latent.steps):
        thoughts.append(latent(hidden))
        mask = extended(mask, 1)
        hidden = advance(core, cache, mask, inputs_embeds=thoughts[-1]).last_hidden_state
    return Thinking(cache, mask, torch.cat(thoughts, 1))


def advance(core: PreTrainedModel, cache: DynamicCache, mask: Tensor, **inputs: Any) -> Any:
    """The backbone's output for the next inputs after `cache`; `mask` (B, all so far) covers both."""
    given = next(iter(value for value in inputs.values() if isinstance(value, Tensor)))
    return core.base_model(
        attention_mask=mask,
        position_ids=position_ids(mask)[:, -given.shape[1] :],
        past_key_values=cache,
        use_cache=True,
        **inputs,
    )


def extended(mask: Tensor, by: int | Tensor) -> Tensor:
    """A mask (B, L) with `by` more attended columns, or with the mask `by` (B, A) beside it."""
    more = mask.new_ones(len(mask), by) if isinstance(by, int) else by.to(mask.dtype)
    return torch.cat([mask, more], 1)


@torch.no_grad()
def rollout_after_thoughts(
    model: PreTrainedModel,
    prompts: list[list[int]],
    *,
    max_new_tokens: int,
    eos_ids: list[int],
    pad_id: int,
    greedy: bool = True,
) -> Rollouts:
    """Think, then decode greedily after the end token: as `rollout` does, thoughts not among the ids.

    Raises MethodError for an empty prompt, a model without thoughts, or `greedy` false.
    """
    if not greedy:
        raise MethodError("after latent thoughts decoding is greedy")
    if not prompts or any(len(p) == 0 for p in prompts):
        raise MethodError("cannot roll out from an empty prompt")
    core, training = core_model(model), model.training
    model.eval()
    prompt_ids, prompt_mask = left_pad(prompts, pad_id, core.device)
    state = think(core, prompt_ids, prompt_mask)
    head, mask = core.get_output_embeddings(), state.mask
    latent = latent_of(core)
    assert latent is not None
    token = prompt_ids.new_full((len(prompts),), latent.end_id)
    stop = torch.tensor(eos_ids, device=core.device)
    alive = torch.ones_like(token, dtype=torch.bool)
    columns, alive_columns = [], []
    for _ in range(max_new_tokens):
        mask = extended(mask, 1)
        hidden = advance(core, state.cache, mask, input_ids=token.unsqueeze(1)).last_hidden_state[:, -1]
        token = head(hidden).argmax(-1).masked_fill(~alive, pad_id)
        columns.append(token)
        alive_columns.append(alive)
        alive = alive & ~torch.isin(token, stop)
        if not alive.any():
            break
    model.train(training)
    completion_ids = torch.stack(columns, 1)
    return Rollouts(
        prompt_ids,
        prompt_mask,
        completion_ids,
        torch.stack(alive_columns, 1).long(),
        truncated=alive,
        empty=torch.isin(completion_ids[:, 0], stop),
    )
