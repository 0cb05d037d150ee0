"""A file that people read: what was asked, what the student wrote, and each token's advantage.

One line of JSON for a completion: `step`, `place` in its generation batch, `group`, `rewards`, `prompt`, `tokens`
(pairs of text and advantage, null on what the student did not write). A training that went on from a checkpoint writes
some steps again; the last line of a step and place holds. Nothing here imports torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from methods.errors import MethodError

if TYPE_CHECKING:
    from torch import Tensor

    from methods.trainers.optimisation.record import Record

NAME = "replay.jsonl"
DIGITS = 4


class ReplayWriter:
    """Listens to a policy trainer and writes the first `completions` of about `batches` generation batches."""

    def __init__(self, path: Path, trainer: Any, *, batches: int = 20, completions: int = 16):
        self._path, self._trainer, self._most = path, trainer, completions
        self._every, self._next = max(1, trainer.args.max_steps // batches), 0

    def __call__(self, record: Record, advantages: Tensor) -> None:
        step = self._trainer.state.global_step
        if not self._trainer.is_world_process_zero() or step < self._next:
            return
        self._next = step + self._every
        decode = self._trainer.processing_class.decode
        lines = []
        for place in range(min(self._most, len(advantages))):
            there = record.rollouts.completion_mask[place].bool()
            ids = record.rollouts.completion_ids[place][there].tolist()
            own = record.mask[place][there].tolist()
            figures = advantages[place][there].tolist()
            rewards = record.rewards[place].tolist()
            line = {
                "step": step,
                "place": place,
                "group": int(record.group[place]),
                "rewards": [None if figure != figure else round(figure, DIGITS) for figure in rewards],
                "given": record.given is not None and bool(record.given[place]),
                "prompt": record.columns["prompt"][place] if "prompt" in record.columns else "",
                "tokens": [
                    [decode([token]), round(figure, DIGITS) if wrote else None]
                    for token, figure, wrote in zip(ids, figures, own, strict=True)
                ],
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
        with self._path.open("a", encoding="utf-8") as file:
            file.writelines(lines)


def read_replay(path: Path) -> list[dict[str, Any]]:
    """The completions of a replay file by step and place. Raises MethodError for a file that is none."""
    found: dict[tuple[int, int], dict[str, Any]] = {}
    lines = (
        path.read_bytes().removesuffix(b"\n").split(b"\n")
    )  # no other mark ends a line: an answer may hold one
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            found[int(line["step"]), int(line["place"])] = line
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines):  # cut off while it was written
                break
            raise MethodError(f"{path}:{number}: no line of a replay file") from None
    return [found[key] for key in sorted(found)]
