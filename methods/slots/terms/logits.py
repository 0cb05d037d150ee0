"""The student's logits pulled towards a teacher's, as they are: no softmax between them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from methods.errors import MethodError
from methods.losses.fused.entries import WEIGHTS
from methods.losses.fused.kernels import Layout
from methods.losses.fused.linear import Head
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.scores import shared, side_of
from methods.slots.term import Term, Weight


@component("term", "logit-match")
class LogitMatch(Term):
    """Mean over completion tokens of sum_i w_i (f_i - g_i)^2, f the student's logits and g the teacher's.

    w, without gradient: "uniform" over the ids that both know, "teacher" (p) or "student" (q). A number added to all of
    a row's logits changes it: it is the variance of `concrete-score` and the square of the mean besides.
    Source: Ba and Caruana, arXiv 1312.6184 (uniform); the direct logit distillation that CSD, arXiv 2509.25837,
    compares with. Raises MethodError for a head that masks ids, whose logits cannot be matched.
    """

    def __init__(self, entries: str = "uniform", *, weight: Weight = 1.0, index: int = 0):
        if entries not in WEIGHTS:
            raise MethodError(f"entries weigh as {entries!r}, none of {', '.join(WEIGHTS)}")
        self.entries, self.weight, self.index = entries, weight, index

    def total(self, rows: Rows) -> Tensor:
        size = shared(rows, self.index)
        hidden, head = side_of(rows, "teacher", self.index)
        check_unmasked("logit-match cannot match", size, rows.head, head)
        layout = Layout.plan(max(len(hidden), 1), size, hidden.device, torch.float32, None)

        def part(ours: Tensor, theirs: Tensor) -> Tensor:
            f, g = rows.head.logits(ours, size), head.logits(theirs, size).detach()
            with torch.no_grad():
                w = {"student": f, "teacher": g}.get(self.entries, torch.zeros_like(f)).softmax(-1)
            return (w * (f - g).square()).sum()

        parts = zip(rows.hidden.split(layout.chunk), hidden.split(layout.chunk), strict=True)
        if len(rows.hidden) <= layout.chunk:  # nothing is saved by computing the logits twice
            return sum((part(*pair) for pair in parts), rows.hidden.new_zeros(()))
        return sum(
            (checkpoint(part, *pair, use_reentrant=False) for pair in parts), rows.hidden.new_zeros(())
        )


def check_unmasked(what: str, size: int, *heads: Head) -> None:
    """Raise MethodError, "<what> the logits of ...", for heads that mask some of the first ids."""
    if any(bool(head.bias[:size].isinf().any()) for head in heads if head.bias is not None):
        raise MethodError(f"{what} the logits of a head whose bias masks ids")
