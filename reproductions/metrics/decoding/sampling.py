"""Batched sampling of a language model, and its probabilities on what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Finished rows cost as much as live ones; copying the cache to drop them pays below this share of live rows.
COMPACT_BELOW = 0.6
# Rows of one forward pass over whole sequences: the activations of a small model then stay in a CPU's cache.
FORWARD_ROWS = 64


@dataclass(frozen=True)
class Samples:
    """Generated tokens (B, T): `ids`, `mask` (true up to and with EOS), `logprobs` (nats, 0 after EOS)."""

    ids: Tensor
    mask: Tensor
    logprobs: Tensor

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """ids, mask and logprobs."""
        return self.ids, self.mask, self.logprobs

    def rows(self, span: slice) -> Samples:
        """Some of them."""
        return Samples(self.ids[span], self.mask[span], self.logprobs[span])

    def finished(self, eos_ids: Sequence[int]) -> Tensor:
        """(B,) true where the answer ended with EOS before the token limit."""
        return (is_any(self.ids, eos_ids) & self.mask).any(1)

    def answers(self, eos_ids: Sequence[int]) -> list[list[int]]:
        """Token ids of each row without its EOS."""
        keep = self.mask & ~is_any(self.ids, eos_ids)
        return [row[k].tolist() for row, k in zip(self.ids.cpu(), keep.cpu(), strict=True)]


def is_any(ids: Tensor, values: Sequence[int]) -> Tensor:
    """Elementwise `ids in values`."""
    return torch.isin(ids, torch.tensor(list(values), device=ids.device))


def positions(attention_mask: Tensor) -> Tensor:
    """Position of each token counted from the first real one: left padding shifts no learned position."""
    return (attention_mask.cumsum(-1) - 1).clamp_min(0)


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_tokens: int, *, keep: str = "end"
) -> tuple[Tensor, Tensor]:
    """Left-padded ids and attention mask (B, P) on the CPU; of a longer prompt the "end" or "start" is kept."""
    cut = slice(-max_tokens, None) if keep == "end" else slice(max_tokens)
    rows = [ids[cut] for ids in tokenizer(list(prompts), return_attention_mask=False)["input_ids"]]
    width = max(map(len, rows))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    uniforms: Tensor | None = None,
) -> Samples:
    """Continue left-padded prompts (B, P) at temperature 1, or greedily without `uniforms`, with a key-value cache.

    `uniforms` (B, max_new_tokens) in [0, 1) choose the tokens by inverting their cumulative distribution: a draw
    does not depend on the device or on when other rows end, and two models given the same numbers are compared
    with common random numbers.
    """
    from transformers import DynamicCache

    was_training = model.training
    model.eval()
    device = model.device
    rows = len(prompt_ids)
    prompt_ids, attention = prompt_ids.to(device), attention_mask.to(device)
    uniforms = None if uniforms is None else uniforms.to(device)
    ids = torch.full((rows, max_new_tokens), pad_id, device=device)
    mask = torch.zeros((rows, max_new_tokens), dtype=torch.bool, device=device)
    logprobs = torch.zeros((rows, max_new_tokens), device=device)
    cache = DynamicCache(config=model.config)
    index = torch.arange(rows, device=device)  # the rows still being computed
    alive = torch.ones(rows, dtype=torch.bool, device=device)
    step_ids, place = prompt_ids, positions(attention)
    for step in range(max_new_tokens):
        logits = model(
            input_ids=step_ids,
            attention_mask=attention,
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        logp = logits.float().log_softmax(-1)
        uniform = None if uniforms is None else uniforms[index, step, None]
        chosen = logp.argmax(-1, keepdim=True) if uniform is None else invert(logp, uniform)
        mask[index, step] = alive
        ids[index, step] = torch.where(alive, chosen[:, 0], pad_id)
        logprobs[index, step] = logp.gather(1, chosen)[:, 0] * alive
        alive = alive & ~is_any(chosen[:, 0], eos_ids)
        going = int(alive.sum())
        if going == 0:
            break
        step_ids, place = chosen, place[:, -1:] + 1
        attention = torch.cat([attention, attention.new_ones(len(attention), 1)], 1)
        if going < COMPACT_BELOW * len(index):
            kept = alive.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            index, alive, attention = index[kept], alive[kept], attention[kept]
            step_ids, place = step_ids[kept], place[kept]
    model.train(was_training)
    return Samples(ids, mask, logprobs)


def invert(logp: Tensor, uniform: Tensor) -> Tensor:
    """Token (B, 1) where the cumulative distribution of log-probabilities (B, V) passes `uniform` (B, 1)."""
    cumulative = logp.exp().cumsum(-1)
    # The total is 1 only up to rounding; scaling by it keeps a token of probability zero out of reach.
    token = torch.searchsorted(cumulative, uniform * cumulative[:, -1:], right=True)
    return token.clamp_max(logp.shape[-1] - 1)


@torch.no_grad()
def completion_logprobs(
    model: PreTrainedModel, prompt_ids: Tensor, attention_mask: Tensor, samples: Samples
) -> Tensor:
    """Log-probabilities (B, T, V) in fp32 of the next token at every position of the sampled completions."""
    was_training = model.training
    model.eval()
    device = model.device
    attention = torch.cat([attention_mask.to(device), samples.mask.to(device, attention_mask.dtype)], 1)
    logits = model(
        input_ids=torch.cat([prompt_ids.to(device), samples.ids.to(device)], 1),
        attention_mask=attention,
        position_ids=positions(attention),
        use_cache=False,
        logits_to_keep=samples.ids.shape[1] + 1,
    ).logits[:, :-1]
    model.train(was_training)
    return logits.float().log_softmax(-1)


def accumulated_kl(teacher_logp: Tensor, student_logp: Tensor, mask: Tensor) -> Tensor:
    """Sum over the completion of KL(teacher || student), nats per example (B,).

    Takes log-probabilities (B, T, V) and a mask (B, T). On contexts sampled from the student this is the
    accumulated regret R(L) of MiniLLM sec. 3.3; on contexts from the teacher it is L times the per-step error
    there. After EOS both distributions agree, so those terms are 0.
    """
    inner = teacher_logp.exp() * (teacher_logp - student_logp)
    # 0 log 0 = 0: a teacher that excludes a token must not give NaN.
    per_token = torch.where(teacher_logp == -torch.inf, 0.0, inner).sum(-1)
    return (per_token * mask).sum(-1)


def token_nll(logp: Tensor, samples: Samples) -> Tensor:
    """-log probability of the sampled tokens, nats per token (B,), by log-probabilities (B, T, V)."""
    chosen = logp.gather(-1, samples.ids.to(logp.device).unsqueeze(-1)).squeeze(-1)
    return -(chosen * samples.mask).sum(-1) / samples.mask.sum(-1).clamp_min(1)
