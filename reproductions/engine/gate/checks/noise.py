"""Is what differs told apart, and what does not differ not? Copies of one arm, more steps, and a difference by design.

A gate looks once, so its intervals are at 95 %. "No difference" is decided as for claims: the whole interval lies
inside +- the smallest effect. A copy whose interval lies there without zero in it passes too: seeds are fixed, and
one in twenty perfect testbeds would otherwise fail for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from reproductions.engine.gate.checks.base import (
    AGAIN,
    BASELINE,
    Contrast,
    Declared,
    Plain,
    Source,
    check,
    number,
)
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check
from reproductions.parts import PartError

DOUBLED = "baseline-doubled"
STEPS = ("max_steps", "num_train_epochs", "steps")  # what says how long an arm trains


@check("same-arm-twice")
class SameArmTwice(Plain):
    """The baseline with two sets of seeds: no difference, at the gate's smallest effect."""

    def decide(self, measured: Measured) -> Check:
        """Seeds of the two sets share nothing: pairing them is arbitrary and takes nothing away."""
        passed, said, figures = measured.inside(BASELINE, AGAIN)
        return Check("same-arm-twice", passed, f"the first seeds beside the second: {said}", figures)


@check("plateau")
class Plateau(Plain):
    """Twice the steps, at the same rate and from the same start, move the baseline by less than the smallest effect."""

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The baseline with its own training doubled; what it starts from stays."""
        own: Mapping[str, Any] = declared.baseline.get("training") or {}
        training = {**declared.testbed.get("defaults", {}).get("training", {}), **own}
        doubled = {name: 2 * training[name] for name in STEPS if name in training}
        if not doubled:
            raise PartError(f"nothing to double: the baseline's training says none of {', '.join(STEPS)}")
        return {DOUBLED: Source({**declared.baseline, "training": {**own, **doubled}}, ("baseline",))}

    def decide(self, measured: Measured) -> Check:
        """The doubled minus the plain baseline, seed by seed."""
        passed, said, figures = measured.inside(DOUBLED, BASELINE)
        return Check("plateau", passed, f"with twice the steps: {said}", figures)


class _ByConstruction(Plain):
    """Two arms one of which is better by construction: the difference is at least `times` its standard error.

    `because` says why it must be there.
    """

    name: ClassVar[str]

    def __init__(
        self, better: Mapping[str, Any], worse: Mapping[str, Any], because: str, times: float = 3.0
    ) -> None:
        for side, tree in (("better", better), ("worse", worse)):
            if not isinstance(tree, Mapping):
                raise PartError("an arm is a mapping: {method: sft}", side)
        if not isinstance(because, str) or not because.strip():
            raise PartError('"because" says in a sentence why the difference must exist', "because")
        self.better, self.worse = dict(better), dict(worse)
        self.times, self.because = number(times, "times", least=1.0), because.strip()

    def arms(self, declared: Declared) -> dict[str, Source]:
        """The two."""
        if self.better == self.worse:
            raise PartError("the two arms are one: nothing could differ", "worse")
        return {
            f"{self.name}-{side}": Source(tree, ("checks", self.name, side))
            for side, tree in (("better", self.better), ("worse", self.worse))
        }

    def decide(self, measured: Measured) -> Check:
        """The difference beside its standard error."""
        found = measured.contrast(f"{self.name}-better", f"{self.name}-worse")
        error = found.standard_error
        passed = error is not None and found.difference > 0 and found.difference >= self.times * error
        ratio = "" if not error else f", {found.difference / error:.3g} times as large"
        said = (
            f"difference {found.difference:+.4g}, standard error {measured.shown(error)}{ratio}; "
            f"needed: {self.times:g} times ({self.because})"
        )
        return Check(self.name, passed, said, measured.figures(found))


@check("must-exist")
class MustExist(_ByConstruction):
    """A contrast that exists by construction, such as right labels against permuted ones, is seen.

    `better` and `worse` are arms; the difference is at least `times` its standard error. No claim may weigh the two.
    """

    name = "must-exist"
    contrast: ClassVar[Contrast | None] = ("must-exist-better", "must-exist-worse")


@check("scarce-labels")
class ScarceLabels(_ByConstruction):
    """Labels are what lacks: an arm with more of them, or with a teacher's knowledge of more, is better.

    `better` and `worse` are arms; the difference is at least `times` its standard error. No claim may weigh the two.
    """

    name = "scarce-labels"
    contrast: ClassVar[Contrast | None] = ("scarce-labels-better", "scarce-labels-worse")
