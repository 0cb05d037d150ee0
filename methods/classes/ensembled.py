"""Labels of texts against noise: smoothed, and trusted where a running mean of the student's predictions has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.term import NOTHING, Term, Weight, Window

ROW = "row"  # the column with a text's number
READ = 64  # texts read together


@component("term", "ensembled-labels")
class EnsembledLabels(Term):
    """Of texts that are trusted, the cross-entropy of smoothed labels and a pull to the mean of earlier predictions.

    The label's part is 1 - `smoothing` and an even share of the rest. `every` so many steps the student looks at all
    training texts; m becomes momentum m + (1 - momentum) p, and m / (1 - momentum^looks) is the mean. From the first
    look on a text is trusted whose mean has its label likeliest and above the `threshold`; of a class of which fewer
    than `least` are, those above the median of their label's mean. `pull` times KL(mean || student) is added, times
    exp(-5 (1 - looks / ramp)^2) until there were `ramp` looks. The sum over trusted texts is divided by all texts.
    Source: SuperGen, arXiv 2202.04538, and its code, github.com/yumeng5/SuperGen, src/trainer.py and src/models.py
    (0.15, 0.8, 0.8, 10, 16; there texts that are not trusted leave the epoch instead).
    Raises MethodError for rows that are no texts with a label each.
    """

    reads = NOTHING

    def __init__(
        self,
        *,
        smoothing: float = 0.15,
        momentum: float = 0.8,
        threshold: float = 0.8,
        pull: float = 10.0,
        every: int = 100,
        ramp: int = 10,
        least: int = 16,
        weight: Weight = 1.0,
    ):
        for name, share in (("smoothing", smoothing), ("momentum", momentum), ("threshold", threshold)):
            check_fraction(name, share)
        if every < 1 or ramp < 1 or least < 0 or pull < 0 or momentum == 1:
            raise MethodError(
                'ensembled-labels: "every" and "ramp" are 1 or more, "momentum" below 1, others not below 0'
            )
        self.smoothing, self.momentum, self.threshold = smoothing, momentum, threshold
        self.pull, self.every, self.ramp, self.least, self.weight = pull, every, ramp, least, weight
        self.looks = 0
        self._sum: Tensor | None = None  # (R, C), m of every text
        self._labels: Tensor | None = None  # (R,)

    def prepare(self, trainer: Any) -> None:
        rows: Any = getattr(trainer, "train_dataset", None)
        names = [] if rows is None else rows.column_names
        if ROW not in names or (len(rows) and not isinstance(rows[0]["labels"], int)):
            raise MethodError(
                "ensembled-labels is about texts with a label each, whose number stands beside them"
            )
        self._labels = torch.tensor(rows["labels"][:])

    def begin_step(self, window: Window) -> None:
        """Every so many steps a look at all texts; a step whose look was kept by a checkpoint has none again."""
        trainer = window.trainer
        step = trainer.state.global_step
        if step and step % self.every == 0 and self.looks < step // self.every:
            self.look(_predictions(trainer))

    def look(self, shares: Tensor) -> None:
        """What the student says of all texts now: probabilities (R, C), by their numbers."""
        before = torch.zeros_like(shares) if self._sum is None else self._sum
        self._sum, self.looks = self.momentum * before + (1 - self.momentum) * shares, self.looks + 1

    @property
    def mean(self) -> Tensor | None:
        """(R, C), None before the first look."""
        return None if self._sum is None else self._sum / (1 - self.momentum**self.looks)

    def trusted(self) -> Tensor:
        """Which texts (R,) are."""
        assert self._labels is not None
        mean = self.mean
        if mean is None:
            return torch.ones(len(self._labels), dtype=torch.bool)
        surest, said = mean.max(1)
        kept = (said == self._labels) & (surest > self.threshold)
        own = mean.gather(1, self._labels[:, None]).squeeze(1)
        for name in self._labels.unique():
            there = self._labels == name
            if int((kept & there).sum()) < self.least:
                kept = kept | (there & (own > own[there].median()))
        return kept

    def total(self, rows: Rows) -> Tensor:
        number = rows.batch[ROW][rows.sequence].cpu()
        device, exact = rows.hidden.device, torch.promote_types(rows.hidden.dtype, torch.float32)
        bias = None if rows.head.bias is None else rows.head.bias.to(exact)
        with torch.autocast(device.type, enabled=False):
            logits = functional.linear(rows.hidden.to(exact), rows.head.weight.to(exact), bias)
            losses = functional.cross_entropy(
                logits, rows.labels, label_smoothing=self.smoothing, reduction="none"
            )
            mean = self.mean
            if mean is not None and self.pull:
                towards = mean[number].to(device, exact)
                apart = functional.kl_div(logits.log_softmax(1), towards, reduction="none").sum(1)
                losses = losses + self.pull * self.risen * apart
        return (losses * self.trusted()[number].to(device, exact)).sum()

    @property
    def risen(self) -> float:
        """The share of the pull that is there yet."""
        return math.exp(-5 * (1 - self.looks / self.ramp) ** 2) if self.looks < self.ramp else 1.0

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep, as plain data."""
        return {"looks": self.looks, "sum": None if self._sum is None else self._sum.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.looks = state["looks"]
        self._sum = None if state["sum"] is None else torch.tensor(state["sum"])


def _predictions(trainer: Any) -> Tensor:
    """Probabilities (R, C) of all training texts, by their numbers."""
    from methods.classes.model import logits_of

    rows = trainer.train_dataset

    def batches() -> Iterator[Mapping[str, Tensor]]:
        for start in range(0, len(rows), READ):
            made = trainer.data_collator([rows[n] for n in range(start, min(start + READ, len(rows)))])
            names = ("input_ids", "attention_mask", "token_type_ids")
            yield {name: made[name] for name in names if name in made}

    with trainer.accelerator.autocast():
        said = torch.cat(list(logits_of(trainer.models.student(), batches())))
    found = torch.empty_like(said)
    found[torch.tensor(rows[ROW][:])] = said
    return found.softmax(1)
