"""What a student's distribution is beside the teacher's: its order of the ids, and how spread out it is."""

from __future__ import annotations

import torch
from torch import Tensor

from methods.losses.fused.formulas import Block
from methods.registry import component


@component("divergence", "plackett-luce")
def plackett_luce(block: Block, released: bool = False) -> tuple[Tensor, Tensor]:
    """-log probability of the teacher's order of the ids, drawn one after the other from the student's q.

    Each id is drawn among those that the teacher does not put before it. For a `support` of few ids, such as the
    student's likeliest ten. `released` draws among those that it does not put behind it, as the official code does: the
    likelihood of the reversed order, which raises what the teacher likes least.
    Source: TSD-KD, arXiv 2603.13260 (indirect distillation), and its code, github.com/kmswin1/TSD-KD.
    """
    order = block.p.argsort(dim=-1, descending=True, stable=True)
    log_q = block.log_q.gather(-1, order)
    if released:
        among = log_q.logcumsumexp(-1)
        chances = (-among).flip(-1).logcumsumexp(-1).flip(-1)
    else:
        among = log_q.flip(-1).logcumsumexp(-1).flip(-1)
        chances = (-among).logcumsumexp(-1)
    value = (among - log_q).sum(-1)
    slope = torch.empty_like(log_q).scatter_(-1, order, (log_q + chances).exp().sub_(1))
    return value, slope


@component("divergence", "student-entropy")
def student_entropy(block: Block) -> tuple[Tensor, Tensor]:
    """The entropy of q, whatever the teacher says: as a loss it makes the student surer of itself.

    Source: TSD-KD, arXiv 2603.13260 (entropy minimisation on tokens where the student is unsure).
    """
    spread = block.log_q.neg_().mul_(block.q)
    return spread.sum(-1), spread.sub_(block.q)
