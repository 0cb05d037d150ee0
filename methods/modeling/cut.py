"""A shallower model out of some blocks of a deeper one, as many students begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from methods.errors import MethodError
from methods.modeling.core import blocks_of

# Lists of a configuration that say something of each block.
BY_BLOCK = ("layer_types", "no_rope_layers", "mlp_layer_types")


def spread(count: int, blocks: int) -> list[int]:
    """`count` of so many blocks, as evenly as can be, the first and the last among them: 3 of 12 are 0, 6, 11.

    Raises MethodError for none, or for more than there are.
    """
    if not 0 < count <= blocks:
        raise MethodError(f"{count} blocks cannot be kept of {blocks}")
    return [0] if count == 1 else [round(n * (blocks - 1) / (count - 1)) for n in range(count)]


def keep_blocks(model: Any, keep: int | Sequence[int]) -> Any:
    """The model with those of its blocks alone, in that order; so many that are spread over it for a number.

    It is changed in place and is a plain model of its own kind: it saves, loads and decodes as one that was made so
    shallow. A block that would be kept twice is refused. Works on models without weights (device "meta") too.
    Source: half of the teacher's layers as DistilBERT begins (arXiv 1910.01108, section 3); that first and last are
    among them is our choice.
    Raises MethodError for blocks that the model does not have.
    """
    whole = blocks_of(model)
    chosen = spread(keep, len(whole)) if isinstance(keep, int) else list(keep)
    if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= n < len(whole) for n in chosen):
        raise MethodError(f"blocks {chosen} are not some different ones of 0 to {len(whole) - 1}")
    left = nn.ModuleList(whole[n] for n in chosen)
    for place, block in enumerate(left):
        inside: list[Any] = list(block.modules())
        for module in inside:
            if hasattr(module, "layer_idx"):  # which part of the cache is its own
                module.layer_idx = place
    for parent in model.modules():
        for name, child in list(parent.named_children()):
            if child is whole:
                setattr(parent, name, left)
    config = model.config.get_text_config()
    for name in BY_BLOCK:
        listed = getattr(config, name, None)
        if isinstance(listed, list) and len(listed) == len(whole):
            setattr(config, name, [listed[n] for n in chosen])
    config.num_hidden_layers = len(chosen)
    return model
