"""An LM head ready for the GEMMs, and logits in fp32 of operands in bf16 or fp16, on any processor.

On CUDA a GEMM of bf16 operands can write fp32. On the CPU it adds up in fp32 and writes bf16: logits between 32 and 64
are then wrong by up to 0.125, and the gradient of a student that is near its teacher by a tenth and more. A second GEMM
takes the first one's result away before it rounds (`beta=-1`): the sum of both is off by 2**-17 of a logit. Where the
processor multiplies bf16, that is cheaper than GEMMs of fp32 copies, and no fp32 copy of a head is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Projection:
    """An LM head ready for the GEMMs: logits = cap(factor * (hidden @ weight.T + bias)) / temperature.

    `factor` is the logit scale, over the temperature where there is no soft cap between the two.
    """

    weight: Tensor  # (V, H), in the GEMMs' dtype
    bias: Tensor | None  # (V,)
    factor: float
    soft_cap: float | None
    temperature: float
    masked: Tensor | None  # ids whose bias is -inf

    def logits(self, hidden: Tensor, out: Tensor) -> Tensor:
        """`(n, H)` -> `out` `(n, V)`, before the soft cap."""
        weight = self.weight.t()
        if self.bias is not None and out.dtype == self.weight.dtype:
            return torch.addmm(self.bias, hidden, weight, beta=self.factor, alpha=self.factor, out=out)
        if out.dtype != self.weight.dtype:  # CUDA: bf16 operands, fp32 result
            torch.mm(hidden, weight, out_dtype=out.dtype, out=out)
            if self.bias is not None:
                out.add_(self.bias)
            return out if self.factor == 1 else out.mul_(self.factor)
        if self.factor == 1:
            return torch.mm(hidden, weight, out=out)
        return torch.addmm(out, hidden, weight, beta=0, alpha=self.factor, out=out)

    def parts(self, hidden: Tensor, out: Tensor, rest: Tensor) -> None:
        """hidden @ weight.T in two tensors `(n, V)` of the operands' dtype whose sum is as good as fp32."""
        _parts(hidden, self.weight, out, rest)

    def joined(self, logits: Tensor, rest: Tensor) -> Tensor:
        """The logits before the soft cap, in place: `logits` is the first of the two parts, in fp32."""
        logits.add_(rest)
        if self.bias is not None:
            logits.add_(self.bias)
        return logits if self.factor == 1 else logits.mul_(self.factor)

    def cap(self, logits: Tensor, slope: Tensor | None = None) -> Tensor:
        """Apply the soft cap in place; `slope` receives its derivative."""
        if self.soft_cap is None:
            return logits
        bounded = logits.div_(self.soft_cap).tanh_()
        if slope is not None:
            torch.mul(bounded, bounded, out=slope).neg_().add_(1)
        return bounded.mul_(self.soft_cap / self.temperature)

    @property
    def outer(self) -> float:
        """What the derivative of the logits still has to be multiplied by, a constant."""
        return self.factor if self.soft_cap is None else self.factor / self.temperature


def wide_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden `(..., H)` @ weight `(V, H)`.T + bias `(V,)` in fp32 of operands in bf16 or fp16, autocast's among them.

    Differentiable, once. Operands of fp32 and float64 outside of autocast give their own dtype, the wider of two.
    """
    device, dtype = hidden.device.type, torch.promote_types(hidden.dtype, weight.dtype)
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    if dtype.itemsize > 2:
        own = None if bias is None else bias.to(dtype)
        return torch.nn.functional.linear(hidden.to(dtype), weight.to(dtype), own)
    rows = hidden.reshape(-1, hidden.shape[-1]).to(dtype)
    logits: Tensor = _Wide.apply(rows, weight.to(dtype))
    logits = logits if bias is None else logits + bias
    return logits.view(*hidden.shape[:-1], len(weight))


def _parts(hidden: Tensor, weight: Tensor, out: Tensor, rest: Tensor) -> None:
    torch.mm(hidden, weight.t(), out=out)
    torch.addmm(out, hidden, weight.t(), beta=-1, out=rest)


class _Wide(torch.autograd.Function):
    """A product in fp32 whose gradients are GEMMs of the operands' dtype."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        """(n, H), (V, H) -> (n, V)."""
        ctx.save_for_backward(hidden, weight)
        with torch.autocast(hidden.device.type, enabled=False):
            if hidden.device.type == "cuda":
                return torch.mm(hidden, weight.t(), out_dtype=torch.float32)
            first, rest = (hidden.new_empty(len(hidden), len(weight)) for _ in range(2))
            _parts(hidden, weight, first, rest)
            return first.float().add_(rest)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Of both operands, where they are asked for."""
        hidden, weight = ctx.saved_tensors
        with torch.autocast(hidden.device.type, enabled=False):
            slopes = grad.to(hidden.dtype)
            return (
                slopes @ weight if ctx.needs_input_grad[0] else None,
                slopes.t() @ hidden if ctx.needs_input_grad[1] else None,
            )
