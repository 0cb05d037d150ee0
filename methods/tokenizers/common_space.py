"""Distributions over what two tokenizers have in common, for one row of each side's tokens of a chunk.

A chunk is a piece of text that both tokenizers cut out, each in one token or more. `merged_divergence` makes one
distribution of a side's tokens by the chain rule (GOLD); `unit_divergence` compares the tokens that both tokenizers
have and the chunk itself as one more candidate (SimCT). `over_chunks` makes their logits a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from methods.errors import MethodError
from methods.losses.divergences import _kl, _log_mixture, check_fraction
from methods.losses.fused.kernels import Layout
from methods.losses.fused.linear import Head
from methods.tokenizers.losses import sorted_distance

COMMON_DIVERGENCES = ("forward_kl", "reverse_kl", "jensen_shannon")


class ChunkRows(NamedTuple):
    """One row of each of C chunks under one model, and a number for the rest of the chunk."""

    hidden: Tensor  # (C, H)
    head: Head
    score: Tensor  # (C,) nats


def over_chunks(
    function: Callable[..., Tensor], student: ChunkRows, teacher: ChunkRows, *, chunk_rows: int | None = None
) -> Tensor:
    """function(student logits, teacher logits, student scores, teacher scores) of all rows: (C,).

    Logits of `chunk_rows` rows exist at a time (default: by memory): the backward pass makes them again.
    """
    dtype = torch.promote_types(student.hidden.dtype, torch.float32)
    size = max(len(student.head.weight), len(teacher.head.weight))
    rows = chunk_rows or Layout.plan(len(student.hidden), size, student.hidden.device, dtype, None).chunk

    def some(ours: Tensor, theirs: Tensor, our_score: Tensor, their_score: Tensor) -> Tensor:
        return function(student.head.logits(ours), teacher.head.logits(theirs), our_score, their_score)

    columns = (student.hidden, teacher.hidden, student.score, teacher.score)
    parts = [
        checkpoint(some, *part, use_reentrant=False, preserve_rng_state=False)
        for part in zip(*(column.split(rows) for column in columns), strict=True)
    ]
    return torch.cat(parts)


def common_divergence(
    log_q: Tensor, log_p: Tensor, *, divergence: str = "jensen_shannon", teacher_weight: float = 0.5
) -> Tensor:
    """D(p, q) from logarithms (..., M) that the caller normalises, or does not: (...), nats.

    The sums of `methods.losses.divergences` term by term: KL(p || q), KL(q || p), or w KL(p || m) + (1 - w) KL(q || m),
    with m = w p + (1 - w) q. Of vectors that sum to less than one a KL may be negative.
    """
    if divergence == "forward_kl":
        return _kl(log_p, log_q)
    if divergence == "reverse_kl":
        return _kl(log_q, log_p)
    log_m = _log_mixture(log_p, log_q, teacher_weight)
    return teacher_weight * _kl(log_p, log_m) + (1 - teacher_weight) * _kl(log_q, log_m)


def check_divergence(divergence: str, teacher_weight: float) -> None:
    """Raise MethodError for a name that `common_divergence` does not know or a weight outside [0, 1]."""
    if divergence not in COMMON_DIVERGENCES:
        raise MethodError(
            f"unknown divergence of common tokens {divergence!r}; one of {', '.join(COMMON_DIVERGENCES)}"
        )
    check_fraction("teacher_weight", teacher_weight)


def merged_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_rest: Tensor,
    teacher_rest: Tensor,
    *,
    student_shared: Tensor,
    teacher_shared: Tensor,
    matched_weight: float | None = None,
    divergence: str = "jensen_shannon",
    teacher_weight: float = 0.5,
) -> Tensor:
    """w D(p', q') on the tokens that both have + (1 - w) sorted L1 on the others: (C, V_s), (C, V_t) -> (C,).

    The merged distribution of a side is p(token | row) times exp(rest), `rest` (C,) being the log-probability of the
    chunk's other tokens; it does not sum to one, and p', q' are cut out of it as they are. `student_shared` and
    `teacher_shared` (M,) are the same tokens' ids; the shorter list of others is filled up with zeros. w is
    `matched_weight`, or the share of the teacher's ids that the student has.
    Source: GOLD, HuggingFaceH4, "Unlocking On-Policy Distillation for Any Model Family", and TRL's `GOLDTrainer`.
    """
    log_q, log_p = (
        logits.log_softmax(-1) + rest.unsqueeze(-1)
        for logits, rest in ((student_logits, student_rest), (teacher_logits, teacher_rest))
    )
    matched = common_divergence(
        log_q[:, student_shared],
        log_p[:, teacher_shared],
        divergence=divergence,
        teacher_weight=teacher_weight,
    )
    # Zeros are sorted behind everything else, where they meet the zeros that fill up the shorter list.
    others = sorted_distance(
        log_q.exp().index_fill(-1, student_shared, 0), log_p.exp().index_fill(-1, teacher_shared, 0)
    )
    share = len(teacher_shared) / teacher_logits.shape[-1] if matched_weight is None else matched_weight
    return share * matched + (1 - share) * others


def unit_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_unit: Tensor,
    teacher_unit: Tensor,
    *,
    student_shared: Tensor,
    teacher_shared: Tensor,
    divergence: str = "reverse_kl",
    teacher_weight: float = 0.5,
) -> Tensor:
    """D between both sides' choice among the tokens that both have and the chunk that follows: -> (C,), nats.

    Candidates are scored by their log-probability, the chunk by `*_unit` (C,), the mean over its tokens; -inf where the
    chunk is one of those tokens. A softmax over the scores makes a distribution of them.
    Source: SimCT, Sun et al., arXiv 2605.07711v2, eqs. 6-9. Its code averages raw logits in place of log-probabilities.
    """
    log_q, log_p = (
        torch.cat([logits.log_softmax(-1)[:, shared], unit.unsqueeze(-1)], -1).log_softmax(-1)
        for logits, unit, shared in (
            (student_logits, student_unit, student_shared),
            (teacher_logits, teacher_unit, teacher_shared),
        )
    )
    return common_divergence(log_q, log_p, divergence=divergence, teacher_weight=teacher_weight)
