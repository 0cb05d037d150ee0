"""The batches that each member would have had alone, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from methods.errors import MethodError

Batch = dict[str, Any]


class Table:
    """Tokenised rows as tensors, so that a batch is a choice of rows instead of lists that are padded anew."""

    def __init__(self, rows: Dataset, pad_id: int):
        self.rows, self._lengths = rows, torch.tensor([len(ids) for ids in rows["input_ids"][:]])
        width = int(self._lengths.max())
        self._columns = {
            name: torch.tensor([row + [padding] * (width - len(row)) for row in rows[name][:]])
            for name, padding in (("input_ids", pad_id), ("labels", -100))
        }
        self._places = torch.arange(width)

    def batch(self, rows: list[int]) -> Batch:
        """What TRL's collator makes of these rows."""
        chosen = torch.tensor(rows)
        lengths = self._lengths[chosen]
        width = int(lengths.max())
        mask = (self._places[:width] < lengths.unsqueeze(1)).long()
        columns = {name: column[chosen, :width] for name, column in self._columns.items()}
        return {**columns, "attention_mask": mask}


class Windows:
    """Each step's batches, one for each member: those of its own loader, epoch after epoch.

    `as_member(place)` puts a member's random numbers in place: a loader draws one at the start of an epoch.
    Raises MethodError where epochs count and are not equally long.
    """

    def __init__(
        self, members: tuple[Any, ...], steps: int, as_member: Callable[[int], AbstractContextManager[Any]]
    ):
        self._as_member = as_member
        loaders = [member.get_train_dataloader() for member in members]
        lengths = {len(loader) for loader in loaders}
        if steps <= 0 and len(lengths) > 1:
            raise MethodError(
                f"epochs of {', '.join(map(str, sorted(lengths)))} steps cannot be one training"
            )
        self._length = steps if steps > 0 else lengths.pop()
        tables: list[Table] = []
        self._streams = []
        for member, loader in zip(members, loaders, strict=True):
            table = next((known for known in tables if known.rows is member.train_dataset), None)
            table = _table(member) if table is None else table
            if table is not None:
                tables.append(table)
            self._streams.append(_stream(loader, table))

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[Batch]]:
        for _ in range(self._length):
            batches = []
            for place, stream in enumerate(self._streams):
                with self._as_member(place):
                    batches.append(next(stream))
            yield batches


def _table(member: Any) -> Table | None:
    """The rows of a member as tensors; None where its collator makes something else of them."""
    rows = member.train_dataset
    if (
        not isinstance(rows, Dataset)
        or not {"input_ids", "labels"} <= set(rows.column_names)
        or not len(rows)
    ):
        return None
    if member.args.device.type != "cpu" or member.models.pair is not None:
        return None
    table = Table(rows, member.processing_class.pad_token_id)
    some = list(range(min(4, len(rows))))
    kept = [{name: rows[place][name] for name in ("input_ids", "labels")} for place in some]
    return table if _equal(table.batch(some), dict(member.data_collator(kept))) else None


def _equal(one: Batch, other: Batch) -> bool:
    return one.keys() == other.keys() and all(
        isinstance(tensor, Tensor) and torch.equal(tensor, other[name]) for name, tensor in one.items()
    )


def _stream(loader: Any, table: Table | None) -> Iterator[Batch]:
    epoch = 0
    while True:
        # As transformers' loop does at the start of an epoch.
        for part in (loader, getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        if table is None:
            yield from loader
        else:
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)  # torch's loader does
            for rows in loader.batch_sampler:
                yield table.batch(rows)
        epoch += 1
