"""What the rows themselves show: long answers, several right ones, every step many times. No model is asked."""

from __future__ import annotations

from statistics import fmean

from reproductions.engine.gate.checks.base import Plain, check, number
from reproductions.engine.gate.measured import Measured
from reproductions.engine.gate.record import Check
from reproductions.parts import PartError


@check("long-answers")
class LongAnswers(Plain):
    """The held-out references have `tokens` or more in the mean, in the students' tokens, EOS not counted."""

    def __init__(self, tokens: float) -> None:
        self.tokens = number(tokens, "tokens", least=1.0)

    def decide(self, measured: Measured) -> Check:
        """The mean over the test rows."""
        found = fmean(measured.answer_tokens())
        said = f"references of {found:.1f} tokens in the mean; needed: {self.tokens:g} or more"
        return Check("long-answers", found >= self.tokens, said, {"tokens": round(found, 3)})


@check("several-modes")
class SeveralModes(Plain):
    """Held-out rows have several right answers: `references` in the mean, `share` of the rows two or more."""

    def __init__(self, references: float | None = None, share: float | None = None) -> None:
        if references is None and share is None:
            raise PartError('several-modes needs "references", "share" or both')
        self.references = None if references is None else number(references, "references", least=1.0)
        self.share = None if share is None else number(share, "share")
        if self.share is not None and self.share > 1:
            raise PartError('"share" is at most 1', "share")

    def decide(self, measured: Measured) -> Check:
        """Distinct right answers a row, as the task knows them."""
        counts = measured.right_answers()
        mean, share = fmean(counts), fmean(count >= 2 for count in counts)
        wanted = [(self.references, mean, "{:g} answers"), (self.share, share, "a share of {:g}")]
        asked = [(least, found, text) for least, found, text in wanted if least is not None]
        said = (
            f"{mean:.2f} right answers a row, {100 * share:.1f} % of the rows have two or more; needed: "
            + " and ".join(text.format(least) for least, _, text in asked)
        )
        passed = all(found >= least for least, found, _ in asked)
        return Check("several-modes", passed, said, {"references": round(mean, 4), "share": round(share, 4)})


@check("steps-covered")
class StepsCovered(Plain):
    """Of all steps that there can be, the demonstrations hold a `share` so many `times` or more each.

    The task says what a step is: what is done next, and all on which it depends.
    """

    def __init__(self, times: int, share: float) -> None:
        self.times, self.share = number(times, "times", least=1.0), number(share, "share")
        if self.share > 1:
            raise PartError('"share" is at most 1', "share")

    def decide(self, measured: Measured) -> Check:
        """Over all steps, and all draws of the task."""
        counts = measured.step_counts()
        found, least = fmean(count >= self.times for count in counts), min(counts)
        said = (
            f"{len(counts)} steps, in the demonstrations {fmean(counts):.1f} times in the mean and {least} at least; "
            f"{100 * found:.1f} % of them {self.times:g} times or more; needed: a share of {self.share:g}"
        )
        figures = {"share": round(found, 4), "mean": round(fmean(counts), 3), "least": least}
        return Check("steps-covered", found >= self.share, said, figures)
