"""Losses through an LM head whose logits exist only a chunk at a time, gradient written in the forward pass.

Why it is shaped like this (measured: `make bench`). The floor is four GEMMs: two projections, the gradient of
the hidden states and that of the head. Hence

- rows are projected `chunk` at a time, enough for an efficient GEMM, little enough that the logits are never
  all alive; the elementwise work runs over `block` rows of it, which stay in the cache, in buffers made once;
- one exponential per model and logit; the forward pass already knows the gradient, nothing is recomputed;
- on the CPU the commonest losses skip shift and normalisation altogether (`methods.losses.fused.raw`);
- factors that are constant along a row (row weight, temperature, logit scale) never touch the `(n, V)`
  tensors: they scale `(n, H)` ones instead.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from methods.losses.fused.formulas import Block, Fused
from methods.losses.fused.projection import Projection
from methods.losses.fused.raw import (
    LARGEST,
    SMALLEST,
    Raw,
    Sums,
    cross_entropy,
    cross_entropy_values,
    raw_divergence,
)

# Elements of one (rows, V) buffer: chunk for the GEMMs, block for the elementwise work between them.
CPU_CHUNK, CPU_BLOCK, CUDA_CHUNK = 12 * 2**20, 2**16, 96 * 2**20
CPU_ROWS = 116, 1024  # of a chunk: a GEMM of fewer rows is slow, one of more no faster


class Objective(Protocol):
    """A loss per row, given the student's distribution."""

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        """Make the buffers, once."""

    def start(self, rows: slice) -> None:
        """Prepare a chunk."""

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        """Value `(n,)` and slope `(n, V)` (see `methods.losses.fused.formulas`) of some rows of the chunk."""

    def raw(self) -> Raw | None:
        """The same loss on raw logits, if it can be had; asked for after `allocate`."""
        return None


class DivergenceObjective(Objective):
    """The divergence from the teacher's distribution, projected chunk by chunk beside the student's."""

    def __init__(self, divergence: Fused, parameters: dict[str, Any], hidden: Tensor, teacher: Projection):
        self.divergence, self.parameters, self.hidden, self.teacher = divergence, parameters, hidden, teacher

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        self.layout, self.student_masked = layout, student_masked
        self.logits = ChunkLogits(self.teacher, layout)
        self.p, self.scratch = layout.block_buffer(), layout.block_buffer()

    def start(self, rows: slice) -> None:
        self.logits.project(self.hidden[rows])

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        n = len(q)
        log_p, p = self.teacher_block(within)
        block = Block(log_q, q, log_p, p, self.scratch[:n], self.student_masked, self.teacher.masked)
        return self.divergence(block, **self.own(rows))

    def teacher_block(self, within: slice) -> tuple[Tensor, Tensor]:
        """(log p, p) `(n, V)` of some rows of the chunk."""
        log_p = self.teacher.cap(self.logits.block(within))
        return softmax_pair(log_p, self.p[: len(log_p)], self.teacher.masked)

    def own(self, rows: slice) -> dict[str, Any]:
        """The divergence's settings at these rows."""
        return {name: v[rows] if isinstance(v, Tensor) else v for name, v in self.parameters.items()}

    def raw(self) -> Raw | None:
        divergence = raw_divergence(self.divergence, self.parameters)
        if divergence is None or not self.logits.exact or self.teacher.masked is not None:
            return None
        spares = self.p, self.scratch, self.layout.block_buffer()

        def block(logits: Tensor, rows: slice, within: slice, sums: Sums) -> None:
            n = len(logits)
            teacher = self.teacher.cap(self.logits.block(within))
            divergence.slopes(logits, teacher, [spare[:n] for spare in spares], sums)

        return Raw(block, divergence.values, first=lambda: self.teacher.cap(self.logits.whole[:1].clone()))


class LabelObjective(Objective):
    """-log q at one id per row."""

    def __init__(self, ids: Tensor):
        self.ids = ids

    def allocate(self, layout: Layout, student_masked: Tensor | None) -> None:
        self.masked = student_masked

    def start(self, rows: slice) -> None:
        pass

    def block(self, log_q: Tensor, q: Tensor, rows: slice, within: slice) -> tuple[Tensor, Tensor]:
        ids = self.ids[rows].unsqueeze(-1)
        value = log_q.gather(-1, ids).squeeze(-1).neg()
        if self.masked is not None:
            value = value.masked_fill(torch.isin(ids.squeeze(-1), self.masked), torch.inf)
        slope = log_q.zero_().scatter_(-1, ids, -1)
        return value, slope if self.masked is None else slope.index_fill_(-1, self.masked, 0)

    def raw(self) -> Raw | None:
        def block(logits: Tensor, rows: slice, within: slice, sums: Sums) -> None:
            cross_entropy(logits, self.ids[rows].unsqueeze(-1), sums)

        return Raw(block, cross_entropy_values)


@dataclass(frozen=True)
class Layout:
    """How many rows are worked on at once, and where."""

    rows: int
    size: int  # vocabulary
    chunk: int
    block: int
    device: torch.device
    dtype: torch.dtype  # of the softmax: float64 or float32

    @classmethod
    def plan(
        cls, rows: int, size: int, device: torch.device, dtype: torch.dtype, chunk: int | None
    ) -> Layout:
        """Chunk and block by memory, unless `chunk` says how many rows."""
        on_cpu = device.type == "cpu"
        if chunk is None:
            fitting = (CPU_CHUNK if on_cpu else CUDA_CHUNK) // size
            chunk = max(128, fitting // 128 * 128)
            if on_cpu:
                fewest, most = CPU_ROWS
                chunk = max(fewest, min(most, fitting))
                chunk = -(-rows // max(1, -(-rows // chunk)))  # chunks of one size: a short last one is slow
        chunk = max(1, min(chunk, rows))
        block = max(1, CPU_BLOCK * torch.get_num_threads() // size) if on_cpu else chunk
        return cls(rows, size, chunk, min(block, chunk), device, dtype)

    def chunk_buffer(self, operands: torch.dtype) -> Tensor:
        """(chunk, V). On CUDA a GEMM of bf16 operands can write fp32; on the CPU it writes its own dtype."""
        return self.empty(self.chunk, self.dtype if self.device.type == "cuda" else operands)

    def block_buffer(self) -> Tensor:
        """(block, V)."""
        return self.empty(self.block, self.dtype)

    def empty(self, rows: int, dtype: torch.dtype) -> Tensor:
        return huge_pages(torch.empty(rows, self.size, device=self.device, dtype=dtype))

    def chunks(self) -> Iterator[slice]:
        """Rows of the whole, a chunk at a time."""
        for start in range(0, self.rows, self.chunk):
            yield slice(start, min(start + self.chunk, self.rows))

    def blocks(self, count: int) -> Iterator[slice]:
        """Rows of a chunk of `count` rows, a block at a time."""
        for start in range(0, count, self.block):
            yield slice(start, min(start + self.block, count))


def huge_pages(tensor: Tensor) -> Tensor:
    """The tensor, its memory asked of Linux in pages of 2 MiB, if it is large.

    In pages of 4 KiB the first touch of a fresh buffer costs more than a pass over it: 0.7 ms a MiB against 0.3.
    """
    size, page = tensor.numel() * tensor.element_size(), mmap.PAGESIZE
    if tensor.device.type == "cpu" and size >= 2**24 and hasattr(mmap, "MADV_HUGEPAGE"):
        start = -(-tensor.data_ptr() // page) * page
        length = (tensor.data_ptr() + size - start) // page * page
        # Only advice: where it is refused the pages stay small.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), mmap.MADV_HUGEPAGE)
    return tensor


def softmax_pair(logits: Tensor, spare: Tensor, masked: Tensor | None) -> tuple[Tensor, Tensor]:
    """(log-softmax, softmax) in the two given tensors; the log-softmax is 0 at masked ids."""
    if logits.device.type == "cpu":  # one exponential, every pass in the cache
        total = torch.exp(logits, out=spare).sum(-1, keepdim=True)
        if not all(SMALLEST < sum_ < LARGEST for sum_ in total.view(-1).tolist()):
            logits.sub_(logits.amax(-1, keepdim=True))
            total = torch.exp(logits, out=spare).sum(-1, keepdim=True)
        spare.mul_(total.reciprocal())
        log_probs, probs = logits.sub_(total.log_()), spare
    else:  # fewest kernels: memory traffic is what costs
        torch.log_softmax(logits, -1, out=spare)
        log_probs, probs = spare, torch.exp(spare, out=logits)
    if masked is not None:
        log_probs.index_fill_(-1, masked, 0)
    return log_probs, probs


@dataclass
class Gradients:
    """What the forward pass leaves for the backward pass, in the softmax' dtype; None where not asked for."""

    factor: float  # still to be multiplied by
    hidden: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    def scaled(self, scale: Tensor | float, inputs: tuple[Tensor | None, ...]) -> Iterator[Tensor | None]:
        """Each gradient times `scale` and the factor, in place, in its input's dtype."""
        for made, source in zip((self.hidden, self.weight, self.bias), inputs, strict=True):
            if made is None or source is None:
                yield None
            else:
                yield made.mul_(scale * self.factor).to(source.dtype)


class ChunkLogits:
    """One head's logits for the rows of a chunk, before the soft cap; the buffers are made once.

    `whole` (chunk, V) is what the GEMM wrote: the logits themselves in the softmax' dtype where `exact`. Else it is in
    the dtype of bf16 or fp16 operands, with what that rounded away in a second buffer (`Projection.parts`).
    """

    def __init__(self, head: Projection, layout: Layout):
        operands = head.weight.dtype
        self.head, self.whole = head, layout.chunk_buffer(operands)
        self.exact = self.whole.dtype == layout.dtype
        self.rest = None if self.exact or operands.itemsize > 2 else layout.empty(layout.chunk, operands)
        self.upcast = None if self.exact else layout.block_buffer()

    def project(self, hidden: Tensor) -> int:
        """The logits of `hidden` (n, H), n at most a chunk; returns n."""
        count = len(hidden)
        if self.rest is None:
            self.head.logits(hidden, out=self.whole[:count])
        else:
            self.head.parts(hidden, self.whole[:count], self.rest[:count])
        return count

    def block(self, within: slice) -> Tensor:
        """Some rows of the chunk in the softmax' dtype; where they are exact, a view of them."""
        if self.upcast is None:
            return self.whole[within]
        logits = self.upcast[: within.stop - within.start].copy_(self.whole[within])
        return logits if self.rest is None else self.head.joined(logits, self.rest[within])


class Chunks:
    """The elementwise work on a chunk's logits, which become the gradient; its buffers are made once."""

    def __init__(
        self, hidden: Tensor, head: Projection, objective: Objective, layout: Layout, gradient: bool
    ):
        objective.allocate(layout, head.masked)
        self.hidden, self.head, self.objective, self.layout = hidden, head, objective, layout
        self.gradient = gradient
        self.values = torch.empty(layout.rows, device=layout.device, dtype=layout.dtype)
        self.logits = ChunkLogits(head, layout)
        whole = self.logits.whole
        as_operands = whole.dtype == head.weight.dtype
        self.slopes = whole if as_operands else layout.empty(layout.chunk, head.weight.dtype)
        self.spare = layout.block_buffer()
        self.cap_slope = None if head.soft_cap is None else layout.block_buffer()
        raw = self.logits.exact and head.masked is None and layout.device.type == "cpu"
        self.raw = objective.raw() if raw else None
        if self.raw is not None and self.raw.finish is not None and head.soft_cap is not None:
            self.raw = None  # what it writes last would lack the cap's derivative

    def run(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Fill the values of these rows; their slopes `(n, V)` and the factor `(n, 1)` that these still lack."""
        count = self._project(rows)
        factor = None
        if self.raw is not None and self._in_range(self.raw):
            factor = self._raw(self.raw, rows, count)
            if factor is None:
                self._project(rows)  # the logits are gone
        if factor is None:
            self.raw = None  # rows of one model are much alike
            self._normalised(rows, count)
        return self.slopes[:count], factor

    def _project(self, rows: slice) -> int:
        count = self.logits.project(self.hidden[rows])
        self.objective.start(rows)
        return count

    def _in_range(self, raw: Raw) -> bool:
        """Whether raw exponentials of the first row fit, so that a model of which none do costs little."""
        first = [self.head.cap(self.logits.whole[:1].clone()), *([raw.first()] if raw.first else [])]
        return all(SMALLEST < math.exp(min(row.amax().item(), 700)) < LARGEST for row in first)

    def _blocks(self, rows: slice, count: int) -> Iterator[tuple[slice, slice, Tensor, Tensor | None]]:
        """Rows of the whole and of the chunk, their logits, and the soft cap's derivative."""
        for within in self.layout.blocks(count):
            n = within.stop - within.start
            logits = self.logits.block(within)
            curve = None if self.cap_slope is None else self.cap_slope[:n]
            self.head.cap(logits, curve)
            yield slice(rows.start + within.start, rows.start + within.stop), within, logits, curve

    def _raw(self, raw: Raw, rows: slice, count: int) -> Tensor | None:
        """The factor of the slopes; None where exponentials were out of range."""
        sums = Sums.empty(self.values, count)
        for here, within, logits, curve in self._blocks(rows, count):
            raw.block(logits, here, within, sums[within])
            if curve is not None:
                logits.mul_(curve)
        if raw.finish is not None:
            raw.finish(self.logits.whole[:count], rows, sums)
        if not sums.usable():
            return None
        self.values[rows] = raw.values(sums).squeeze(-1)
        return sums.scale.div_(sums.student)

    def _normalised(self, rows: slice, count: int) -> None:
        for here, within, logits, curve in self._blocks(rows, count):
            log_q, q = softmax_pair(logits, self.spare[: len(logits)], self.head.masked)
            self.values[here], slope = self.objective.block(log_q, q, here, within)
            if not self.gradient:
                continue
            total = slope.sum(-1, keepdim=True)
            target = self.slopes[within] if self.slopes.dtype == self.layout.dtype else slope
            torch.addcmul(slope, q, total, value=-1, out=target)
            if curve is not None:
                target.mul_(curve)
            if target is slope:
                self.slopes[within].copy_(slope)


def accumulate(
    hidden: Tensor,
    head: Projection,
    objective: Objective,
    layout: Layout,
    row_weights: Tensor | None,
    needs: tuple[bool, ...],
    head_rows: int,
) -> tuple[Tensor, Gradients]:
    """Values `(N,)` and the gradients of their (weighted) sum.

    `head_rows` is the size of the whole head, of which `head` may hold the first rows only.
    """
    chunks = Chunks(hidden, head, objective, layout, any(needs))
    gradients = _allocate(hidden, head.outer, layout, needs, head_rows)
    for rows in layout.chunks():
        slopes, factor = chunks.run(rows)
        if any(needs):
            weights = None if row_weights is None else row_weights[rows].unsqueeze(-1)
            if factor is not None:
                weights = factor if weights is None else factor * weights
            _add(gradients, slopes, hidden[rows], head.weight, weights, rows)
    return chunks.values, gradients


def _allocate(
    hidden: Tensor, factor: float, layout: Layout, needs: tuple[bool, ...], head_rows: int
) -> Gradients:
    def empty(*shape: int) -> Tensor:
        return huge_pages(torch.empty(shape, device=layout.device, dtype=layout.dtype))

    width = hidden.shape[-1]
    gradients = Gradients(factor)
    if needs[0]:
        gradients.hidden = empty(layout.rows, width)
    if needs[1]:
        # The first chunk writes the shared rows, the rest stays zero: zeroing them all would cost a pass.
        gradients.weight = empty(head_rows, width)
        gradients.weight[layout.size if layout.rows else 0 :].zero_()
    if needs[2]:
        gradients.bias = empty(head_rows).zero_()
    return gradients


def _add(
    gradients: Gradients,
    slopes: Tensor,
    hidden: Tensor,
    weight: Tensor,
    row_weights: Tensor | None,
    rows: slice,
) -> None:
    """Add one chunk's GEMMs to the gradients; row weights scale the narrow operands."""
    if gradients.hidden is not None:
        target = gradients.hidden[rows]
        _gemm(slopes, weight, target, keep=False)
        if row_weights is not None:
            target.mul_(row_weights)
    if gradients.weight is not None:
        right = hidden if row_weights is None else (hidden * row_weights).to(hidden.dtype)
        _gemm(slopes.t(), right, gradients.weight[: slopes.shape[-1]], keep=rows.start > 0)
    if gradients.bias is not None:
        target = gradients.bias[: slopes.shape[-1]]
        if row_weights is not None and slopes.dtype == target.dtype:
            target.addmv_(slopes.t(), row_weights.squeeze(-1))
        else:
            weighted = slopes if row_weights is None else slopes * row_weights
            target += weighted.sum(0, dtype=target.dtype)


def _gemm(left: Tensor, right: Tensor, out: Tensor, *, keep: bool) -> None:
    """out = keep * out + left @ right, accumulated in out's dtype."""
    if left.dtype == out.dtype:
        torch.addmm(out, left, right, beta=1 if keep else 0, out=out)
    elif left.device.type == "cuda" and keep:
        torch.addmm(out, left, right, out_dtype=out.dtype, out=out)
    elif left.device.type == "cuda":
        torch.mm(left, right, out_dtype=out.dtype, out=out)
    elif keep:
        out.add_(left @ right)
    else:
        out.copy_(left @ right)
