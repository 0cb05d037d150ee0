"""Do errors compound, and can they be repaired? Asked of the baseline alone: no way of training is to win here."""

from __future__ import annotations

from reproductions.engine.gate.checks.base import BASELINE, Plain, check, number
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check


@check("forced-above-free")
class ForcedAboveFree(Plain):
    """The baseline is right far more often a step on given prefixes than in whole answers of its own.

    `forced` is a metric of steps on the data's prefixes, `free` one of whole answers (the gate's where none is named);
    both are means. The whole interval of forced minus free lies above `points`.
    """

    def __init__(self, forced: str = "token_accuracy", free: str | None = None, points: float = 20.0) -> None:
        self.forced, self.free, self.points = forced, free, number(points, "points")

    def decide(self, measured: Measured) -> Check:
        """The gap between two metrics of one arm, seed by seed."""
        free = self.free or measured.name
        found = measured.gap(self.forced, free, BASELINE)
        interval = found.interval(measured.level)
        levels = [
            measured.shown(measured.level_of(BASELINE, metric).difference) for metric in (self.forced, free)
        ]
        said = (
            f"{self.forced} {levels[0]}, {free} {levels[1]}: gap {found.difference:+.4g} "
            f"{measured.bounds(interval)}; needed: all of it above {self.points:g}"
        )
        passed = interval is not None and interval[0] > self.points
        return Check("forced-above-free", passed, said, measured.figures(found))


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
