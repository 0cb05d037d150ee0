"""The rows of an export: each joins what its columns read; `file` is the file of the repository that it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from catalog.schema import AXES, Paper
from reproductions.engine.atlas.record import FILE as RECORD
from reproductions.engine.atlas.record import Cell, Row, Table
from reproductions.engine.show.view import (
    ArmRow,
    AttemptRow,
    ClaimRow,
    Figure,
    FormerRow,
    Metric,
    Outcome,
    PaperView,
    ScaleRow,
)
from reproductions.engine.verdicts.words import NOT_RUN
from tools.pages.atlas import Atlas


@dataclass(frozen=True)
class PaperOf:
    """A record."""

    paper: Paper
    status: str

    @property
    def judged_labels(self) -> list[str]:
        """Those leaves that are our own reading."""
        return [
            f"{axis}:{leaf}"
            for axis in AXES
            for leaf, confidence in self.paper.taxonomy[axis].items()
            if confidence == "judged"
        ]

    @property
    def file(self) -> str:
        """Its record."""
        return f"catalog/papers/{self.paper.id}.yaml"


@dataclass(frozen=True)
class OfView:
    """What belongs to a reproduction."""

    view: PaperView
    ours: bool

    @property
    def paper(self) -> str:
        """The paper's id, or the question's name."""
        return self.view.paper

    @property
    def file(self) -> str:
        """Its committed verdicts."""
        return f"reproductions/verdicts/{self.paper}.json"


@dataclass(frozen=True)
class ClaimOf(OfView):
    """A claim with its outcome at a scale, None where nothing is recorded of it."""

    claim: ClaimRow
    outcome: Outcome | None
    q: float | None

    @property
    def verdict(self) -> str:
        """In a word."""
        return NOT_RUN if self.outcome is None else self.outcome.kind

    @property
    def told(self) -> str:
        """In full."""
        return NOT_RUN if self.outcome is None else self.outcome.told

    @property
    def metric(self) -> str:
        """That of the scale, where it has one of its own."""
        return (self.outcome and self.outcome.metric) or self.claim.metric

    @property
    def testbed(self) -> str | None:
        """The outcome's, or the one of its scale."""
        if self.outcome is None:
            return None
        return self.outcome.testbed or next(
            scale.testbed for scale in self.view.scales if scale.name == self.outcome.scale
        )

    @property
    def stands_in(self) -> str | None:
        """What plays the teacher there."""
        return None if self.outcome is None else self.view.stands_in(self.outcome.scale)

    @property
    def made(self) -> str | None:
        """How the figures came about."""
        scale = None if self.outcome is None else self.outcome.scale
        return next((row.made for row in self.view.scales if row.name == scale), None)

    @property
    def attempt(self) -> int:
        """Which configuration of the experiment this is."""
        return self.view.attempt[0]


@dataclass(frozen=True)
class ArmOf(OfView):
    """An arm on a metric."""

    scale: ScaleRow
    arm: ArmRow
    metric: Metric
    figure: Figure

    @property
    def file(self) -> str:
        """Its raw figures."""
        return f"reproductions/results/{self.scale.testbed}/{self.arm.key}.json"


@dataclass(frozen=True)
class LeagueOf:
    """An arm of a league on a metric."""

    table: Table
    row: Row
    cell: Cell
    file: str = RECORD


@dataclass(frozen=True)
class FormerOf(OfView):
    """A claim of an earlier attempt."""

    attempt: AttemptRow
    former: FormerRow

    @property
    def file(self) -> str:
        """Where it is frozen."""
        return f"reproductions/attempts/{self.paper}.{self.attempt.number}.json"


def records(atlas: Atlas) -> Iterator[PaperOf]:
    """Every paper, by id."""
    for name in sorted(atlas.catalog.papers):
        paper = atlas.catalog.papers[name]
        yield PaperOf(paper, atlas.status(paper))


def views(atlas: Atlas) -> Iterator[OfView]:
    """Papers that can be run here, then the questions of our own, by name."""
    for name in sorted(atlas.views):
        yield OfView(atlas.views[name], ours=False)
    for name in sorted(atlas.questions):
        yield OfView(atlas.questions[name].view, ours=True)


def claims(atlas: Atlas) -> Iterator[ClaimOf]:
    """Every claim at every scale with results."""
    for one in views(atlas):
        for claim in one.view.claims:
            for outcome in claim.outcomes or (None,):
                evidence = None if outcome is None or one.ours else atlas.evidence.get(outcome.scale)
                q = None if evidence is None else evidence.q.get((one.paper, claim.id))
                yield ClaimOf(one.view, one.ours, claim, outcome, q)


def arms(atlas: Atlas) -> Iterator[ArmOf]:
    """Every recorded arm on every metric that it has."""
    for one in views(atlas):
        for scale in one.view.recorded:
            metrics = {metric.name: metric for metric in scale.metrics}
            for arm in scale.arms:
                for figure in arm.figures:
                    yield ArmOf(one.view, one.ours, scale, arm, metrics[figure.metric], figure)


def league(atlas: Atlas) -> Iterator[LeagueOf]:
    """Every figure of every league, in its order."""
    for table in atlas.record.tables if atlas.record else ():
        for row in table.rows:
            for cell in row.cells:
                yield LeagueOf(table, row, cell)


def attempts(atlas: Atlas) -> Iterator[FormerOf]:
    """Every claim of every earlier attempt."""
    for one in views(atlas):
        for attempt in one.view.attempts:
            for former in attempt.claims:
                yield FormerOf(one.view, one.ours, attempt, former)
