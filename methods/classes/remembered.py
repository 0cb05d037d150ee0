"""What a frozen teacher says of fixed texts: what goes into its head and what its blocks give, computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from methods.classes.model import classifier_states
from methods.errors import MethodError
from methods.modeling.core import blocks_of, core_model

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = 64  # read together
STATES, BLOCK = "states", "block-{}"


class RememberedClasses:
    """States (R, H) of R texts by their number, and the outputs of every block at their first token, likewise.

    Losses are exact with it, as with the teacher itself: it is frozen, and reads a text without dropout.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = dict(tensors)

    def of(self, rows: Tensor, blocks: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """What goes into the head (N, H) for the texts of these numbers (N,), and the outputs (N, H) of some blocks.

        Raises MethodError for a block that the teacher does not have.
        """
        known = sorted(int(name.rpartition("-")[2]) for name in self._tensors if name != STATES)
        missing = [block for block in blocks if block not in known]
        if missing:
            raise MethodError(f"the teacher has no block {missing[0]}; it has 0 to {known[-1]}")
        place = rows.cpu()
        found = {block: self._tensors[BLOCK.format(block)][place].to(rows.device) for block in blocks}
        return self._tensors[STATES][place].to(rows.device), found


@torch.no_grad()
def remember_classes(teacher: Any, rows: Dataset, collate: Any, prefix: str = "") -> dict[str, Tensor]:
    """What `RememberedClasses` is made from, fp32 on the CPU: of all rows, in their order.

    `collate` makes a batch of rows; the teacher's own columns begin with `prefix`.
    """
    core = core_model(teacher)
    every = list(range(len(blocks_of(core))))
    lengths = [len(ids) for ids in rows[prefix + "input_ids"][:]]
    order = sorted(range(len(rows)), key=lambda number: lengths[number])
    made: dict[str, Tensor] = {}
    names = ("input_ids", "attention_mask", "token_type_ids")
    mode = core.training
    core.eval()
    try:
        for start in range(0, len(order), TEXTS):
            places = order[start : start + TEXTS]
            batch = collate([rows[place] for place in places])
            inputs = {name: batch[prefix + name].to(core.device) for name in names if prefix + name in batch}
            where = torch.ones(len(places), dtype=torch.bool, device=core.device)
            states, blocks = classifier_states(core, inputs, where, every)
            found = {STATES: states} | {BLOCK.format(block): states for block, states in blocks.items()}
            for name, part in found.items():
                whole = made.setdefault(name, torch.empty(len(rows), part.shape[1], dtype=torch.float32))
                whole[torch.tensor(places)] = part.float().cpu()
    finally:
        core.train(mode)
    return made
