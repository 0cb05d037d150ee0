"""The batches that each member would have had alone, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
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


class Unread(Sequence[Any]):
    """Rows of a data set, read when somebody looks: GRPO's loader gives them anew for each update of a generation."""

    def __init__(self, dataset: Any, places: Sequence[int]):
        self._dataset, self._places = dataset, list(places)
        self._rows: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        if self._rows is None:
            whole = getattr(self._dataset, "__getitems__", None)  # as torch's loader reads
            self._rows = whole(self._places) if whole else [self._dataset[n] for n in self._places]
        return self._rows[place]


class Windows:
    """Each step's batches, one for each member: those of its own loader, epoch after epoch.

    `lazily`: a batch is a list of rows that is read when somebody looks into it (`Unread`).

    `as_member(place)` puts a member's random numbers in place: a loader draws one at the start of an epoch.
    Raises MethodError where epochs count and are not equally long.
    """

    def __init__(
        self,
        members: tuple[Any, ...],
        steps: int,
        as_member: Callable[[int], AbstractContextManager[Any]],
        *,
        lazily: bool = False,
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
            if lazily:
                self._streams.append(_stream(loader, partial(Unread, loader.dataset)))
                continue
            table = next((known for known in tables if known.rows is member.train_dataset), None)
            table = _table(member) if table is None else table
            if table is not None:
                tables.append(table)
            self._streams.append(_stream(loader, None if table is None else table.batch))

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


def _stream(loader: Any, read: Callable[[list[int]], Any] | None) -> Iterator[Any]:
    epoch = 0
    while True:
        # As transformers' loop does at the start of an epoch.
        for part in (loader, getattr(getattr(loader, "batch_sampler", None), "batch_sampler", None)):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(epoch)
        if read is None:
            yield from loader
        else:
            torch.empty((), dtype=torch.int64).random_(generator=loader.generator)  # torch's loader does
            for rows in loader.batch_sampler:
                yield read(rows)
        epoch += 1
