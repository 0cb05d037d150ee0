"""What a run has used: tokens, rollouts, seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError

_TOKENS = {"student": "student_tokens", "teacher": "teacher_tokens", "generated": "generated_tokens"}
_ROLLOUTS = {name: name for name in ("completions", "truncated", "empty")}
# Of sampled tokens, where a sampler lets the teacher write; an arm of another sampler has no such count.
_WRITTEN = {"tokens_by_teacher": "tokens_by_teacher"}


@dataclass
class Budget:
    """Counts of one run, or of a shared artifact while it is made.

    Seconds are those of the clock on the wall, but training on one CPU thread counts that thread's own time, so that a
    busy machine does not change the comparison at equal seconds. `train_cpu_seconds` is processor time in any case.
    """

    student_tokens: int = 0
    teacher_tokens: int = 0
    generated_tokens: int = 0
    train_seconds: float = 0.0
    train_cpu_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    completions: int = 0
    truncated: int = 0
    empty: int = 0
    tokens_by_teacher: int = 0

    def as_dict(self) -> dict[str, float]:
        """Plain JSON data."""
        return {name: round(value, 4) for name, value in dataclasses.asdict(self).items()}

    def tokens(self) -> dict[str, int]:
        """Tokens by model."""
        return {name: getattr(self, field) for name, field in _TOKENS.items()}

    def rollouts(self) -> dict[str, int]:
        """What became of sampled completions, and how many of their tokens the teacher wrote, if any."""
        written = {name: getattr(self, name) for name in _WRITTEN if getattr(self, name)}
        return {name: getattr(self, name) for name in _ROLLOUTS} | written

    def add_tokens(self, counts: Mapping[str, int]) -> None:
        """Adds counts under the keys student, teacher, generated. Raises KDError on another key."""
        self._add(counts, _TOKENS)

    def add_rollouts(self, counts: Mapping[str, int]) -> None:
        """Adds counts: completions, truncated, empty, tokens_by_teacher. Raises KDError on another key."""
        self._add(counts, _ROLLOUTS | _WRITTEN)

    def add_report(self, report: Any) -> None:
        """Adds what a teacher's labelling cost (`methods.elicitation.labelling.LabellingReport`)."""
        self.add_tokens({"teacher": report.teacher_tokens, "generated": report.generated_tokens})
        self.add_rollouts({name: getattr(report, name) for name in _ROLLOUTS})

    def _add(self, counts: Mapping[str, int], fields: Mapping[str, str]) -> None:
        for name, count in counts.items():
            if name not in fields:
                raise KDError(
                    f'no budget is kept for "{name}"{nearest(name, fields)}; known: {", ".join(fields)}'
                )
            setattr(self, fields[name], getattr(self, fields[name]) + int(count))
