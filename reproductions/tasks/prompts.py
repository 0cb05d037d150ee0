"""Prompts by a model's own chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def asked(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """A prompt by a chat template, without the BOS that the tokenizer adds itself."""
    text = str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return text.removeprefix(str(tokenizer.bos_token or ""))
