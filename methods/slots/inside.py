"""Every token inside an encoder, not only the labelled ones: outputs of blocks, attention, what that is made from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.modeling.core import blocks_of, core_model

STATES, SCORES = "states", "scores"
QUERIES, KEYS, VALUES = "queries", "keys", "values"
PROJECTIONS = {QUERIES: ("query", "q_lin"), KEYS: ("key", "k_lin"), VALUES: ("value", "v_lin")}
Wanted = tuple[str, int]  # STATES, SCORES or one of PROJECTIONS, of a block


@dataclass(frozen=True)
class Inside:
    """What was wanted of one model on a batch of B texts of L tokens; `mask` (B, L) says which of them are there.

    `states`: by block its outputs (B, L, H); `scores`: by block (B, heads, L, L), queries times keys over the root of
    their size, before mask and softmax; `projections`: by kind and block queries, keys or values (B, L, H), all heads'.
    """

    states: Mapping[int, Tensor]
    scores: Mapping[int, Tensor]
    mask: Tensor
    projections: Mapping[Wanted, Tensor] = field(default_factory=dict)


@contextmanager
def recorded_inside(model: Any, wanted: Collection[Wanted]) -> Iterator[Callable[[Tensor], Inside]]:
    """A function that makes, of the last forward pass inside, what was wanted; it takes the batch's attention mask.

    Raises MethodError for a block that the model does not have, and where a block's queries, keys or values are not
    found: encoders of BERT's kind have them as layers of their own.
    """
    core: Any = core_model(model)
    blocks, kept, handles = blocks_of(core), dict[Any, Tensor](), []

    def keep(name: Any) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            kept[name] = output[0] if isinstance(output, tuple) else output

        return hook

    for kind, block in wanted:
        if not 0 <= block < len(blocks):
            raise MethodError(f"{type(core).__name__} has no block {block}; it has 0 to {len(blocks) - 1}")
        if kind == STATES:
            handles.append(blocks[block].register_forward_hook(keep((STATES, block))))
            continue
        for projection in (QUERIES, KEYS) if kind == SCORES else (kind,):
            layer = _projection(core, blocks[block], PROJECTIONS[projection])
            handles.append(layer.register_forward_hook(keep((projection, block))))

    def made(mask: Tensor) -> Inside:
        heads = core.config.num_attention_heads
        states = {block: kept[STATES, block] for kind, block in wanted if kind == STATES}
        scores = {
            block: scaled_products(kept[QUERIES, block], kept[KEYS, block], heads)
            for kind, block in wanted
            if kind == SCORES
        }
        projections = {(kind, block): kept[kind, block] for kind, block in wanted if kind in PROJECTIONS}
        return Inside(states, scores, mask.bool(), projections)

    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()


def _projection(core: Any, block: nn.Module, names: tuple[str, ...]) -> nn.Linear:
    found = [
        module
        for name, module in block.named_modules()
        if name.rpartition(".")[2] in names and isinstance(module, nn.Linear)
    ]
    if len(found) != 1:
        raise MethodError(
            f"{type(core).__name__} keeps its queries, keys and values where they are not found"
        )
    return found[0]


def scaled_products(queries: Tensor, keys: Tensor, heads: int) -> Tensor:
    """(B, heads, L, L), scaled products of two projections (B, L, H) that are cut into heads."""
    q, k = (side.unflatten(-1, (heads, -1)).transpose(1, 2) for side in (queries, keys))
    return q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5


def both(mask: Tensor) -> Tensor:
    """(B, 1, L, L): both tokens of a pair are there."""
    return torch.logical_and(mask[:, None, :, None], mask[:, None, None, :])
