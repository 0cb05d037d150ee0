"""A teacher whose logits are disturbed: the signal-strength ablation of arXiv 2505.15442."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.fused import Head
from methods.targets import Rows, Teacher, mix_logits


class NoisyTeacher(Teacher):
    """softmax(z_teacher + e), e ~ N(0, deviation^2) drawn for every logit of every step.

    The noise enters as hidden states of an identity head, so it costs a (V, V) matrix: for small vocabularies.
    """

    def __init__(self, deviation: float, index: int = 0):
        super().__init__(index)
        self.deviation = deviation

    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        hidden, head = super().__call__(rows)
        size = len(head.weight)
        noise = self.deviation * torch.randn(len(hidden), size, dtype=hidden.dtype, device=hidden.device)
        identity = Head(torch.eye(size, dtype=head.weight.dtype, device=head.weight.device))
        return mix_logits([(1.0, hidden, head), (1.0, noise, identity)])
