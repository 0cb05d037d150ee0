"""What the seeds of a contrast have in common: a draw of a teacher, a draw of the task. No torch here.

Of a teacher or a task with n draws the run of seed s has draw s mod n. Seeds with the same draws are one group: the
truth that a verdict is about is the mean over draws. Seeds with other draws of the task answer other examples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Units:
    """`groups`: for each seed whose draws it has, itself where there is one draw of everything; see `estimate`."""

    groups: tuple[Hashable, ...]
    own_examples: bool

    def first(self, seeds: int) -> Units:
        """Those of the first so many seeds."""
        return Units(self.groups[:seeds], self.own_examples)

    @property
    def shared(self) -> int:
        """How many groups there are, 0 where each seed stands for itself or all of them share one draw."""
        count = len(set(self.groups))
        return count if 1 < count < len(self.groups) else 0


def units_of(specs: Iterable[Mapping[str, Any]], seeds: Sequence[int]) -> Units:
    """Those of the arms with these specs."""
    beds = [bed for spec in specs if isinstance(bed := spec.get("testbed"), Mapping)]
    of_task = {int(bed["draws"]) for bed in beds if "draws" in bed}
    teachers = [
        tree for bed in beds for tree in bed.get("teachers", {}).values() if isinstance(tree, Mapping)
    ]
    counts = sorted(of_task | {int(tree["draws"]) for tree in teachers if tree.get("draws", 1) > 1})
    groups = tuple(tuple(seed % count for count in counts) or seed for seed in seeds)
    return Units(groups, bool(of_task) and len(set(groups)) > 1)
