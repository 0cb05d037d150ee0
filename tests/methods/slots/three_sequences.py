"""Rows of three sequences of 4, 1 and 6 tokens in float64, with two teachers, for tests of scores, weights, targets."""

from dataclasses import replace

import torch

from methods.losses.fused.linear import Head
from methods.slots.rows import Rows

LENGTHS, SIZE = (4, 1, 6), 7
COUNT = sum(LENGTHS)
PROMPTS = ([5, 2], [6, 6, 2], [4, 2])


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def three_sequences(**changes) -> Rows:
    """The rows; the batch is padded on the left for one sequence and on the right for the others."""
    lengths = torch.tensor(LENGTHS)
    labels = torch.arange(COUNT) % SIZE
    batch = {name: torch.zeros(3, 9, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["labels"] = torch.full((3, 9), -100)
    for place, (prompt, own) in enumerate(zip(PROMPTS, labels.split(LENGTHS), strict=True)):
        ids = torch.tensor([*prompt, *own.tolist()])
        begin = 9 - len(ids) if place == 2 else 0
        batch["input_ids"][place, begin : begin + len(ids)] = ids
        batch["attention_mask"][place, begin : begin + len(ids)] = 1
        batch["labels"][place, begin + len(prompt) : begin + len(ids)] = own
    rows = Rows(
        hidden=normal(COUNT, 3, seed=1),
        head=Head(normal(SIZE + 2, 3, seed=2)),
        teachers=(
            (normal(COUNT, 4, seed=3), Head(normal(SIZE, 4, seed=4), normal(SIZE, seed=5), scale=0.5)),
            (normal(COUNT, 5, seed=6), Head(normal(SIZE + 1, 5, seed=7))),
        ),
        labels=labels,
        source=torch.tensor([0, 2, 1]).repeat_interleave(lengths),
        sequence=torch.arange(3).repeat_interleave(lengths),
        position=torch.cat([torch.arange(n) for n in LENGTHS]),
        batch=batch,
    )
    return replace(rows, **changes)


def log_probs(rows: Rows, teacher: int | None = None, size: int = SIZE) -> torch.Tensor:
    """(N, size) of the student, or of a teacher, over the first ids."""
    hidden, head = (rows.hidden, rows.head) if teacher is None else rows.teachers[teacher]
    z = head.scale * (hidden @ head.weight.T + (0 if head.bias is None else head.bias))
    return z[:, :size].log_softmax(-1)


def parts(values: torch.Tensor) -> list[torch.Tensor]:
    """Those of each sequence."""
    return list(values.split(LENGTHS))


LAST = slice(COUNT - LENGTHS[2], COUNT)


def last_alone(rows: Rows) -> Rows:
    """The last sequence without the others."""
    return replace(
        rows, hidden=rows.hidden[LAST], labels=rows.labels[LAST], sequence=rows.sequence[LAST],
        position=rows.position[LAST], source=rows.source[LAST],
        teachers=tuple((hidden[LAST], head) for hidden, head in rows.teachers),
    )  # fmt: skip


class Trainer:
    """What `ByPrompt` asks of one."""

    train_dataset = None

    def __init__(self, *values):
        self.values = values

    def examples_by(self, column, rows):
        from methods.slots.samplers import Example

        groups = {}
        for prompt, value in zip(PROMPTS, self.values, strict=False):
            groups.setdefault(value, []).append(Example(list(prompt), [1]))
        return groups
