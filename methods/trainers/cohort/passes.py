"""Passes of a stack over the members' batches: a few rows of like length at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from methods.trainers.cohort.stack import StackedModel

# That a pass has at a time, over all models of a stack: what it makes of them stays in the processor's cache, and rows
# that are sorted by their length are padded to that of their pass alone. Fewer cost more calls than they save.
TOKENS = 1200


def right_padded(batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """A batch whose rows begin at the left: a policy trainer's prompts end where its completions begin."""
    attended = batch["attention_mask"]
    begins = attended.argmax(1, keepdim=True)
    if not begins.any():
        return batch
    width = attended.shape[1]
    places = torch.arange(width, device=attended.device) + begins
    outside, places = places >= width, places.clamp(max=width - 1)
    return {
        "input_ids": batch["input_ids"].gather(1, places),
        "labels": batch["labels"].gather(1, places).masked_fill(outside, -100),
        "attention_mask": attended.gather(1, places).masked_fill(outside, 0),
    }


class Where:
    """The members' batches as one rectangle (S, B, L) of right-padded ids, and where their completion tokens are."""

    def __init__(self, batches: Sequence[Mapping[str, Tensor]]):
        rows = max(len(batch["input_ids"]) for batch in batches)
        length = max(batch["input_ids"].shape[1] for batch in batches)
        first = batches[0]["input_ids"]
        self.ids = first.new_zeros(len(batches), rows, length)
        self._inside = torch.zeros(len(batches), rows, length, dtype=torch.bool, device=first.device)
        self._lengths = first.new_zeros(len(batches), rows)
        for place, batch in enumerate(map(right_padded, batches)):
            size, width = batch["input_ids"].shape
            self.ids[place, :size, :width] = batch["input_ids"]
            self._inside[place, :size, : width - 1] = batch["labels"][:, 1:] != -100
            self._lengths[place, :size] = batch["attention_mask"].sum(1)
        self._counts: list[int] = self._inside.flatten(1).sum(1).tolist()

    def split(self, taken: Tensor) -> list[Tensor]:
        """Each member's (n, H) of (N, H)."""
        return list(taken.split(self._counts))

    def states(self, stacked: StackedModel, blocks: Sequence[int] = ()) -> tuple[Tensor, dict[int, Tensor]]:
        """Last hidden states (N, H) at the completion tokens, member after member, and outputs of blocks there.

        A stack of one model reads the rows of all members.
        """
        whole = [self.ids, self._inside, self._lengths]
        ids, inside, lengths = (x if stacked.size > 1 else x.reshape(1, -1, *x.shape[2:]) for x in whole)
        # The number of each completion token, which says where a pass's states belong.
        numbers = (inside.view(-1).cumsum(0) - 1).view(inside.shape)
        order = lengths.argsort(dim=1, descending=True)
        longest = lengths.gather(1, order).amax(0).tolist()
        weights = stacked.all_weights()
        parts, belong = [], []
        found: dict[int, list[Tensor]] = {block: [] for block in blocks}
        begin, room = 0, TOKENS // stacked.size
        while begin < len(longest):
            width = max(1, longest[begin])
            rows = order[:, begin : begin + max(1, room // width)]
            begin += rows.shape[1]
            cells = rows.unsqueeze(-1).expand(-1, -1, ids.shape[2])
            here = inside.gather(1, cells)[:, :, :width].flatten(1)
            # Models with fewer completion tokens get others, which nobody reads.
            most = max(1, int(here.sum(1).max()))
            tokens = here.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
            kept = here.gather(1, tokens)
            hidden, outputs = stacked(ids.gather(1, cells)[:, :, :width], tokens, blocks, weights)
            parts.append(hidden[kept])
            belong.append(numbers.gather(1, cells)[:, :, :width].flatten(1).gather(1, tokens)[kept])
            for block, states in outputs.items():
                found[block].append(states[kept])
        back = torch.cat(belong).argsort()
        return torch.cat(parts).index_select(0, back), {
            block: torch.cat(states).index_select(0, back) for block, states in found.items()
        }
