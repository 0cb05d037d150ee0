"""A teacher that is a program: exact next-token probabilities behind any tokens, in the form of a language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Says = Callable[[Tensor, Tensor], Tensor]  # ids and mask (B, L) -> probabilities (B, L, V)
LEAST = 1e-30  # in the place of probability 0: a head multiplies, and 0 x infinity is no number


class OracleConfig(PretrainedConfig):
    """Hidden states are log-probabilities, so there are as many of them as tokens."""

    model_type = "oracle"

    def __init__(self, vocab_size: int = 1, **more: Any) -> None:
        self.vocab_size = self.hidden_size = vocab_size
        self.num_hidden_layers = self.num_attention_heads = 1
        super().__init__(**more)


class Oracle(PreTrainedModel):
    """Hidden states (B, L, V) are the log-probabilities that `says` gives, the head is the identity.

    So it fits wherever a teacher does. What it has read is kept as the keys of the cache's only layer.
    """

    config_class = OracleConfig
    base_model_prefix = "oracle"

    def __init__(self, says: Says, tokenizer: PreTrainedTokenizerBase) -> None:
        size = len(tokenizer)
        super().__init__(
            OracleConfig(
                vocab_size=size,
                pad_token_id=tokenizer.pad_token_id,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )
        self.says = says
        self.head = nn.Linear(size, size, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(size))
        self.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Module:
        return self.head

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **more: Any,
    ) -> Any:
        """`last_hidden_state` and `logits`, both of the last `logits_to_keep` tokens (0: of all that were given)."""
        read, new = input_ids, input_ids.shape[1]
        if use_cache or past_key_values is not None:
            past_key_values = DynamicCache() if past_key_values is None else past_key_values
            keys = input_ids[:, None, :, None].double()  # every id is a whole number there
            read = past_key_values.update(keys, keys, 0)[0][:, 0, :, 0].long()
        mask = torch.ones_like(read) if attention_mask is None else attention_mask
        said = self.says(read, mask)[:, -(logits_to_keep or new) :].clamp_min(LEAST).log()
        made = CausalLMOutputWithPast(logits=said, past_key_values=past_key_values)
        made["last_hidden_state"] = said
        return made
