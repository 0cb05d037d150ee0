"""What deciding asks of a testbed's gate: whether it passed, which properties it shows, and the figures it measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from reproductions.engine.verdicts import words

UNGATED = ("paper",)  # there the testbed is the paper's own task
IMPLIED = "headroom"  # every claim needs a testbed on which there is something to gain


class Gate(Protocol):
    """A gate's record.

    `covers`: properties that its checks showed. `figures`: metric -> {"baseline": mean, "teacher": mean}.
    """

    @property
    def passed(self) -> bool: ...

    @property
    def covers(self) -> frozenset[str]: ...

    @property
    def figures(self) -> Mapping[str, Mapping[str, float]]: ...


def lacks(gate: Gate | None, scale: str, needs: tuple[str, ...]) -> str:
    """The verdict of a claim that cannot be judged at a scale ("needs a gate", "needs long answers"), else ''."""
    if scale in UNGATED:
        return ""
    if gate is None or not gate.passed:
        return words.NEEDS_A_GATE
    missing = tuple(name for name in dict.fromkeys((IMPLIED, *needs)) if name not in gate.covers)
    return words.lacking(missing) if missing else ""
