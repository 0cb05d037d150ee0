"""Speculative decoding: a small draft model proposes a block of tokens, the target keeps what it would have said.

The text has exactly the target's distribution (or is its greedy answer), whatever the draft; a better aligned draft
only makes it come in fewer calls of the target. Sources: Leviathan et al., arXiv 2211.17192, and Chen et
al., arXiv 2302.01318. What distillation is to raise is the acceptance rate (DistillSpec, arXiv 2310.08461).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from methods.errors import MethodError
from methods.losses.divergences import total_variation
from methods.modeling.caching import key_value_cache
from methods.modeling.core import position_ids
from methods.modeling.rollouts import left_pad


@dataclass(frozen=True)
class Speculation:
    """N answers and what they cost; every tensor but `ids` and `mask` is (N,)."""

    ids: Tensor  # (N, T), includes the end-of-sequence token, padded on the right
    mask: Tensor  # (N, T) bool, true up to and with the first end-of-sequence token
    examined: Tensor  # proposed tokens that the target looked at: the accepted ones and the first refused of each block
    accepted: Tensor  # those of them that it kept
    target_calls: Tensor  # forward passes of the target while the answer was unfinished
    truncated: Tensor  # bool: cut by the length limit

    @property
    def tokens(self) -> Tensor:
        """(N,) tokens of each answer; over `target_calls` the block efficiency."""
        return self.mask.sum(1)

    def answers(self) -> list[list[int]]:
        """Token ids of each answer, the end-of-sequence token included."""
        return [row[keep].tolist() for row, keep in zip(self.ids, self.mask, strict=True)]


def acceptance_rate(draft_logits: Tensor, target_logits: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Probability that a token drawn from the draft is kept: 1 - TVD, logits (..., V) -> (...).

    Source: Leviathan et al., arXiv 2211.17192; DistillSpec, arXiv 2310.08461, is there to raise its mean.
    """
    return 1 - total_variation(draft_logits, target_logits, temperature=temperature)


def expected_block_efficiency(acceptance: float, block_length: int) -> float:
    """Tokens per call of the target if every proposal is kept with the same probability, independently.

    (1 - a^(g + 1)) / (1 - a) for acceptance a and blocks of g. Source: Leviathan et al., arXiv 2211.17192.
    """
    return float(sum(acceptance**i for i in range(block_length + 1)))


def keep_block(target: Tensor, draft: Tensor, proposed: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """How many of a block's proposals are kept (N,), and the distribution (N, V) of the token after them.

    `target` (N, G + 1, V) and `draft` (N, G, V) are probabilities, `proposed` (N, G) ids drawn from the draft,
    `uniforms` (N, G) in [0, 1). A proposal x is kept with probability min(1, target(x) / draft(x)); after the first
    that is not, the next token comes from what the target has more of, max(0, target - draft) renormalised.
    """
    ids = proposed.unsqueeze(-1)
    wanted, offered = (p[:, : ids.shape[1]].gather(-1, ids).squeeze(-1) for p in (target, draft))
    kept = (uniforms * offered < wanted).long().cumprod(1).sum(1)
    place = kept.view(-1, 1, 1).expand(-1, 1, target.shape[-1])
    here = target.gather(1, place).squeeze(1)
    # After the last proposal nothing was offered, so the target's own distribution is left.
    left = (here - torch.nn.functional.pad(draft, (0, 0, 0, 1)).gather(1, place).squeeze(1)).clamp_min(0)
    total = left.sum(-1, keepdim=True)
    # Rounding can refuse a token although both distributions agree.
    return kept, torch.where(total > 0, left / total, here)


class _Decoder:
    """A model with its key-value cache. It answers for the last `keep` of the columns it is given."""

    def __init__(self, model: PreTrainedModel, vocabulary: int, temperature: float | None):
        self.model, self.vocabulary, self.temperature = model, vocabulary, temperature
        self.cache = key_value_cache(model)
        self.readable = model.get_input_embeddings().weight.shape[0]  # type: ignore[index]

    def __call__(self, ids: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Probabilities (N, keep, vocabulary) after `ids` (N, L), the newest columns of `mask` (N, all columns)."""
        logits = (
            self.model(
                input_ids=ids.masked_fill(ids >= self.readable, 0),
                attention_mask=mask,
                position_ids=position_ids(mask)[:, -ids.shape[1] :],
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=keep,
            )
            .logits[:, -keep:, : self.vocabulary]
            .float()
        )
        if self.temperature is None:
            probabilities = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
        else:
            probabilities = (logits / self.temperature).softmax(-1)
        return torch.nn.functional.pad(probabilities, (0, self.vocabulary - probabilities.shape[-1]))


@torch.no_grad()
def speculate(
    target: PreTrainedModel,
    draft: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    block_length: int = 4,
    temperature: float = 1.0,
    greedy: bool = False,
    generator: torch.Generator | None = None,
) -> Speculation:
    """Continue each prompt as `target` would, by temperature or greedily, `block_length` (gamma) proposals at a time.

    Both models keep a key-value cache over one layout of columns for all rows: columns of refused proposals stay and
    are masked, which costs memory but no copying. A draft with fewer ids proposes those only and reads others as id 0,
    one with more is cut to the target's. Both run in evaluation mode and get back their mode. Raises MethodError for
    an empty prompt.
    """
    if not prompts or any(len(p) == 0 for p in prompts):
        raise MethodError("cannot decode from an empty prompt")
    if block_length < 1 or max_new_tokens < 1:
        raise MethodError("speculative decoding needs a block and an answer of at least one token")
    device, modes = target.device, [target.training, draft.training]
    target.eval()
    draft.eval()
    try:
        state = _State(prompts, max_new_tokens, list(eos_ids), pad_id, block_length, device, generator)
        vocabulary = len(target.get_output_embeddings().weight)
        heat = None if greedy else temperature
        decoders = _Decoder(target, vocabulary, heat), _Decoder(draft, vocabulary, heat)
        while len(state.index):
            state.advance(*decoders)
    finally:
        for model, mode in zip((target, draft), modes, strict=True):
            model.train(mode)
    return state.result()


class _State:
    """Answers in the making. `index` names the unfinished rows; what is per column or per model holds those only."""

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        limit: int,
        eos_ids: list[int],
        pad_id: int,
        block: int,
        device: torch.device,
        generator: torch.Generator | None,
    ):
        count = len(prompts)
        self.limit, self.block, self.generator = limit, block, generator
        self.stop = torch.tensor(eos_ids, device=device)
        ids, self.mask = left_pad([list(p) for p in prompts], pad_id, device)
        self.for_target = self.for_draft = ids  # the newest columns of the mask, which the model has not seen
        self.index = torch.arange(count, device=device)
        self.places = torch.arange(block + 1, device=device)
        self.ids = torch.full((count, limit), pad_id, device=device)
        self.lengths, self.examined, self.accepted, self.calls = torch.zeros(
            4, count, dtype=torch.long, device=device
        )
        self.ended = torch.zeros(count, dtype=torch.bool, device=device)

    def advance(self, target: _Decoder, draft: _Decoder) -> None:
        """One block: proposals, one call of the target, one to block + 1 more tokens for each unfinished row."""
        offered, proposed = self._propose(draft)
        ones = self.mask.new_ones(len(self.index), self.block)
        seen = torch.cat([self.for_target, proposed], 1)
        wanted = target(seen, torch.cat([self.mask, ones], 1), self.block + 1)
        uniforms = torch.rand(proposed.shape, generator=self.generator, device=proposed.device)
        kept, rest = keep_block(wanted, offered, proposed, uniforms)
        after = torch.multinomial(rest, 1, generator=self.generator)
        self._write(torch.cat([proposed, after], 1).scatter(1, kept.unsqueeze(1), after), kept)
        stays = (self.places[: self.block] < kept.unsqueeze(1)).to(self.mask.dtype)
        self.mask = torch.cat([self.mask, stays, ones[:, :1]], 1)
        self.for_target, self.for_draft = after, torch.cat([proposed[:, -1:], after], 1)
        self._drop_finished(target, draft)

    def _propose(self, draft: _Decoder) -> tuple[Tensor, Tensor]:
        """The draft's distributions (n, block, V) and what it drew from them (n, block)."""
        offered: list[Tensor] = []
        drawn: list[Tensor] = []
        ids, mask = self.for_draft, self.mask
        for _ in range(self.block):
            offered.append(draft(ids, mask, 1)[:, 0])
            ids = torch.multinomial(offered[-1], 1, generator=self.generator)
            drawn.append(ids)
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        return torch.stack(offered, 1), torch.cat(drawn, 1)

    def _write(self, tokens: Tensor, kept: Tensor) -> None:
        """Append the first kept + 1 of `tokens` (n, block + 1), up to the end of sequence and the limit."""
        place = self.lengths[self.index].unsqueeze(1) + self.places
        valid = (self.places <= kept.unsqueeze(1)) & (place < self.limit)
        ends = torch.isin(tokens, self.stop) & valid
        valid &= (ends.long().cumsum(1) - ends.long()) == 0
        rows = self.index.unsqueeze(1).expand_as(place)
        self.ids[rows[valid], place[valid]] = tokens[valid]
        looked = valid[:, : self.block]
        self.lengths[self.index] += valid.sum(1)
        self.examined[self.index] += looked.sum(1)
        self.accepted[self.index] += (looked & (self.places[: self.block] < kept.unsqueeze(1))).sum(1)
        self.calls[self.index] += 1
        self.ended[self.index] = (ends & valid).any(1)

    def _drop_finished(self, *decoders: _Decoder) -> None:
        going = ~self.ended[self.index] & (self.lengths[self.index] < self.limit)
        if going.all():
            return
        left = going.nonzero().squeeze(1)
        for decoder in decoders:
            decoder.cache.batch_select_indices(left)
        self.index, self.mask = self.index[left], self.mask[left]
        self.for_target, self.for_draft = self.for_target[left], self.for_draft[left]

    def result(self) -> Speculation:
        width = int(self.lengths.max())
        mask = torch.arange(width, device=self.ids.device) < self.lengths.unsqueeze(1)
        return Speculation(
            self.ids[:, :width], mask, self.examined, self.accepted, self.calls, truncated=~self.ended
        )
