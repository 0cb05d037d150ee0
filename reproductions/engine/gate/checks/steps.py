"""Do errors compound, can they be repaired, do samples vary? Asked of the baseline alone: no method is to win here."""

from __future__ import annotations

from typing import ClassVar

from reproductions.engine.gate.checks.base import (
    BASELINE,
    START,
    Declared,
    Plain,
    Source,
    check,
    number,
    start_arm,
)
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check


class _Gap(Plain):
    """One metric of an arm, the baseline, lies far above another: the whole interval of their gap above `points`."""

    name: ClassVar[str]
    arm: ClassVar[str] = BASELINE

    def __init__(self, high: str, low: str | None, points: float) -> None:
        self.high, self.low, self.points = high, low, number(points, "points")

    def decide(self, measured: Measured) -> Check:
        """The gap between two metrics of one arm, seed by seed."""
        low = self.low or measured.name
        found = measured.gap(self.high, low, self.arm)
        interval = found.interval(measured.level)
        levels = [
            measured.shown(measured.level_of(self.arm, metric).difference) for metric in (self.high, low)
        ]
        said = (
            f"{self.high} {levels[0]}, {low} {levels[1]}: gap {found.difference:+.4g} "
            f"{measured.bounds(interval)}; needed: all of it above {self.points:g}"
        )
        passed = interval is not None and interval[0] > self.points
        return Check(self.name, passed, said, measured.figures(found))


@check("forced-above-free")
class ForcedAboveFree(_Gap):
    """The baseline is right far more often a step on given prefixes than in whole answers of its own.

    `forced` is a metric of steps on the data's prefixes, `free` one of whole answers (the gate's where none is named);
    both are means. The whole interval of forced minus free lies above `points`.
    """

    name = "forced-above-free"

    def __init__(self, forced: str = "token_accuracy", free: str | None = None, points: float = 20.0) -> None:
        super().__init__(forced, free, points)


@check("samples-vary")
class SamplesVary(_Gap):
    """One of several samples of the baseline is right far more often than a single one: a reward can tell them apart.

    `several` is a metric of several samples, `single` one of a sample at the same temperature; both are means. The
    whole interval of several minus single lies above `points`.
    """

    name = "samples-vary"

    def __init__(self, several: str, single: str = "exact_match", points: float = 10.0) -> None:
        super().__init__(several, single, points)


@check("start-reads")
class StartReads(_Gap):
    """What the baseline starts from is right far more often where its prompt shows a solution: it can read one.

    `shown` is a metric of problems with a solution shown, `plain` one of the same problems without it; both are means.
    """

    name, arm, in_full = "start-reads", START, (START,)

    def __init__(self, shown: str, plain: str, points: float = 20.0) -> None:
        super().__init__(shown, plain, points)

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The start, as it is."""
        return start_arm()


@check("repairable")
class Repairable(Plain):
    """Most of the baseline's wrong answers would be right if somebody who knows the way went on from the first error.

    `metric` is the share of them in percent; the whole interval lies above `share`.
    """

    def __init__(self, metric: str = "repaired", share: float = 50.0) -> None:
        self.metric, self.share = metric, number(share, "share")

    def decide(self, measured: Measured) -> Check:
        """The baseline's figure."""
        found = measured.level_of(BASELINE, self.metric)
        interval = found.interval(measured.level)
        said = (
            f"{self.metric} {measured.shown(found.difference)} {measured.bounds(interval)}; "
            f"needed: all of it above {self.share:g}"
        )
        passed = interval is not None and interval[0] > self.share
        return Check("repairable", passed, said, measured.figures(found))


@check("errors-stay")
class ErrorsStay(Plain):
    """Hardly any of the baseline's wrong answers would be right if somebody who knows the way went on from the error.

    `metric` is the share of them in percent, as in `repairable`; the whole interval lies below `share`. It says nothing
    of a baseline without errors; so at least `wrong` percent of its answers must be wrong, by the gate's own metric, a
    share in percent of which more is better.
    """

    def __init__(self, metric: str = "repaired", share: float = 5.0, wrong: float = 10.0) -> None:
        self.metric, self.share, self.wrong = metric, number(share, "share"), number(wrong, "wrong")

    def decide(self, measured: Measured) -> Check:
        """The baseline's figure."""
        found, own = measured.level_of(BASELINE, self.metric), measured.level_of(BASELINE)
        interval, right = found.interval(measured.level), own.interval(measured.level)
        said = (
            f"{self.metric} {measured.shown(found.difference)} {measured.bounds(interval)}, of "
            f"{measured.shown(100 - own.difference)} % that are wrong; "
            f"needed: all of it below {self.share:g}, of {self.wrong:g} % or more"
        )
        passed = False  # also where a figure has no interval
        if interval is not None and right is not None:
            passed = interval[1] < self.share and right[1] <= 100 - self.wrong
        return Check("errors-stay", passed, said, measured.figures(found))
