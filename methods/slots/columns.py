"""What a training row says beside its tokens, found again by its prompt, whoever wrote the answer since."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from methods.errors import MethodError
from methods.slots.rows import Rows


class ByPrompt:
    """The value of a column of the training rows, by prompt. Rows of one prompt must agree on it."""

    def __init__(self, column: str):
        self.column = column
        self._values: dict[tuple[int, ...], Any] = {}

    def prepare(self, trainer: Any) -> None:
        """Read the column of the rows to train on, and of those to evaluate on where they have it.

        Raises MethodError where it is missing, or two rows of one prompt differ in it.
        """
        held_out = getattr(trainer, "eval_dataset", None)
        known = self.column in getattr(held_out, "column_names", ())
        for rows in (trainer.train_dataset, held_out) if known else (trainer.train_dataset,):
            for value, examples in trainer.examples_by(self.column, rows).items():
                for example in examples:
                    self.put(example.prompt, value)

    def put(self, prompt: list[int], value: Any) -> None:
        """Remember one value. Raises MethodError where the prompt has another one already."""
        known = self._values.setdefault(tuple(prompt), value)
        if known != value:
            raise MethodError(
                f'two rows of one prompt say {known!r} and {value!r} in "{self.column}": one is needed'
            )

    def values(self) -> list[Any]:
        """All values, one a prompt."""
        return list(self._values.values())

    def get(self, prompt: tuple[int, ...]) -> Any:
        """The value of a prompt. Raises MethodError where no training row has it."""
        if prompt not in self._values:
            raise MethodError(f'a prompt that no training row has: its "{self.column}" is not known')
        return self._values[prompt]

    def of(self, rows: Rows) -> list[Any]:
        """The values of the sequences of a micro-batch that have rows, in order. MethodError for unknown prompts."""
        return [self.get(prompt) for prompt in prompts_of(rows)]


def prompts_of(rows: Rows) -> list[tuple[int, ...]]:
    """The prompts of the sequences that have rows, in order, as ids."""
    batch, found = rows.batch, []
    for place in rows.sequence.unique_consecutive().tolist():
        keep = batch["attention_mask"][place].bool()
        ids, labels = (batch[name][place][keep].tolist() for name in ("input_ids", "labels"))
        begin = next((n for n, label in enumerate(labels) if label != -100), len(labels))
        found.append(tuple(ids[:begin]))
    return found


def spread(values: Tensor, rows: Rows) -> Tensor:
    """A value for each sequence that has rows (S,) as one for each row (N,)."""
    return values.repeat_interleave(sequence_lengths(rows))


def sequence_lengths(rows: Rows) -> Tensor:
    """How many rows each sequence has, for those that have any: (S,). Rows stand sequence by sequence."""
    return rows.sequence.unique_consecutive(return_counts=True)[1]
