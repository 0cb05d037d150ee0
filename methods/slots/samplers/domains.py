"""Which domain to learn from: weights that follow how far a student is behind its teacher, and a sampler on them."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.samplers.example import Example, Sampler, Step


class DomainWeights:
    """Sampling probabilities of domains, equal at first.

    update: s_i = r_i exp(student perplexity_i / teacher perplexity_i), then
    r_i = smoothing * s_i / sum s + (1 - smoothing) / N.
    Without smoothing (1.0) the weights multiply up from update to update.
    Source: DDK, arXiv 2407.16154 (`smoothing` is alpha, 0.5 there).
    """

    def __init__(self, domains: Sequence[str], *, smoothing: float = 0.5):
        check_fraction("smoothing", smoothing)
        if len(set(domains)) != len(domains) or len(domains) < 2:
            raise MethodError(f"weights need two or more domains that are all different, not {list(domains)}")
        self.smoothing = smoothing
        self.shares = {name: 1 / len(domains) for name in domains}

    def update(self, student: Mapping[str, float], teacher: Mapping[str, float]) -> None:
        """Move the weights by the perplexities of both models on validation data of each domain."""
        ratios = {name: student[name] / teacher[name] for name in self.shares}
        largest = max(ratios.values())  # taken out of the exponent: only proportions count
        scores = {name: share * math.exp(ratios[name] - largest) for name, share in self.shares.items()}
        total, count = sum(scores.values()), len(scores)
        if not math.isfinite(total) or total <= 0:
            raise MethodError(f"the perplexity ratios {ratios} give no weights")
        self.shares = {
            name: self.smoothing * score / total + (1 - self.smoothing) / count
            for name, score in scores.items()
        }


@component("sampler", "domains")
class DomainSampler:
    """Replaces every example of a window by one of a domain drawn by the weights, which move every `every` steps.

    Rows say their domain in `column`, those to learn from and those of the validation data, on which the perplexities
    of student and first teacher are measured. All ranks draw the same numbers and each takes its part, so the global
    batch does not depend on their number. A domain is gone through in shuffled order before an example comes
    again. `sampler` may then do with the drawn examples what it does with those of any window.
    Source: DDK, arXiv 2407.16154 (`every` is K, 1000 of 30,000 steps there; `smoothing` is alpha).
    """

    # Though no term may ask it: without the KL a step costs what it costs with it, as in the ablation of gamma.
    teacher_reads_along = True

    def __init__(
        self, *, every: int, smoothing: float = 0.5, column: str = "domain", sampler: Sampler | None = None
    ):
        if every < 1:
            raise MethodError(f"every is {every}, not a number of steps")
        check_fraction("smoothing", smoothing)
        self.every, self.smoothing, self.column, self.sampler = every, smoothing, column, sampler
        self.drawn: dict[str, int] = {}  # examples taken so far, over all ranks
        self._domains: Mapping[str, Sequence[Example]] = {}
        self._checks: Mapping[str, Sequence[Example]] = {}
        self._waiting: dict[str, list[int]] = {}
        self._step = 0

    def prepare(self, trainer: Any) -> None:
        """Take the trainer's rows by their domain."""
        if trainer.eval_dataset is None:
            raise MethodError("domains are weighed on validation data: give the trainer an eval_dataset")
        self.over(
            *(
                trainer.examples_by(self.column, rows)
                for rows in (trainer.train_dataset, trainer.eval_dataset)
            )
        )

    def over(
        self, domains: Mapping[str, Sequence[Example]], checks: Mapping[str, Sequence[Example]]
    ) -> DomainSampler:
        """Draw from these examples, measure on those. Raises MethodError where the domains are not the same."""
        if set(domains) != set(checks):
            raise MethodError(f"validation rows of {sorted(checks)} for the domains {sorted(domains)}")
        for name, examples in domains.items():
            if not examples:
                raise MethodError(f"domain {name!r} has no examples")
        self.weights = DomainWeights(list(domains), smoothing=self.smoothing)
        self.drawn = dict.fromkeys(domains, 0)
        self._domains, self._checks = domains, checks
        self._waiting = {name: [] for name in domains}
        return self

    def __call__(self, window: Sequence[Example], step: Step) -> list[Example]:
        if self._step and self._step % self.every == 0:
            self.weights.update(*step.perplexities(self._checks))
        draws = random.Random(f"domains:{step.seed}:{self._step}")
        self._step += 1
        names, shares = list(self.weights.shares), list(self.weights.shares.values())
        chosen = draws.choices(names, shares, k=len(window) * step.ranks)
        size = len(window)
        examples = [self._next(name, draws) for name in chosen][step.rank * size : (step.rank + 1) * size]
        return examples if self.sampler is None else self.sampler(examples, step)

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as plain data."""
        inner: Any = self.sampler
        own = {
            "step": self._step,
            "shares": self.weights.shares,
            "drawn": self.drawn,
            "waiting": self._waiting,
            "sampler": inner.state() if hasattr(inner, "state") else None,
        }
        return copy.deepcopy(own)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        state, inner = copy.deepcopy(dict(state)), self.sampler
        self._step, self.weights.shares = state["step"], state["shares"]
        self.drawn, self._waiting = state["drawn"], state["waiting"]
        if state["sampler"] is not None:
            inner.restore(state["sampler"])  # type: ignore[union-attr]

    def _next(self, name: str, draws: random.Random) -> Example:
        waiting = self._waiting[name]
        if not waiting:
            waiting.extend(range(len(self._domains[name])))
            draws.shuffle(waiting)
        self.drawn[name] += 1
        return self._domains[name][waiting.pop()]
