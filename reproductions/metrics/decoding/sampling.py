"""Batched sampling of a language model, and its probabilities on what was sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from methods.modeling.decoder import decoder_for, is_written_out

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Answers that a written-out model writes together: the keys and values of a small one then stay in a CPU's cache.
TOGETHER = 512
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
        lengths = (self.mask & ~is_any(self.ids, eos_ids)).sum(1).tolist()
        return [row[:length] for row, length in zip(self.ids.tolist(), lengths, strict=True)]


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
    temperature: float = 1.0,
) -> Samples:
    """Continue left-padded prompts (B, P), or greedily without `uniforms`, with a key-value cache.

    `uniforms` (S B, max_new_tokens) in [0, 1) choose the tokens by inverting their cumulative distribution: S answers
    to each prompt, the first to all of them, then the second. A draw does not depend on the device, on the other rows
    or on when they end, and two models given the same numbers are compared with common random numbers. `logprobs` are
    those of the distribution at `temperature` that was drawn from.
    """
    rows, device = len(prompt_ids), model.device
    copies = 1 if uniforms is None else len(uniforms) // rows
    shape = (copies * rows, max_new_tokens)
    made = Samples(
        torch.full(shape, pad_id, device=device),
        torch.zeros(shape, dtype=torch.bool, device=device),
        torch.zeros(shape, device=device),
    )
    prompt_ids, attention = prompt_ids.to(device), attention_mask.to(device)
    uniforms = None if uniforms is None else uniforms.to(device)
    # Prompts of one length stand together, so that hardly any of them is padded.
    order = attention.sum(1).argsort(stable=True)
    together = max(1, (TOGETHER if is_written_out(model) else shape[0]) // copies)
    was_training = model.training
    model.eval()
    try:
        for places in order.split(together):
            width = int(attention[places].sum(1).max())
            block = prompt_ids[places, -width:], attention[places, -width:]
            where = (places[:, None] + rows * torch.arange(copies, device=device)).flatten()
            _sample_block(model, *block, copies, where, made, eos_ids, uniforms, temperature)
    finally:
        model.train(was_training)
    return made


def _sample_block(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    attention: Tensor,
    copies: int,
    index: Tensor,
    made: Samples,
    eos_ids: Sequence[int],
    uniforms: Tensor | None,
    temperature: float,
) -> None:
    """Fills the rows `index` (b copies,) of `made` with the answers to b prompts, those to one prompt side by side.

    Answers to one prompt that have begun with the same tokens are one row of the decoder until they part.
    """
    limit, vocabulary = made.ids.shape[1], model.config.vocab_size
    decode = decoder_for(model, torch.cat([attention, attention.new_ones(len(attention), limit)], 1))
    place = positions(attention)
    logits = decode(prompt_ids, place)  # a prompt is read once, however often it is answered
    place = place[:, -1:]
    row = torch.arange(len(attention), device=index.device).repeat_interleave(copies)  # of each answer
    for step in range(limit):
        logp = (logits.float() / temperature).log_softmax(-1)
        each = logp if copies == 1 else logp[row]
        chosen = (
            each.argmax(-1, keepdim=True) if uniforms is None else invert(each, uniforms[index, step, None])
        )
        token = chosen[:, 0]
        made.mask[index, step] = True
        made.ids[index, step] = token
        made.logprobs[index, step] = each.gather(1, chosen)[:, 0]
        going = ~is_any(token, eos_ids)
        if step + 1 == limit or not going.any():
            return
        index, row, token = index[going], row[going], token[going]
        begun, row = (row * vocabulary + token).unique(return_inverse=True)
        kept = begun // vocabulary
        if len(kept) != len(logits) or not torch.equal(kept, torch.arange(len(kept), device=kept.device)):
            decode.keep(kept)
            place = place[kept]
        place = place + 1
        logits = decode((begun % vocabulary)[:, None], place)


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


def answer_logprobs(
    model: PreTrainedModel,
    prompt_ids: Tensor,
    attention_mask: Tensor,
    answers: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_id: int,
) -> Tensor:
    """(N,) nats in fp32: log of the probability that a sample at temperature 1 is this answer to its prompt.

    Answers are ids without EOS. One that fills the token limit is said without EOS, one beyond it never.
    """
    said = [[*answer, eos_id][:max_new_tokens] for answer in answers]
    width = max(map(len, said))
    ids = torch.tensor([row + [eos_id] * (width - len(row)) for row in said])
    lengths = torch.tensor([len(row) for row in said])
    samples = Samples(ids, torch.arange(width) < lengths[:, None], torch.zeros(ids.shape))
    found = []
    for start in range(0, len(ids), FORWARD_ROWS):
        span = slice(start, start + FORWARD_ROWS)
        some = samples.rows(span)
        logp = completion_logprobs(model, prompt_ids[span], attention_mask[span], some)
        found.append(-token_nll(logp, some).cpu() * some.mask.sum(1))
    possible = torch.tensor([len(answer) <= max_new_tokens for answer in answers])
    return torch.cat(found).masked_fill(~possible, -torch.inf)


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
