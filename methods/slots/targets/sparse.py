"""Targets of which few ids are kept, as a store of a teacher's answers would: drawn ones, or the likeliest and a rest.

Unlike the top k of a store (`methods.teachers.top_k`), nothing is left outside: these are distributions of their own,
and a forward KL to them is one to what was kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.scores import by_row, by_sequence, shared, side_of
from methods.slots.targets.teachers import OneTeacher
from methods.slots.term import Window
from methods.slots.token_weights import generator_for
from methods.teachers.drawn import counted, draws
from methods.teachers.top_k import TopK

NONE = -torch.inf


@component("target", "drawn-ids")
class DrawnIds(OneTeacher):
    """t_i = how often id i came in `rounds` draws from the teacher, over `rounds`: on average the teacher itself.

    The gradient of the forward KL to it is an unbiased estimate of that to the whole teacher. A store is filled once,
    so a token's draws are the same at each visit: they depend on `seed`, the sequence's answer and the place in it
    alone; `anew` draws others at each step. In the paper 50 rounds give about 12 ids.
    Source: Sparse Logit Sampling (random sampling KD), arXiv 2503.16870.
    """

    def __init__(self, rounds: int = 50, *, seed: int = 0, anew: bool = False, index: int = 0):
        super().__init__(index)
        if rounds < 1:
            raise MethodError(f"rounds={rounds}: at least one id is drawn")
        self.rounds, self.seed, self.anew = rounds, seed, anew
        self._progress = 0.0

    def begin_step(self, window: Window) -> None:
        """Other ids are drawn at another step, where they are drawn anew."""
        self._progress = window.progress if self.anew else 0.0

    def __call__(self, rows: Rows) -> TopK:
        size = shared(rows, self.index)
        probabilities = by_row(_softmax, size, side_of(rows, "teacher", self.index))
        drawn = by_sequence(self._draws, rows, probabilities, rows.labels)
        ids, counts = counted(drawn)
        return _whole(ids, (counts.double() / self.rounds).log().float(), size)

    def _draws(self, probabilities: Tensor, labels: Tensor) -> Tensor:
        """Ids (T, rounds), drawn with putting back."""
        generator = generator_for(self.seed, self._progress, labels)
        return draws(probabilities, self.rounds, generator)


@component("target", "top-ids-and-label")
class TopIdsAndLabel(OneTeacher):
    """The teacher's k likeliest ids, and the mass of all others on the label.

    Source: Sparse Logit Sampling, arXiv 2503.16870 (its "naive fix" of top-k targets).
    """

    def __init__(self, k: int = 12, *, index: int = 0):
        super().__init__(index)
        if k < 1:
            raise MethodError(f"k={k}: at least one id is kept")
        self.k = k

    def __call__(self, rows: Rows) -> TopK:
        size = shared(rows, self.index)
        logp = by_row(_log_softmax, size, side_of(rows, "teacher", self.index))
        kept, ids = logp.topk(min(self.k, size))
        rest = logp.scatter(-1, ids, NONE).logsumexp(-1, keepdim=True)
        label = rows.labels.unsqueeze(-1)
        if bool((label >= size).any()):
            raise MethodError(f"a label is none of the {size} ids that student and teacher share")
        known = ids == label
        among = torch.where(known, torch.logaddexp(kept, rest), kept)
        rest = rest.masked_fill(known.any(-1, keepdim=True), NONE)
        ids = torch.cat([ids, torch.where(rest > NONE, label, ids[:, :1])], -1)
        return _whole(ids, torch.cat([among, rest], -1), size)


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(-1)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.log_softmax(-1)


def _whole(ids: Tensor, logs: Tensor, size: int) -> TopK:
    """Sparse distributions of which nothing lies outside."""
    return TopK(ids, logs, torch.full_like(logs[:, 0], NONE), size)
