"""What the runs of a gate measured, as checks ask for it: contrasts with their intervals, figures in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import significant
from reproductions.engine.metrics import Metric
from reproductions.engine.verdicts.statistics import Estimate, estimate

if TYPE_CHECKING:
    from reproductions.engine.metrics import Array
    from reproductions.testbeds import Testbed

LEVEL = 0.95  # a gate looks once
DIGITS = 6
Outcome = tuple[bool, str, dict[str, Any]]  # passed, in words, the figures


@dataclass(frozen=True)
class Measured:
    """The gate's metric on every arm.

    `arms`: per-example features, (seeds, examples, F); `draws`: of an arm's teacher, 1 where there is one teacher for
    all seeds; `seeds`: of each arm. `bed` loads the testbed, which only checks of the data need.
    """

    metric: Metric
    smallest: float
    teacher: str | None
    arms: Mapping[str, Array]
    seeds: Mapping[str, Sequence[int]]
    draws: Mapping[str, int]
    load: Any = None
    level: float = LEVEL

    def contrast(self, better: str, worse: str) -> Estimate:
        """better - worse, turned so that + is the metric's better side; seed k of one beside seed k of the other."""
        return self._estimate((better, worse), (1.0, -1.0), self.metric.higher_is_better)

    def level_of(self, arm: str) -> Estimate:
        """An arm's own figure, no sign turned."""
        return self._estimate((arm,), (1.0,), True)

    def above(self, better: str, worse: str, points: float) -> Outcome:
        """Whether one arm beats another by more than `points`, with the whole interval."""
        found = self.contrast(better, worse)
        interval = found.interval(self.level)
        said = f"difference {found.difference:+.4g} {self.bounds(interval)}"
        return interval is not None and interval[0] > points, said, self.figures(found)

    def inside(self, one: str, other: str) -> Outcome:
        """Whether two arms differ by less than the smallest effect, with the whole interval."""
        found = self.contrast(one, other)
        interval = found.interval(self.level)
        passed = interval is not None and -self.smallest < interval[0] and interval[1] < self.smallest
        said = (
            f"difference {found.difference:+.4g} {self.bounds(interval)}; "
            f"needed: all of it within {self.shown(self.smallest)}"
        )
        return passed, said, self.figures(found)

    def figures(self, found: Estimate) -> dict[str, Any]:
        """An estimate as plain data, six digits."""
        interval = found.interval(self.level)
        return {
            "difference": significant(found.difference, DIGITS),
            "standard_error": None
            if found.standard_error is None
            else significant(found.standard_error, DIGITS),
            "degrees": None if found.degrees is None else significant(found.degrees, DIGITS),
            "interval": None if interval is None else [significant(end, DIGITS) for end in interval],
        }

    @staticmethod
    def shown(value: float | None) -> str:
        """A figure in a sentence."""
        return "-" if value is None else f"{value:.4g}"

    @staticmethod
    def bounds(interval: tuple[float, float] | None) -> str:
        """An interval in a sentence."""
        return "(one seed: no interval)" if interval is None else f"[{interval[0]:.4g}, {interval[1]:.4g}]"

    def answer_tokens(self) -> list[int]:
        """Tokens of every held-out reference, as the students read it, without EOS."""
        bed = self._bed()
        rows = list(bed.test["completion"])
        return [len(ids) for ids in bed.tokenizer(rows, add_special_tokens=False)["input_ids"]]

    def right_answers(self) -> list[int]:
        """How many different right answers the task knows to each held-out row."""
        from reproductions.tasks.scores import answers_of

        return [len(set(map(str, answers_of(row)))) for row in self._bed().task.references("test")]

    def _bed(self) -> Testbed:
        if self.load is None:
            raise KDError("the gate's testbed is not at hand")
        return self.load()

    def _estimate(self, names: Sequence[str], weights: Sequence[float], higher: bool) -> Estimate:
        most = max(self.draws.get(name, 1) for name in names)
        groups = [seed % most for seed in self.seeds[names[0]]] if most > 1 else None
        return estimate(
            self.metric.kind,
            [self.arms[name] for name in names],
            weights,
            higher_is_better=higher,
            groups=groups,
        )
