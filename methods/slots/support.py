"""Which ids of the vocabulary a divergence looks at: those that one model finds likeliest, or the sampled one alone."""

from __future__ import annotations

from typing import Protocol

from methods.errors import MethodError
from methods.losses.fused.reduced import OTHERS, SAMPLED, STUDENT, TEACHER, Reduction
from methods.registry import component


class Support(Protocol):
    """Names the ids and says what becomes of the rest."""

    reduction: Reduction


@component("support", "top-k")
class TopIds:
    """The k likeliest ids of teacher or student, and the rest as one outcome more, left out, or made up for.

    `of`: "teacher" or "student". `rest`: "tail" (one outcome more), "renormalise" (within the k ids alone), "drop" (the
    summands of the k ids), "excess" (the same for KLs, with the minimum put back to where both models agree), "rewards"
    (the excess over the student's mass within k: each of the k ids is rewarded, weighed by its share of q).
    Source: SDPO, arXiv 2601.20802 (tail or renormalised); Revisiting OPD, arXiv 2603.25562 (the teacher's top 32,
    renormalised); Rethinking OPD, arXiv 2604.13016 (the student's top 16; its code: rewards); MOPD, arXiv 2606.30406
    (the teacher's top 64, excess).
    """

    def __init__(self, k: int, of: str = "teacher", rest: str = "tail"):
        if of not in (TEACHER, STUDENT):
            raise MethodError(f"of is {of!r}, neither teacher nor student")
        self.reduction = Reduction(of, k, rest)


@component("support", "recalibrated-top-k")
class RecalibratedTopIds:
    """The teacher's k likeliest ids alone: its distribution softmax(p / c) of their probabilities p, the student's
    renormalised there.

    c is `recalibration`: the smaller, the surer; as probabilities lie within 1 of each other, c = 1 is nearly uniform.
    Its choice is where the teacher is best calibrated on held-out rows.
    Source: FIRST, arXiv 2408.12168 (k is 5). Its code can put the student's probabilities through the same softmax, or
    renormalise both.
    """

    def __init__(self, k: int = 5, *, recalibration: float = 0.3):
        self.reduction = Reduction(TEACHER, k, "renormalise", recalibration=recalibration)


@component("support", "sampled")
class SampledToken:
    """The token of the sequence alone: over many samples the whole divergence, of each a noisy estimate.

    `drawn_from` says who wrote the sequences, "student" or "teacher"; what others wrote is no fair sample. Reverse KL
    of a student's sample is the policy gradient of the reward log p - log q. `clip` keeps that reward within +-clip
    nats.
    Source: "On-Policy Distillation" (Thinking Machines Lab, 2025); MOPD, arXiv 2606.30406 (clip).
    """

    def __init__(self, drawn_from: str = "student", *, clip: float | None = None):
        self.reduction = Reduction(SAMPLED, 1, "estimate", drawn_from, clip)


@component("support", "sampled-or-not")
class SampledOrNot:
    """The token of the sequence against all others together: how likely both models find it, and nothing else.

    Source: IW-OPD, arXiv 2606.22600, in TRL's trainer of that name (its top-1 support with a tail).
    """

    def __init__(self) -> None:
        self.reduction = Reduction(SAMPLED, 1, "tail")


@component("support", "other-ids")
class OtherIds:
    """All ids but the token of the sequence, both distributions renormalised there.

    With p_y the teacher's probability of that token, KL(p || q) is the KL of `sampled-or-not` and 1 - p_y times this
    one: a teacher that is sure hardly teaches what else would do.
    Source: ATKD, arXiv 2402.11890 (diversity-oriented KD; `sampled-or-not` is its target-oriented KD), after decoupled
    KD, arXiv 2203.08679.
    """

    def __init__(self) -> None:
        self.reduction = Reduction(OTHERS, 1, "renormalise")
