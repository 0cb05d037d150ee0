"""The fused losses as autograd functions: gradients made in the forward pass, or by projecting again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from methods.losses.fused.kernels import Gradients, LabelObjective, Layout, accumulate
from methods.losses.fused.projection import Projection

Run = Callable[[tuple[bool, ...]], tuple[Tensor, Gradients]]


class GradientInForward(torch.autograd.Function):
    """(weighted sum, detached values) of a run whose gradients are made in the forward pass.

    The gradients are scaled in place and given away, so that no second head-sized tensor is made; a second
    backward pass over a retained graph therefore runs everything again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        run: Run,
        row_weights: Tensor | None,
        grad_enabled: bool,
    ) -> tuple[Tensor, Tensor]:
        """Run, keep the gradients."""
        needs = tuple(grad_enabled and needed for needed in ctx.needs_input_grad[:3])
        values, ctx.gradients = run(needs)
        ctx.needs, ctx.run = needs, run
        ctx.save_for_backward(hidden, weight, bias)
        ctx.mark_non_differentiable(values)
        ctx.set_materialize_grads(False)
        return (values if row_weights is None else values * row_weights).sum(), values

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        """Scale what the forward pass made."""
        inputs = ctx.saved_tensors  # reading them checks that nobody changed them since
        if grad_total is None:
            return (None,) * 6
        if ctx.gradients is None:
            with torch.autocast(inputs[0].device.type, enabled=False):
                ctx.gradients = ctx.run(ctx.needs)[1]
        made, ctx.gradients = ctx.gradients, None
        return *made.scaled(grad_total, inputs), None, None, None


class LogProbs(torch.autograd.Function):
    """log q at one id per row, `(N,)`; the backward pass has a factor per row, so it projects again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        operands: Callable[[], tuple[Tensor, Projection]],
        ids: Tensor,
        layout: Layout,
    ) -> Tensor:
        """Project chunk by chunk, keep nothing of the vocabulary."""
        rows, head = operands()
        values, _ = accumulate(rows, head, LabelObjective(ids), layout, None, (False,) * 3, len(weight))
        ctx.operands, ctx.ids, ctx.layout = operands, ids, layout
        ctx.save_for_backward(hidden, weight, bias)
        return values.neg_()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        """The cross entropy's gradient with row weights -grad."""
        inputs = ctx.saved_tensors
        with torch.autocast(inputs[0].device.type, enabled=False):
            rows, head = ctx.operands()
            objective, weights = LabelObjective(ctx.ids), grad_values.to(ctx.layout.dtype).neg()
            needs = ctx.needs_input_grad[:3]
            _, made = accumulate(rows, head, objective, ctx.layout, weights, needs, len(inputs[1]))
        return *made.scaled(1.0, inputs), None, None, None
