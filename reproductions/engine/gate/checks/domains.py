"""Domains of unequal difficulty, for claims about mixtures: is there more to be gained in one than in another?"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np

from reproductions.engine.gate.checks.base import (
    BASELINE,
    Declared,
    Plain,
    Source,
    check,
    gates_teacher,
    number,
    teacher_name,
)
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check
from reproductions.parts import PartError


@check("uneven-domains")
class UnevenDomains(Plain):
    """The baseline is further behind the gate's teacher in one domain than in another, by more than `points`.

    Domains are the column `domain` of the held-out rows. Of every two the gaps are compared, each at its share of the
    level (Bonferroni), on as many examples of one as of the other; one whole interval above `points` is enough.
    """

    def __init__(self, points: float = 5.0) -> None:
        self.points = number(points, "points")

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The teacher alone."""
        return gates_teacher(declared, "ahead of the baseline")

    def decide(self, measured: Measured) -> Check:
        """The widest difference between two domains' gaps, and the gaps."""
        teacher, domains = teacher_name(str(measured.teacher)), np.array(measured.domains())
        places = {str(name): np.flatnonzero(domains == name) for name in dict.fromkeys(domains)}
        pairs = list(combinations(places, 2))
        if not pairs:
            raise PartError("the held-out rows are of one domain: none is behind another")
        gaps = {name: measured.gap_on(teacher, BASELINE, where).difference for name, where in places.items()}
        level = 1 - (1 - measured.level) / len(pairs)
        best: tuple[float, str, dict[str, Any]] | None = None
        for one, other in pairs:
            wide, narrow = (one, other) if gaps[one] >= gaps[other] else (other, one)
            size = min(len(places[wide]), len(places[narrow]))
            found = measured.gap_on(teacher, BASELINE, places[wide][:size], places[narrow][:size])
            interval = found.interval(level)
            lowest = -np.inf if interval is None else interval[0]
            if best is None or lowest > best[0]:
                said = f"{wide} more than {narrow}: {found.difference:+.4g} {measured.bounds(interval)}"
                best = float(lowest), said, measured.figures(found)
        assert best is not None
        behind = ", ".join(f"{name} {measured.shown(gap)}" for name, gap in gaps.items())
        text = f"behind the teacher: {behind}; {best[1]}; needed: all of it above {self.points:g}"
        return Check("uneven-domains", best[0] > self.points, text, best[2])
