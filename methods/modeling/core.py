"""What every trainer needs to know of a model: frozen teachers, safe copies, positions, EOS ids, hidden states."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from methods.errors import MethodError


def freeze(model: PreTrainedModel) -> PreTrainedModel:
    """Put `model` in evaluation mode with no parameter asking for a gradient; returns the same object."""
    return model.requires_grad_(False).eval()


def snapshot(model: PreTrainedModel) -> PreTrainedModel:
    """A deep copy that computes with its own weights.

    TRL's trainers store a patched `forward` on the instance; a plain `copy.deepcopy` keeps a closure over the
    original model, so that the copy silently answers with the original's weights. The patch is left out of the copy.
    """
    patched = model.__dict__.pop("forward", None)
    try:
        return copy.deepcopy(model)
    finally:
        if patched is not None:
            model.__dict__["forward"] = patched


@contextmanager
def attached(model: Any, **modules: torch.nn.Module) -> Iterator[None]:
    """Modules are part of `model` while it trains, for the optimizer and the wrappers to see; then it is as before."""
    for name, module in modules.items():
        model.add_module(name, module)
    try:
        yield
    finally:
        for name in modules:
            delattr(model, name)


def position_ids(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions (B, L) counted over attended tokens, 0 on left padding.

    Models with learned absolute positions (GPT-2) are wrong by up to a nat per token without them.
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp_min(0)


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Every id that ends a completion: those of the generation config and the tokenizer's own, sorted.

    Raises MethodError where there is none, because rollouts would never end.
    """
    config = getattr(model, "generation_config", None)  # a model that is a program has none
    declared = None if config is None else config.eos_token_id
    ids = set(declared if isinstance(declared, (list, tuple)) else [declared]) | {tokenizer.eos_token_id}
    ids.discard(None)
    if not ids:
        raise MethodError(
            "neither the tokenizer nor the model's generation config names an end-of-sequence token"
        )
    return sorted(ids)


def core_model(model: Any) -> PreTrainedModel:
    """The causal LM itself, out of a PEFT wrapper if there is one (adapters stay injected in its layers)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def blocks_of(model: torch.nn.Module) -> torch.nn.ModuleList:
    """The blocks of a model, decoder or encoder, in order.

    Raises MethodError where the backbone has no list of as many modules as its configuration has layers, or several.
    """
    core: Any = core_model(model)
    layers = core.config.get_text_config().num_hidden_layers
    backbone = core.base_model
    for inside in (backbone.children(), backbone.modules()):
        found = [m for m in inside if isinstance(m, torch.nn.ModuleList) and len(m) == layers]
        if len(found) == 1:
            return found[0]
    raise MethodError(f"{type(core).__name__} keeps its {layers} blocks where they are not found")


def hidden_states(
    model: torch.nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """Last hidden states (B, L, H) of a causal LM, with the positions that padding asks for; no logits are made."""
    backbone = core_model(model).base_model
    return backbone(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=position_ids(attention_mask),
        use_cache=False,
    ).last_hidden_state


def token_states(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Last hidden states (N, H) at the positions that predict the labels of a micro-batch."""
    hidden = hidden_states(model, batch["input_ids"], batch["attention_mask"])
    return hidden[:, :-1][batch["labels"][:, 1:] != -100]


def shared_vocabulary(
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    student_tokenizer: PreTrainedTokenizerBase | None = None,
    teacher_tokenizer: PreTrainedTokenizerBase | None = None,
) -> int:
    """How many leading token ids both heads share; heads padded to different sizes (Qwen 151936 / 152064) are fine.

    Raises MethodError where the two tokenizers give one id to different tokens: a token-level divergence would then
    compare unrelated words (use a cross-tokenizer method instead).
    """
    size = min(
        student.get_output_embeddings().weight.shape[0], teacher.get_output_embeddings().weight.shape[0]
    )
    if student_tokenizer is not None and teacher_tokenizer is not None:
        ours, theirs = student_tokenizer.get_vocab(), teacher_tokenizer.get_vocab()
        if ours != theirs:
            by_id = {index: token for token, index in theirs.items() if index < size}
            clash = next(
                (
                    (i, t, by_id[i])
                    for t, i in sorted(ours.items(), key=lambda item: item[1])
                    if by_id.get(i, t) != t
                ),
                None,
            )
            if clash is not None:
                raise MethodError(
                    f"teacher and student use different tokenizers: id {clash[0]} is {clash[1]!r} for the student "
                    f"and {clash[2]!r} for the teacher; a token-level divergence needs one tokenizer"
                )
            if len(set(ours) & set(theirs)) < 0.5 * min(len(ours), len(theirs)):
                raise MethodError(
                    "teacher and student use different tokenizers: they share less than half of the tokens"
                )
    return size
