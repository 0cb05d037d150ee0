"""Targets of several models: any weighted sum of logits, another teacher for each row, a teacher's first choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from methods.errors import MethodError
from methods.losses.fused.linear import Head
from methods.registry import component
from methods.slots.columns import ByPrompt, sequence_lengths
from methods.slots.rows import Rows
from methods.slots.samplers.example import SOURCES
from methods.slots.scores import by_row, shared
from methods.slots.targets.teachers import OneTeacher, linear, mix_logits
from methods.slots.term import Window
from methods.teachers.top_k import TopK


@component("target", "combined-logits")
class CombinedLogits(OneTeacher):
    """softmax(sum_i c_i z_i + s z_student): a product of powers of the models' distributions, normalised.

    `coefficients` are the c_i, one for each teacher, of any sign and sum. The student's share s, its logits detached,
    moves from `student_start` to `student_end` over the training. [1.25, -0.25] with a base model as the second teacher
    goes past the teacher; [1] with s above 0 vetoes what the student does not believe.
    Source: Veto, arXiv 2601.07155 (p q^beta, the student's share is beta); G-OPD, arXiv 2602.12125 (p^lambda
    b^(1 - lambda)).
    """

    def __init__(
        self,
        coefficients: Sequence[float] = (1.0,),
        *,
        student_start: float = 0.0,
        student_end: float | None = None,
    ):
        super().__init__()
        if not any(coefficients):
            raise MethodError("a target of teachers whose coefficients are all zero is none")
        self.coefficients, self.share = tuple(coefficients), student_start
        self.start = student_start
        self.end = student_start if student_end is None else student_end

    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        if len(self.coefficients) != len(rows.teachers):
            raise MethodError(f"{len(self.coefficients)} coefficients for {len(rows.teachers)} teachers")
        pairs = zip(self.coefficients, rows.teachers, strict=True)
        parts = [(c, *linear(teacher)) for c, teacher in pairs if c]
        if self.share:
            parts.append((self.share, rows.hidden, rows.head))
        return mix_logits(parts)

    def begin_step(self, window: Window) -> None:
        self.share = self.start + (self.end - self.start) * window.progress


@component("target", "teacher-by-row")
class TeacherByRow(OneTeacher):
    """For each sequence the teacher that its row names: by a `column` of the training rows, or by who wrote it.

    `indices` gives the number of the teacher for each value of the column, or, where the column is "source", for
    "data", "teacher" and "student". All teachers read all rows; one head as wide as all of them serves every row.
    Source: MOPD, arXiv 2606.30406 (by domain); G-OPD, arXiv 2602.12125 (by a field of the row).
    """

    def __init__(self, indices: Mapping[str, int], column: str = "domain"):
        super().__init__()
        if not indices:
            raise MethodError("no value of the column names a teacher")
        self.indices = {str(value): int(index) for value, index in indices.items()}
        self.column = None if column == "source" else column
        self._values = ByPrompt(column)

    def prepare(self, trainer: Any) -> None:
        """Read the column. Raises MethodError for a value that names no teacher."""
        if self.column is None:
            return
        self._values.prepare(trainer)
        for value in trainer.examples_by(self.column, trainer.train_dataset):
            self._index(value)

    def _index(self, value: Any) -> int:
        if str(value) not in self.indices:
            raise MethodError(f"{value!r} names no teacher; known: {', '.join(self.indices)}")
        return self.indices[str(value)]

    def chosen(self, rows: Rows) -> Tensor:
        """The number of the teacher of each row (N,)."""
        if self.column is None:
            own = [self._index(SOURCES[source]) for source in rows.source.tolist()]
            return torch.tensor(own, device=rows.source.device)
        own = [self._index(value) for value in self._values.of(rows)]
        return torch.tensor(own, device=rows.source.device).repeat_interleave(sequence_lengths(rows))

    @torch.no_grad()
    def __call__(self, rows: Rows) -> tuple[Tensor, Head]:
        chosen, sides = self.chosen(rows), [linear(teacher) for teacher in rows.teachers]
        if len(chosen) and int(chosen.max()) >= len(sides):
            raise MethodError(
                f"no teacher number {int(chosen.max())}: {len(sides)} read the student's tokens"
            )
        if any(head.soft_cap is not None for _, head in sides):
            raise MethodError("teachers under a soft cap cannot be put into one head")
        size = min(len(head.weight) for _, head in sides)
        states, weights = [], []
        for index, (hidden, head) in enumerate(sides):
            here = (chosen == index).to(hidden.dtype).unsqueeze(-1)
            states.append(here * head.scale * hidden)
            weights.append(head.weight[:size])
            if head.bias is not None:
                states.append(here * head.scale)
                weights.append(head.bias[:size].unsqueeze(-1))
        return torch.cat(states, -1).detach(), Head(torch.cat(weights, -1).detach())


@component("target", "likeliest-token")
class LikeliestToken(OneTeacher):
    """All mass on the teacher's likeliest token: its forward KL is the cross entropy with the teacher's choice.

    Source: ImitKD, arXiv 2009.07253 (the label of a student's prefix).
    """

    def __init__(self, index: int = 0):
        super().__init__(index)

    def __call__(self, rows: Rows) -> TopK:
        teacher = linear(super().__call__(rows))
        ids = by_row(lambda z: z.argmax(-1), shared(rows, self.index), teacher).unsqueeze(-1)
        certain = torch.zeros(ids.shape, dtype=torch.float64, device=ids.device)
        nothing = torch.full(ids.shape[:1], -torch.inf, dtype=torch.float64, device=ids.device)
        return TopK(ids, certain, nothing, len(rows.head.weight))
