"""KL divergences estimated on the sampled tokens alone, as losses whose gradient flows through log q(y_t)."""

from __future__ import annotations

from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import linear_log_probs
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.targets import linear
from methods.slots.term import IDS, NOTHING, Term, Weight

ESTIMATORS = ("k1", "k2", "k3")
START = "start"


@component("term", "sampled-kl")
class SampledKL(Term):
    """An estimate of the KL to somebody from each sampled token, R = log p(y_t) - log q(y_t): mean over tokens.

    "k1" is -R, "k2" R^2 / 2, "k3" exp(R) - R - 1. On the student's own samples the expected gradient of k1 is zero, of
    k2 that of the reverse KL, of k3 that of the forward KL. `to` is the number of a teacher, or "start", the student
    before this training (for the trainer policy-optimisation).
    Source: DeepSeekMath, arXiv 2402.03300, eq. 4 (k3 to a reference); KDRL, arXiv 2506.02208 (k2 to a teacher).
    """

    def __init__(self, estimator: str = "k2", *, to: int | str = 0, weight: Weight = 1.0):
        if estimator not in ESTIMATORS:
            raise MethodError(f"no estimator {estimator!r}; one of {', '.join(ESTIMATORS)}")
        if isinstance(to, str) and to != START:
            raise MethodError(f'"to" is the number of a teacher or "{START}", not {to!r}')
        self.estimator, self.to, self.weight = estimator, to, weight
        self.reads = NOTHING if to == START else IDS
        self.asks = (START,) if to == START else ()

    def total(self, rows: Rows) -> Tensor:
        if self.to == START:
            if START not in rows.batch:
                raise MethodError('"start" is known to the trainer policy-optimisation alone')
            states, head = rows.batch[START]
        else:
            if int(self.to) >= len(rows.teachers):
                raise MethodError(f"no teacher number {self.to}: there are {len(rows.teachers)}")
            states, head = linear(rows.teachers[int(self.to)])
        theirs = linear_log_probs(states, head, rows.labels).detach()
        ratio = theirs - linear_log_probs(rows.hidden, rows.head, rows.labels)
        if self.estimator == "k1":
            return -ratio.sum()
        return (ratio.square() / 2 if self.estimator == "k2" else ratio.expm1() - ratio).sum()
