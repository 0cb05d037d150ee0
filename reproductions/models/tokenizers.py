"""Tokenizers of a testbed's models: as published, trimmed to what the data needs, or trained on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from reproductions.models.sources import load_pretrained
from reproductions.models.trimming import trim_tokenizer, used_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer; `kept` are the rows of a published model that it left (None: all); `key` says what made it."""

    tokenizer: PreTrainedTokenizerBase
    kept: tuple[int, ...] | None = None
    key: Mapping[str, Any] = field(default_factory=dict)


def published_tokenizer(tree: Mapping[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a published model, padding on the left, with the padding and end tokens of `tree`.

    A model without a padding token takes its EOS: masks say what counts, not ids.
    """
    _, tokenizer = load_pretrained(tree["of"], weights=False)
    if tree.get("trimmed"):
        return tokenizer  # `trim` sets the rest
    tokenizer.eos_token = tree.get("eos") or tokenizer.eos_token
    tokenizer.pad_token = tree.get("pad") or tokenizer.pad_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def trimmed(tokenizer: PreTrainedTokenizerBase, tree: Mapping[str, Any], texts: Iterable[str]) -> Vocabulary:
    """Only the tokens that `texts` need, cut as the published tokenizer cuts them."""
    pad, eos = tree["pad"], tree["eos"]
    small, ids = trim_tokenizer(tokenizer, used_tokens(tokenizer, texts), [pad, eos], pad=pad, eos=eos)
    name = hashlib.sha256(json.dumps(ids).encode()).hexdigest()[:16]
    return Vocabulary(small, tuple(ids), {"vocabulary": name})


def merged(texts: Iterable[str], merges: int, max_tokens: int) -> Vocabulary:
    """Byte-level BPE with GPT-2's split into words and numbers: every byte, 3 special tokens, merges from `texts`.

    The same on every machine.
    """
    from transformers import PreTrainedTokenizerFast

    pad, bos, eos = special = ["<pad>", "<bos>", "<eos>"]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=len(special) + len(alphabet) + merges,
            special_tokens=special,
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        bos_token=bos,
        eos_token=eos,
        padding_side="left",
        model_max_length=max_tokens,
    )
    return Vocabulary(tokenizer, None, {"merges": merges})
