"""Distillation losses fused with the LM head: hidden states in, loss out, the logits never all exist.

    head, teacher_head = head_of(student), head_of(teacher)
    loss = linear_divergence(hidden[:, :-1], head, teacher_hidden[:, :-1], teacher_head, mask[:, 1:],
                             divergence="reverse_kl")
    (loss.total / count).backward()

Hidden states are the last ones (what the head sees, after the final norm), `(N, H)` or `(B, T, H)`; rows
outside `mask` never reach the vocabulary. The caller shifts. What the losses return is a sum in nats: divide
by the tokens of the whole accumulation window. Gradients reach the student's hidden states, head and head
bias; the teacher's arguments and the weights are constants. Double backward raises.

Precision: operands of the GEMMs in the dtype of hidden states and head, each model in its own (the autocast dtype under
autocast); logits in fp32 of bf16 operands too (`methods.losses.fused.projection`), softmax and sums in fp32 (float64
for float64 inputs). The gradient of the head is accumulated in fp32.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.divergences import check_temperature, shared_size
from methods.losses.fused.autograd import GradientInForward, LogProbs
from methods.losses.fused.formulas import FUSED_DIVERGENCES, Fused
from methods.losses.fused.kernels import (
    DivergenceObjective,
    Gradients,
    LabelObjective,
    Layout,
    Objective,
    accumulate,
)
from methods.losses.fused.projection import Projection, wide_linear

__all__ = [
    "FUSED_DIVERGENCES",
    "Head",
    "RowLoss",
    "at_temperatures",
    "head_of",
    "linear_cross_entropy",
    "linear_divergence",
    "linear_draws",
    "linear_log_probs",
]


@dataclass(frozen=True)
class Head:
    """An LM head: logits = cap(scale * (hidden @ weight.T + bias)), cap(x) = soft_cap * tanh(x / soft_cap).

    `weight` (V, H), `bias` (V,) or None. A bias of `-inf` masks an id (except under a soft cap).
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    soft_cap: float | None = None

    def logits(self, hidden: Tensor, size: int | None = None) -> Tensor:
        """Logits (N, `size`) of the first ids for `hidden` (N, H), differentiable, in fp32 or float64.

        For a few rows at a time: all of them exist at once.
        """
        bias = None if self.bias is None else self.bias[:size]
        logits = wide_linear(hidden, self.weight[:size], bias)
        logits = logits.to(torch.promote_types(hidden.dtype, torch.float32)) * self.scale
        return logits if self.soft_cap is None else self.soft_cap * (logits / self.soft_cap).tanh()


class RowLoss(NamedTuple):
    """A differentiable weighted sum, and the rows it is made of (detached, unweighted, in order)."""

    total: Tensor  # scalar
    values: Tensor  # (rows inside the mask,), nats


def head_of(model: nn.Module) -> Head:
    """The LM head of a transformers causal language model, with its scale and soft cap.

    Raises MethodError if it has none, or one that is not a plain linear layer (an adapter on it, quantised).
    """
    get: Any = getattr(model, "get_output_embeddings", None)
    layer = get() if callable(get) else None
    name = type(model).__name__
    if layer is None:
        raise MethodError(
            f"{name} has no output embeddings: a causal language model with an LM head is needed."
        )
    weight = getattr(layer, "weight", None)
    if hasattr(layer, "base_layer") or not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise MethodError(
            f"The LM head of {name} is a {type(layer).__name__}, not a plain linear layer; take adapters and "
            "quantisation off the head, or compute the logits and use methods.losses.divergences."
        )
    config: Any = model.config
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return Head(weight, getattr(layer, "bias", None), _logit_scale(config), _soft_cap(config))


def at_temperatures(hidden: Tensor, head: Head, temperatures: Tensor) -> tuple[Tensor, Head]:
    """Hidden states (N, H) and head whose logits are those of the given ones, each row's over its own temperature (N,).

    Differentiable in hidden states and head; no logits are computed. Raises MethodError for a head with a soft cap.
    """
    if head.soft_cap is not None:
        raise MethodError("logits under a soft cap cannot have a temperature for each token")
    column = temperatures.detach().to(hidden.dtype).reciprocal().unsqueeze(-1)
    if head.bias is None:
        return hidden * column, head
    masked = head.bias.detach() == -math.inf
    own = head.bias.masked_fill(masked, 0).to(head.weight.dtype)
    left = torch.zeros_like(own).masked_fill(masked, -math.inf).detach() if bool(masked.any()) else None
    weight = torch.cat([head.weight, own.unsqueeze(-1)], -1)
    return torch.cat([hidden * column, column], -1), Head(weight, left, head.scale)


def linear_divergence(
    student_hidden: Tensor,
    student_head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    mask: Tensor | None = None,
    *,
    divergence: str | Fused = "forward_kl",
    temperature: float = 1.0,
    temperature_squared: bool = False,
    weights: Tensor | None = None,
    shared_vocabulary: int | None = None,
    chunk_size: int | None = None,
    **parameters: Any,
) -> RowLoss:
    """Sum over rows of weight x D(teacher, student), as in `methods.losses.divergences`, through both heads.

    Shapes: hidden states `(..., H_s)` and `(..., H_t)`; `mask` (bool) and `weights` `(...)`; either head may
    have more ids than the other: both are cut to the shared ones, as views. `divergence` is a name of
    FUSED_DIVERGENCES or a function like those there; `parameters` are its own (`teacher_weight`, `skew`,
    `head_mass`), one `skew` for all rows or a tensor `(...)`. `chunk_size` rows are projected at a time (default: by
    memory).
    Raises MethodError for shapes, names and settings that do not fit.
    """
    function = _divergence(divergence, parameters)
    check_temperature(temperature)
    if student_hidden.shape[:-1] != teacher_hidden.shape[:-1]:
        raise MethodError(
            f"Student hidden states {tuple(student_hidden.shape)} and teacher hidden states "
            f"{tuple(teacher_hidden.shape)} differ in more than their last dimension."
        )
    size = shared_size(len(student_head.weight), len(teacher_head.weight), shared_vocabulary)
    rows = _Rows(student_hidden, mask)
    for name, value in parameters.items():
        if isinstance(value, Tensor):
            _same_rows(name, value, student_hidden)
            parameters[name] = rows.take(value.detach())
    student = _Operands(rows.take(student_hidden), student_head, size, temperature)
    teacher = _Operands(rows.take(teacher_hidden), teacher_head, size, temperature)

    def objective() -> Objective:
        return DivergenceObjective(function, parameters, *teacher.ready())

    layout = Layout.plan(
        len(student.hidden), size, student.hidden.device, _softmax_dtype(student, teacher), chunk_size
    )
    loss = _in_forward(student, objective, layout, rows.weights(weights))
    scale = temperature**2 if temperature_squared else 1.0
    return loss if scale == 1 else RowLoss(loss.total * scale, loss.values * scale)


def linear_cross_entropy(
    hidden: Tensor,
    head: Head,
    labels: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    weights: Tensor | None = None,
    ignore_index: int = -100,
    chunk_size: int | None = None,
) -> RowLoss:
    """Sum over rows of weight x -log q(label): hidden `(..., H)`, labels, mask, weights `(...)` -> nats.

    Rows labelled `ignore_index` are outside the mask. Raises MethodError for a label outside the vocabulary.
    """
    check_temperature(temperature)
    _same_rows("labels", labels, hidden)
    labelled = labels != ignore_index
    rows = _Rows(hidden, labelled if mask is None else labelled & mask)
    ids = rows.take(labels)
    _check_ids(ids, head)
    student = _Operands(rows.take(hidden), head, len(head.weight), temperature)
    layout = Layout.plan(len(ids), student.size, ids.device, _softmax_dtype(student), chunk_size)
    return _in_forward(student, lambda: LabelObjective(ids), layout, rows.weights(weights))


def linear_log_probs(
    hidden: Tensor,
    head: Head,
    ids: Tensor,
    mask: Tensor | None = None,
    *,
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """log q(id) of every row inside the mask: hidden `(..., H)`, ids and mask `(...)` -> `(rows,)` nats.

    Differentiable row by row (importance ratios, policy gradients); the backward pass projects a second time.
    """
    check_temperature(temperature)
    _same_rows("ids", ids, hidden)
    rows = _Rows(hidden, mask)
    chosen = rows.take(ids)
    _check_ids(chosen, head)
    student = _Operands(rows.take(hidden), head, len(head.weight), temperature)
    layout = Layout.plan(len(chosen), student.size, chosen.device, _softmax_dtype(student), chunk_size)
    with torch.autocast(chosen.device.type, enabled=False):
        return LogProbs.apply(student.hidden, head.weight, head.bias, student.ready, chosen, layout)


@torch.no_grad()
def linear_draws(
    hidden: Tensor, head: Head, size: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Ids (N,) drawn from q among the first `size` ones, for `hidden` (N, H); the likeliest without a generator."""
    size = min(size or len(head.weight), len(head.weight))
    chunk = Layout.plan(len(hidden), size, hidden.device, torch.float32, None).chunk
    drawn = []
    for rows in hidden.split(chunk):
        logits = head.logits(rows, size)
        if generator is None:
            drawn.append(logits.argmax(-1))
        else:
            drawn.append(torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1))
    return torch.cat(drawn)


class _Rows:
    """The rows inside a mask, of tensors that share their leading dimensions."""

    def __init__(self, hidden: Tensor, mask: Tensor | None):
        self.leading = hidden.shape[:-1]
        self.ids = None
        if mask is not None:
            _same_rows("mask", mask, hidden)
            self.ids = mask.reshape(-1).nonzero().squeeze(-1)

    def take(self, tensor: Tensor) -> Tensor:
        """`(..., *rest)` -> `(rows, *rest)`."""
        flat = tensor.reshape(-1, *tensor.shape[len(self.leading) :])
        return flat if self.ids is None else flat.index_select(0, self.ids)

    def weights(self, weights: Tensor | None) -> Tensor | None:
        """The detached weights of the rows."""
        if weights is None:
            return None
        if weights.shape != self.leading:
            raise MethodError(f"weights {tuple(weights.shape)} do not fit the rows {tuple(self.leading)}.")
        return self.take(weights.detach())


class _Operands:
    """Rows and head, with the dtype of their GEMMs as it is where the loss is called (autocast)."""

    def __init__(self, hidden: Tensor, head: Head, size: int, temperature: float):
        if hidden.shape[-1] != head.weight.shape[-1]:
            raise MethodError(
                f"Hidden states of width {hidden.shape[-1]} do not fit an LM head {tuple(head.weight.shape)}."
            )
        self.hidden, self.head, self.size, self.temperature = hidden, head, size, temperature
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device) and hidden.dtype != torch.float64
        promoted = torch.promote_types(hidden.dtype, head.weight.dtype)
        self.dtype = torch.get_autocast_dtype(device) if autocast else promoted

    def ready(self) -> tuple[Tensor, Projection]:
        """Hidden states `(rows, H)` and the head cut to the shared ids, in the GEMMs' dtype."""
        head, bias, masked = self.head, self.head.bias, None
        if bias is not None:
            bias = bias.detach()[: self.size].to(self.dtype)
            if head.soft_cap is None:
                infinite = (bias == -math.inf).nonzero().squeeze(-1)
                masked = infinite if len(infinite) else None
        factor = head.scale / self.temperature if head.soft_cap is None else head.scale
        weight = head.weight.detach()[: self.size].to(self.dtype)
        projection = Projection(weight, bias, factor, head.soft_cap, self.temperature, masked)
        return self.hidden.detach().to(self.dtype), projection


def _in_forward(student: _Operands, objective: Any, layout: Layout, weights: Tensor | None) -> RowLoss:
    weights = None if weights is None else weights.to(layout.dtype)
    head = student.head

    def run(needs: tuple[bool, ...]) -> tuple[Tensor, Gradients]:
        return accumulate(*student.ready(), objective(), layout, weights, needs, len(head.weight))

    with torch.autocast(layout.device.type, enabled=False):
        total, values = GradientInForward.apply(
            student.hidden, head.weight, head.bias, run, weights, torch.is_grad_enabled()
        )
    return RowLoss(total, values)


def _softmax_dtype(*operands: _Operands) -> torch.dtype:
    return torch.float64 if any(o.dtype == torch.float64 for o in operands) else torch.float32


def _divergence(divergence: str | Fused, parameters: dict[str, Any]) -> Fused:
    if isinstance(divergence, str):
        divergence = divergence.replace("-", "_")
        if divergence not in FUSED_DIVERGENCES:
            raise MethodError(
                f"There is no divergence {divergence!r}{_nearest(divergence, FUSED_DIVERGENCES)}."
            )
        function = FUSED_DIVERGENCES[divergence]
    else:
        function = divergence
    accepted = list(inspect.signature(function).parameters)[1:]
    for name in parameters:
        if name not in accepted:
            raise MethodError(
                f"Divergence {divergence!r} has no parameter {name!r}{_nearest(name, accepted)}."
            )
    return function


def _nearest(name: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(candidates), 1, 0)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _same_rows(name: str, tensor: Tensor, hidden: Tensor) -> None:
    if tensor.shape != hidden.shape[:-1]:
        raise MethodError(f"{name} {tuple(tensor.shape)} does not fit hidden states {tuple(hidden.shape)}.")


def _check_ids(ids: Tensor, head: Head) -> None:
    if ids.device.type != "cpu" or not len(ids):
        return  # on CUDA the check would stall the stream, and there the kernels assert the same
    first, last, size = int(ids.min()), int(ids.max()), len(head.weight)
    if first < 0 or last >= size:
        raise MethodError(f"Ids {first}..{last} are not all in the vocabulary, 0..{size - 1}.")


def _logit_scale(config: Any) -> float:
    """What a model multiplies its logits by, under the names that architectures give it."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):  # Cohere; Falcon-H1
        value = getattr(config, name, None)
        if isinstance(value, int | float):
            return float(value)
    scaling = getattr(config, "logits_scaling", None)
    if not isinstance(scaling, int | float):
        return 1.0
    # Granite and MiniCPM3 divide by it, HyperCLOVA X multiplies.
    return float(scaling) if config.model_type == "hyperclovax" else 1 / scaling


def _soft_cap(config: Any) -> float | None:
    value = getattr(config, "final_logit_softcapping", None)  # Gemma
    return float(value) if value else None
