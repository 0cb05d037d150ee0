"""Make a pretrained model small enough for a CPU: keep the vocabulary rows that the data uses, and some layers."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, pre_tokenizers

from reproductions.engine.errors import KDError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast


def used_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> set[int]:
    """Ids that occur in the encoded texts."""
    return {token for ids in tokenizer(list(texts))["input_ids"] for token in ids}


def trim_tokenizer(
    tokenizer: PreTrainedTokenizerBase, used: set[int], special: Sequence[str], *, pad: str, eos: str
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """A BPE tokenizer over `used` tokens, all single bytes and `special`, with each new id's old id.

    Kept tokens bring the tokens they are merged from. A text whose tokens were all kept is then cut as before:
    every merge that was applied to it is still there, in the same order, and the others only could not apply.
    Any other text still encodes, down to bytes. Raises KDError for a tokenizer that is not BPE over bytes
    (byte-level, as GPT-2's, or with byte fallback, as Gemma's).
    """
    from transformers import PreTrainedTokenizerFast

    core = json.loads(tokenizer.backend_tokenizer.to_str())
    model = core["model"]
    if model["type"] == "BPE" and "ByteLevel" in json.dumps(core["pre_tokenizer"]):
        single_bytes = list(pre_tokenizers.ByteLevel.alphabet())
    elif model["type"] == "BPE" and model.get("byte_fallback"):
        single_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    else:
        raise KDError("only a BPE tokenizer over bytes can be trimmed")
    old: dict[str, int] = model["vocab"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    parts: dict[str, set[str]] = {}  # by whichever merge: Gemma's list has several ways to make a token
    for left, right in merges:
        parts.setdefault(left + right, set()).update((left, right))
    token_of = {i: token for token, i in old.items()}
    queue = [token_of[i] for i in sorted(used) if i in token_of]
    queue += [byte for byte in single_bytes if byte in old]
    kept: set[str] = set()
    while queue:
        token = queue.pop()
        if token not in kept:
            kept.add(token)
            queue += parts.get(token, ())
    template = (core.get("post_processor") or {}).get("special_tokens", {})  # a BOS or EOS that it adds
    special = [*special, *(token for entry in template.values() for token in entry["tokens"])]
    added = [entry for entry in core["added_tokens"] if entry["content"] in special]
    missing = set(special) - {entry["content"] for entry in added}
    if missing:
        raise KDError(f"the tokenizer has no special token {', '.join(sorted(missing))}")
    kept |= set(special) & set(old)
    ids = sorted({old[token] for token in kept} | {entry["id"] for entry in added})
    new = {i: position for position, i in enumerate(ids)}
    model["vocab"] = {token: new[i] for token, i in sorted(old.items(), key=lambda item: item[1]) if i in new}
    model["merges"] = [[a, b] for a, b in merges if {a, b, a + b} <= kept]
    core["added_tokens"] = [{**entry, "id": new[entry["id"]]} for entry in added]
    if model.get("unk_token") not in model["vocab"]:
        model["unk_token"] = None  # every byte has a token, so nothing is unknown
    for entry in template.values():
        entry["ids"] = [new[i] for i in entry["ids"]]
    trimmed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(core)),
        pad_token=pad,
        eos_token=eos,
        padding_side="left",
        model_max_length=tokenizer.model_max_length,
    )
    return trimmed, ids


def trim_vocabulary(
    model: PreTrainedModel, ids: Sequence[int], *, pad_id: int, eos_id: int
) -> PreTrainedModel:
    """A copy of `model` whose embedding and head have the rows `ids`; `pad_id` and `eos_id` are new ids."""
    config = copy.deepcopy(model.config)
    config.vocab_size = len(ids)
    config.pad_token_id, config.eos_token_id, config.bos_token_id = pad_id, eos_id, None
    rows = torch.tensor(list(ids))
    names = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
    state = {k: v[rows] if k.endswith(names) else v for k, v in model.state_dict().items()}
    return rebuilt(model, config, state)


def keep_layers(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy of a Llama-style `model` with only the decoder layers `layers`, in that order."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = len(layers)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in layers]
    place = {old: new for new, old in enumerate(layers)}
    state = {}
    for name, weight in model.state_dict().items():
        head, found, rest = name.partition("model.layers.")
        if not found:
            state[name] = weight
            continue
        number, _, tail = rest.partition(".")
        if int(number) in place:
            state[f"{head}{found}{place[int(number)]}.{tail}"] = weight
    return rebuilt(model, config, state)


def rebuilt(model: PreTrainedModel, config: object, state: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A model of the same class made from `config` and loaded with `state`, every weight accounted for."""
    with torch.random.fork_rng(devices=[]):
        made = type(model)(config)  # type: ignore[arg-type]
    made.load_state_dict(state)
    made.to(model.dtype)  # type: ignore[arg-type]  # transformers wraps `to` in a way that hides its signature
    return made
