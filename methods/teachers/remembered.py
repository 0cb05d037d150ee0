"""What a frozen teacher's last layer says at the completion tokens of fixed rows: computed once, then looked up.

Every loss is exact with it, as with the teacher itself, which is still asked for whatever rows are not there. Beside
`TeacherStore`, which is a file of a user's that must hold all that is asked, this is a shortcut that nobody sees: the
teacher stays, its tokens are counted as if it had read them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods.modeling.core import hidden_states
from methods.teachers.identity import KEY_BYTES, example_keys

ROWS = 64  # computed together
Batch = Mapping[str, Any]


class RememberedStates:
    """Hidden states (M, H) of all rows, one behind the other, and where those of each row begin: by its tokens."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.states, counts = tensors["states"], tensors["counts"].tolist()
        ends = np.cumsum(counts).tolist()
        keys = tensors["keys"].numpy()
        self._places = {
            key.tobytes(): slice(end - count, end) for key, count, end in zip(keys, counts, ends, strict=True)
        }

    def of(self, batch: Batch, ask: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
        """States (N, H) at the completion tokens of a collated batch, in order; `ask` gives those of rows not known."""
        found: list[Tensor | None] = []
        unknown, sizes = [], []
        for row, (key, count) in enumerate(example_keys(batch)):
            place = self._places.get(key)
            found.append(None if place is None else self.states[place])
            if place is None and count:
                unknown.append(row)
                sizes.append(count)
        device = batch["input_ids"].device
        if unknown:
            rows = torch.tensor(unknown, device=device)
            names = ("input_ids", "attention_mask", "labels")
            asked = ask({name: batch[name][rows] for name in names})
            for row, states in zip(unknown, asked.split(sizes), strict=True):
                found[row] = states
        known = [states.to(device) for states in found if states is not None]
        return torch.cat(known) if known else self.states.new_empty(0, self.states.shape[1], device=device)


def size_of_states(rows: Any, width: int) -> int:
    """Bytes that the states of tokenised rows take, `width` numbers for each completion token in fp32."""
    return 4 * width * sum(_completion_tokens(labels) for labels in rows["labels"][:])


@torch.no_grad()
def remember_states(teacher: Any, rows: Any) -> dict[str, Tensor]:
    """What `RememberedStates` is made from: of tokenised rows (`input_ids`, `labels`), each once, on the CPU."""
    order = sorted(zip(rows["input_ids"][:], rows["labels"][:], strict=True), key=lambda row: len(row[0]))
    known: dict[bytes, Tensor] = {}
    for start in range(0, len(order), ROWS):
        batch = collated(order[start : start + ROWS], teacher.device)
        new = [(key, n, row) for row, (key, n) in enumerate(example_keys(batch)) if n and key not in known]
        if not new:
            continue
        hidden = hidden_states(teacher, batch["input_ids"], batch["attention_mask"])[:, :-1]
        where = batch["labels"][:, 1:] != -100
        for key, _, row in new:
            known[key] = hidden[row][where[row]].float().cpu()
    keys = np.frombuffer(b"".join(known), np.uint8).reshape(-1, KEY_BYTES).copy()
    width = teacher.config.hidden_size
    return {
        "keys": torch.from_numpy(keys),
        "counts": torch.tensor([len(states) for states in known.values()]),
        "states": torch.cat([torch.empty(0, width), *known.values()]),
    }


def _completion_tokens(labels: list[int]) -> int:
    return sum(label != -100 for label in labels[1:])


def collated(rows: list[tuple[list[int], list[int]]], device: Any) -> dict[str, Tensor]:
    """Rows (ids, labels) padded on the right; what is padded is masked, so that any id does."""
    width = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in rows], device=device),
        "attention_mask": torch.tensor(
            [[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows], device=device
        ),
        "labels": torch.tensor(
            [labels + [-100] * (width - len(labels)) for _, labels in rows], device=device
        ),
    }
