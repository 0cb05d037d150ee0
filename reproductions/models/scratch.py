"""Small Llama-style language models with random weights, for testbeds that download nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerBase


def scratch_llama(
    tokenizer: PreTrainedTokenizerBase, shape: Mapping[str, Any], *, max_tokens: int, seed: int
) -> LlamaForCausalLM:
    """An untrained decoder over `tokenizer`; the same `seed` gives the same fp32 weights.

    `shape` holds layers, hidden, heads and intermediate. The global random state is left as it was.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape["hidden"],
        intermediate_size=shape["intermediate"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        max_position_embeddings=max_tokens,
        tie_word_embeddings=True,
        # Twice the usual 0.02: the embeddings are the head too, and 50-130 hidden units start it too flat.
        initializer_range=0.04,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
