"""A teacher whose logits are disturbed, to see how much of its signal a student needs."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.slots.targets import Rows, Teacher, mix_logits


class NoisyTeacher(Teacher):
    """softmax(z_teacher + e), e ~ N(0, deviation^2) drawn for every logit of every step.

    The noise enters as hidden states of an identity head, so it costs a (V, V) matrix: for small vocabularies.
    Source: Ramesh et al., arXiv 2505.15442, ablation of the teacher's signal (sigma = `deviation`, 1, 2 and 5 there).
    """

    def __init__(self, deviation: float, index: int = 0):
        super().__init__(index)
        self.deviation = deviation

    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        target = super().__call__(rows)
        if not isinstance(target, tuple):
            raise MethodError("noise needs the teacher's logits of the whole vocabulary, not stored top-k")
        hidden, head = target
        size = len(head.weight)
        noise = self.deviation * torch.randn(len(hidden), size, dtype=hidden.dtype, device=hidden.device)
        identity = Head(torch.eye(size, dtype=head.weight.dtype, device=head.weight.device))
        return mix_logits([(1.0, hidden, head), (1.0, noise, identity)])
