"""Losses without a fused form: their logits a few rows at a time."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from methods.losses.fused.kernels import Layout


def by_chunk(
    function: Callable[..., Tensor], size: int, chunk: int | None, ours: Tensor, *others: Tensor
) -> Tensor:
    """Sum of `function` over chunks of rows; the backward pass computes each again, so one exists at a time."""
    plan = Layout.plan(len(ours), size, ours.device, torch.float32, chunk)
    total = ours.sum() * 0  # a graph even where there are no rows
    for part in zip(*(side.split(plan.chunk) for side in (ours, *others)), strict=True):
        total = total + checkpoint(function, *part, use_reentrant=False, preserve_rng_state=False)
    return total
