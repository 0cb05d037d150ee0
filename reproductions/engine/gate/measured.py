"""What the runs of a gate measured, as checks ask for it: contrasts with their intervals, figures in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import significant
from reproductions.engine.metrics import Metric
from reproductions.engine.verdicts.statistics import Estimate, estimate
from reproductions.engine.verdicts.units import units_of

if TYPE_CHECKING:
    from reproductions.engine.metrics import Array
    from reproductions.testbeds import Testbed

Places = Any  # numbers of examples, an integer array
LEVEL = 0.95  # a gate looks once
DIGITS = 6
Outcome = tuple[bool, str, dict[str, Any]]  # passed, in words, the figures


@dataclass(frozen=True)
class Measured:
    """The gate's metric, `name`, on every arm, and others on some.

    `arms`: per-example features, (seeds, examples, F); `specs`: what each arm computes; `seeds`: of each arm. `load`
    loads the testbed, which only checks of the data need. `others`: by name the further metrics of the baseline and the
    teacher, each with its features by arm.
    """

    metric: Metric
    smallest: float
    teacher: str | None
    arms: Mapping[str, Array]
    seeds: Mapping[str, Sequence[int]]
    specs: Mapping[str, Mapping[str, Any]]
    load: Any = None
    level: float = LEVEL
    name: str = ""
    others: Mapping[str, tuple[Metric, Mapping[str, Array]]] = field(default_factory=dict)

    def contrast(self, better: str, worse: str) -> Estimate:
        """better - worse, turned so that + is the metric's better side; seed k of one beside seed k of the other."""
        return self._estimate((better, worse), (1.0, -1.0), self.metric.higher_is_better)

    def level_of(self, arm: str, metric: str | None = None) -> Estimate:
        """An arm's own figure on the gate's metric or another one, no sign turned."""
        kind, table = self._table(metric or self.name)
        return self._estimate((arm,), (1.0,), True, kind.kind, [table[arm]])

    def gap(self, one: str, other: str, arm: str) -> Estimate:
        """One metric minus another of the same arm, no sign turned. Raises KDError where they are no means."""
        tables = [self._table(name) for name in (one, other)]
        for name, (metric, _) in zip((one, other), tables, strict=True):
            if metric.kind != "mean":
                raise KDError(f"{name} is a {metric.kind} over examples: only means have a gap here")
        arrays = [table[arm] for _, table in tables]
        return self._estimate((arm,), (1.0, -1.0), True, "mean", arrays)

    def gap_on(self, better: str, worse: str, rows: Places, less: Places | None = None) -> Estimate:
        """better - worse, as in `contrast`, on these examples; minus the same on `less`, as many others, if given.

        Raises KDError for a metric that is no mean.
        """
        if self.metric.kind != "mean":
            raise KDError(
                f"{self.name} is a {self.metric.kind} over examples: only means have gaps by domain"
            )
        parts = [rows] if less is None else [rows, less]
        weights = (1.0, -1.0, -1.0, 1.0)[: 2 * len(parts)]
        arrays = [self.arms[arm][:, part] for part in parts for arm in (better, worse)]
        return self._estimate((better, worse), weights, self.metric.higher_is_better, "mean", arrays)

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
        return [
            len(ids)
            for bed in self._beds()
            for ids in bed.tokenizer(list(bed.test["completion"]), add_special_tokens=False)["input_ids"]
        ]

    def right_answers(self) -> list[int]:
        """How many different right answers the task knows to each held-out row."""
        from reproductions.tasks.scores import answers_of

        rows = (row for bed in self._beds() for row in bed.task.references("test"))
        return [len(set(map(str, answers_of(row)))) for row in rows]

    def step_counts(self) -> list[int]:
        """How often the demonstrations hold each step that there can be. Raises KDError where the task has no steps."""
        return [count for bed in self._beds() for count in bed.task.step_counts()]

    def domains(self) -> list[str]:
        """The domain of every held-out row. Raises KDError where rows have none, or each draw of the task its own."""
        bed, *others = self._beds()
        if others:
            raise KDError(
                f"the rows of {self.load().name} are others in each draw: they have no gaps by domain"
            )
        if "domain" not in bed.test.column_names:
            raise KDError(f"the rows of {bed.name} say nothing of domains")
        return list(bed.test["domain"])

    def _beds(self) -> list[Testbed]:
        """The testbed, once for each draw of its task that the gate's seeds have."""
        if self.load is None:
            raise KDError("the gate's testbed is not at hand")
        whole = self.load()
        seeds = sorted({seed for own in self.seeds.values() for seed in own})
        return list(dict.fromkeys(whole.at(seed) for seed in seeds))

    def _table(self, metric: str) -> tuple[Metric, Mapping[str, Array]]:
        """A metric and its features by arm. Raises KDError with the nearest one that was measured."""
        if metric == self.name:
            return self.metric, self.arms
        if metric not in self.others:
            raise KDError(f'the gate measured no "{metric}"{nearest(metric, self.others)}')
        return self.others[metric]

    def _estimate(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        higher: bool,
        kind: str | None = None,
        arrays: Sequence[Array] | None = None,
    ) -> Estimate:
        """Of the arms' features on the gate's metric, or of `arrays` of a kind."""
        units = units_of([self.specs.get(name, {}) for name in names], self.seeds[names[0]])
        return estimate(
            kind or self.metric.kind,
            [self.arms[name] for name in names] if arrays is None else arrays,
            weights,
            higher_is_better=higher,
            groups=units.groups,
            own_examples=units.own_examples,
        )
