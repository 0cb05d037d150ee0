"""Encoders that classify: the last linear layer is the head, what goes into it the hidden state, as in language models.

So everything that is said of an LM head and last hidden states (divergences, targets, weights) holds of classes too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.modeling.core import core_model
from methods.slots.features import recorded_blocks

IGNORED = -100


def classes_of(model: Any) -> list[str]:
    """The names of a classifier's classes in the order of its logits."""
    names: Any = core_model(model).config.id2label
    return [names[n] for n in range(len(names))]


def classifier_layer(model: Any) -> nn.Linear:
    """The linear layer whose output the logits are.

    Raises MethodError for a model that has none, for one number (a regression), or for several labels a text.
    """
    core: Any = core_model(model)
    name, config = type(core).__name__, core.config
    if getattr(config, "problem_type", None) not in (None, "single_label_classification"):
        raise MethodError(
            f"{name} solves {config.problem_type}; one label of several is what can be distilled"
        )
    if config.num_labels < 2:
        raise MethodError(f"{name} gives one number, not classes")
    inside = [m for m in core.modules() if isinstance(m, nn.Linear) and m.out_features == config.num_labels]
    if not inside:
        raise MethodError(f"{name} ends in no linear layer of its {config.num_labels} classes")
    return inside[-1]


def head_of_classifier(model: Any) -> Head:
    """The classifier's last layer as a head: weight (C, H) and bias (C,)."""
    layer = classifier_layer(model)
    return Head(layer.weight, layer.bias)


def of_a_text(labels: Tensor) -> bool:
    """Whether labels are one a text (B,), not one a token (B, L)."""
    return labels.dim() == 1


def labelled(labels: Tensor) -> Tensor:
    """The places that have a label: bool like `labels`."""
    return labels != IGNORED


def classifier_states(
    model: Any, batch: Mapping[str, Tensor], where: Tensor, blocks: Sequence[int] = ()
) -> tuple[Tensor, dict[int, Tensor]]:
    """What goes into the head (N, H) at the labelled places, and there the outputs (N, H) of some blocks.

    `where` is (B,) for texts, and (B, L) for tokens. Blocks of texts are read where the head reads the last: at the
    first token (PKD, arXiv 1908.09355, section 3.2), or as their mean by a model that takes means (`pooled`). `batch`
    holds what the model's tokenizer made.
    Raises MethodError where the head is not what makes the logits.
    """
    core = core_model(model)
    layer, seen = classifier_layer(core), []
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with recorded_blocks(core, blocks) if blocks else _nothing() as outputs:
            logits = core(**batch).logits
            pool = getattr(core, "pooled", _first_token) if where.dim() == 1 else _every_token
            states = {block: pool(output, batch.get("attention_mask")) for block, output in outputs.items()}
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].shape[:-1] != logits.shape[:-1] or logits.shape[:-1] != where.shape:
        raise MethodError(f"{type(core).__name__}: its last linear layer does not make its logits")
    return seen[0][where], {block: state[where] for block, state in states.items()}


def _first_token(output: Tensor, mask: Tensor | None) -> Tensor:
    return output[:, 0]


def _every_token(output: Tensor, mask: Tensor | None) -> Tensor:
    return output


@torch.no_grad()
def logits_of(model: Any, batches: Iterator[Mapping[str, Tensor]]) -> Iterator[Tensor]:
    """Logits (B, C) or (B, L, C) of each batch in evaluation mode, on the CPU in fp32; the mode is given back."""
    mode = model.training
    model.eval()
    try:
        for batch in batches:
            on = {name: tensor.to(model.device) for name, tensor in batch.items()}
            yield model(**on).logits.float().cpu()
    finally:
        model.train(mode)


@contextmanager
def _nothing() -> Iterator[dict[int, Tensor]]:
    yield {}
