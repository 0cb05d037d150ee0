"""Divergences between a teacher's and a student's next-token distributions, one formula a function.

All take logits `(..., V)` and return `(...)`: nats per position, unreduced, differentiable in both arguments.

- `p` is the teacher's distribution and `q` the student's, both of `logits / temperature`.
- The log-softmax is computed in fp32 (float64 stays float64), whatever the logits' dtype.
- Vocabularies of unequal size over one tokenizer (Qwen's 151936 / 152064) are cut to their common first ids
  and renormalised; `shared_vocabulary` cuts further, to that many ids. Whether the tokenizers agree on those
  ids is checked where they are known (`methods.modeling.core.shared_vocabulary`).
- A logit may be `-inf` (masked vocabulary), as long as each row keeps one finite logit on both sides. Where a
  divergence is then infinite by its definition (forward KL where only the student is masked, reverse KL where
  only the teacher is), the value is `inf` and its infinite terms add nothing to the gradient: never NaN.
- `temperature_squared=True` multiplies by temperature^2, which keeps the size of the gradient as temperature
  changes (Hinton et al., arXiv 1503.02531, section 2). Most language-model papers leave it out, so it is off.
- Raises MethodError where leading shapes differ or a setting is out of its range.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from methods.errors import MethodError


def forward_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """KL(p || q), the word-level KD objective: `(..., V)`, `(..., V)` -> `(...)` nats.

    The teacher's entropy is included, so the value is a divergence (0 at q = p); several peers leave it out.
    Source: Kim and Rush, arXiv 1606.07947, section 3.1 (word-level KD, there as a cross entropy).
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    return _kl(log_p, log_q) * _scale(temperature, temperature_squared)


def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """KL(q || p), mode-seeking: `(..., V)`, `(..., V)` -> `(...)` nats.

    Source: Gu et al., arXiv 2306.08543, eq. 1 (there over sequences; this is its single-token term).
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    return _kl(log_q, log_p) * _scale(temperature, temperature_squared)


def jensen_shannon(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    teacher_weight: float = 0.5,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """w KL(p || m) + (1 - w) KL(q || m) with m = w p + (1 - w) q: `(..., V)`, `(..., V)` -> `(...)` nats.

    `teacher_weight` w is GKD's beta: the weight of the teacher in the mixture and of the teacher's term. The
    value is at most the entropy of (w, 1 - w), ln 2 at 1/2, and 0 at w = 0 and 1, where TRL's `beta` switches
    to forward and reverse KL: these are the limits of this function divided by w and by 1 - w.
    Source: Agarwal et al., arXiv 2306.13649, section 2, eq. 1 (generalized JSD).
    """
    check_fraction("teacher_weight", teacher_weight)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    log_m = _log_mixture(log_p, log_q, teacher_weight)
    value = torch.zeros_like(log_q[..., 0])
    if teacher_weight > 0:
        value = value + teacher_weight * _kl(log_p, log_m)
    if teacher_weight < 1:
        value = value + (1 - teacher_weight) * _kl(log_q, log_m)
    return value * _scale(temperature, temperature_squared)


def skew_forward_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """KL(p || skew p + (1 - skew) q): `(..., V)`, `(..., V)` -> `(...)` nats, at most -ln(skew).

    `skew` is DistiLLM's alpha: the share of the first argument, here the teacher, in the mixture. Skew 0 is
    forward KL. Source: Ko et al., arXiv 2402.03898, section 3.1 (SKL).
    """
    check_fraction("skew", skew)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    return _kl(log_p, _log_mixture(log_p, log_q, skew)) * _scale(temperature, temperature_squared)


def skew_reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    skew: float = 0.1,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """KL(q || (1 - skew) p + skew q): `(..., V)`, `(..., V)` -> `(...)` nats, at most -ln(skew).

    `skew` is DistiLLM's alpha: the share of the first argument, here the student, in the mixture. Skew 0 is
    reverse KL. Source: Ko et al., arXiv 2402.03898, section 3.1 (SRKL).
    """
    check_fraction("skew", skew)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    return _kl(log_q, _log_mixture(log_q, log_p, skew)) * _scale(temperature, temperature_squared)


def total_variation(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """1/2 sum |p - q|: `(..., V)`, `(..., V)` -> `(...)` in [0, 1] (a probability, not nats).

    Where p = q the subgradient 0 is taken. Source: Wen et al., arXiv 2307.15190 (f-DISTILL, TVD).
    """
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    return 0.5 * (log_p.exp() - log_q.exp()).abs().sum(-1) * _scale(temperature, temperature_squared)


def adaptive_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    head_mass: float = 0.5,
    temperature: float = 1.0,
    temperature_squared: bool = False,
    shared_vocabulary: int | None = None,
) -> Tensor:
    """a KL(p || q) + (1 - a) KL(q || p), a = the head's share of the gap: `(..., V)` x 2 -> `(...)` nats.

    The head is the smallest set of the teacher's most probable tokens whose mass reaches `head_mass` (the
    paper's mu), tokens tied with its last one included; the authors' code leaves out the one that crosses mu
    unless it is the first. The gap is sum |p - q|; `a` is detached, and 1/2 where p = q.
    Source: Wu et al., arXiv 2404.02657 (AKL).
    """
    check_fraction("head_mass", head_mass)
    log_q, log_p = _log_probs(student_logits, teacher_logits, temperature, shared_vocabulary)
    with torch.no_grad():
        share = head_gap(log_p.exp(), log_q.exp(), head_mass)
    value = _weighted(share, _kl(log_p, log_q)) + _weighted(1 - share, _kl(log_q, log_p))
    return value * _scale(temperature, temperature_squared)


DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
    "skew_forward_kl": skew_forward_kl,
    "skew_reverse_kl": skew_reverse_kl,
    "total_variation": total_variation,
    "adaptive_kl": adaptive_kl,
}


def shared_size(student_size: int, teacher_size: int, shared_vocabulary: int | None = None) -> int:
    """How many first ids two vocabularies of these sizes share; `shared_vocabulary` may lower it.

    Raises MethodError if `shared_vocabulary` is not between 1 and the smaller size.
    """
    smaller = min(student_size, teacher_size)
    if shared_vocabulary is None:
        return smaller
    if not 1 <= shared_vocabulary <= smaller:
        raise MethodError(
            f"shared_vocabulary={shared_vocabulary} is not between 1 and {smaller}, the size of the smaller "
            f"vocabulary (student {student_size}, teacher {teacher_size})."
        )
    return shared_vocabulary


def check_temperature(temperature: float) -> None:
    """Raise MethodError unless the temperature is a positive finite number."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise MethodError(f"temperature={temperature} is not a positive number.")


def check_fraction(name: str, value: float) -> None:
    """Raise MethodError unless 0 <= value <= 1."""
    if not 0 <= value <= 1:
        raise MethodError(f"{name}={value} is not between 0 and 1.")


def head_gap(p: Tensor, q: Tensor, head_mass: float, scratch: Tensor | None = None) -> Tensor:
    """The share of sum |p - q| on the teacher's head (see `adaptive_kl`): `(..., V)` x 2 -> `(...)`.

    The head is a few tokens of a large vocabulary: the largest are taken in growing numbers, not all sorted.
    """
    size, count = p.shape[-1], min(p.shape[-1], 64)
    while True:
        largest, ids = p.topk(count, dim=-1)
        above = largest.cumsum(-1) - largest  # mass of the more probable ones
        last = ((above < head_mass).sum(-1, keepdim=True) - 1).clamp_min(0)
        smallest_in_head = largest.gather(-1, last)
        if count == size or bool((largest[..., -1:] < smallest_in_head).all()):
            break
        count = min(size, 8 * count)
    on_head = ((largest - q.gather(-1, ids)).abs() * (largest >= smallest_in_head)).sum(-1)
    whole = torch.sub(p, q, out=scratch).abs_().sum(-1)
    return torch.where(whole > 0, on_head / whole.clamp_min(torch.finfo(p.dtype).tiny), 0.5).clamp_max(1)


def _log_probs(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, shared_vocabulary: int | None
) -> tuple[Tensor, Tensor]:
    """(log q, log p) over the shared ids."""
    check_temperature(temperature)
    if student_logits.shape[:-1] != teacher_logits.shape[:-1]:
        raise MethodError(
            f"Student logits {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)} "
            "differ in more than the size of the vocabulary."
        )
    size = shared_size(student_logits.shape[-1], teacher_logits.shape[-1], shared_vocabulary)
    log_q, log_p = (
        torch.log_softmax(_at_least_fp32(logits[..., :size]) / temperature, dim=-1)
        for logits in (student_logits, teacher_logits)
    )
    return log_q, log_p


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _scale(temperature: float, temperature_squared: bool) -> float:
    return temperature**2 if temperature_squared else 1.0


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) over the last axis, with 0 log 0 = 0; where a > 0 = b, `inf` without gradient."""
    a = log_a.exp()
    support, finite = a > 0, log_b > -math.inf
    both = support & finite
    # Replaced before subtracting: `where(both, log_a - log_b, 0)` has a NaN gradient from its unused branch.
    gap = torch.where(both, log_a, 0) - torch.where(both, log_b, 0)
    infinite = (support & ~finite).any(-1)
    value = (a * gap).sum(-1)
    return value + torch.zeros_like(value).masked_fill(infinite, math.inf)


def _log_mixture(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """log(weight a + (1 - weight) b); not logaddexp, whose gradient at (-inf, -inf) is NaN."""
    if weight == 0:
        return log_b
    if weight == 1:
        return log_a
    mixture = weight * log_a.exp() + (1 - weight) * log_b.exp()
    # Below the smallest normal number the mixture only ever meets an `a` that is as small: the term is 0.
    return mixture.clamp_min(torch.finfo(mixture.dtype).tiny).log()


def _weighted(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value with 0 * inf = 0."""
    return torch.where(weight > 0, weight * value, 0)
