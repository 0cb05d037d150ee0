"""What a paper claims: claims.yaml read strictly. Judging is in judge.py; both are re-exported here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest, read_yaml_with_lines
from reproductions.engine.errors import KDError
from reproductions.engine.experiment import Experiment, load_experiment


@dataclass(frozen=True)
class Source:
    """Where in which version of the paper something stands; `version` is None where that was not seen."""

    arxiv: str
    version: int | None
    where: str

    @property
    def label(self) -> str:
        """The identifier as arXiv writes it, e.g. "2306.08543v5"."""
        return self.arxiv if self.version is None else f"{self.arxiv}v{self.version}"


@dataclass(frozen=True)
class Claim:
    """An ordering between two arms on a metric: `better` beats `worse` by more than `margin`."""

    id: str
    statement: str
    source: Source
    metric: str
    better: str
    worse: str
    margin: float
    scales: tuple[str, ...]
    paper_numbers: Mapping[str, Any] | None


@dataclass(frozen=True)
class Value:
    """A number in a table of the paper; asserted at scale `paper`, and only if somebody saw it (`verified`)."""

    id: str
    arm: str
    metric: str
    value: float
    tolerance: float
    source: Source
    verified: bool


@dataclass(frozen=True)
class Finding:
    """The best explanation of a claim that did not hold at a scale, written after the run."""

    claim: str
    scale: str
    explanation: str


@dataclass(frozen=True)
class ClaimSet:
    """All of a claims.yaml."""

    path: Path
    claims: tuple[Claim, ...]
    values: tuple[Value, ...]
    findings: tuple[Finding, ...]

    def at(self, scale: str) -> tuple[Claim, ...]:
        """The claims that are judged at a scale."""
        return tuple(claim for claim in self.claims if scale in claim.scales)

    def paper_number(self, arm: str, metric: str) -> float | None:
        """The paper's own figure for an arm and metric, as seen in a table; a claim may quote another metric."""
        for value in self.values:
            if value.verified and (value.arm, value.metric) == (arm, metric):
                return value.value
        return None

    def explanation(self, claim: str, scale: str) -> str:
        """The finding written for a claim at a scale, or ''."""
        texts = [item.explanation for item in self.findings if (item.claim, item.scale) == (claim, scale)]
        return texts[0] if texts else ""


def load_claims(path: Path, experiment: Experiment | None = None) -> ClaimSet:
    """The claims of a paper. Raises KDError (or CatalogError) with file, line and the nearest valid name.

    Arms, scales and metrics are those of the experiment beside the file.
    """
    path = Path(path)
    data, lines = read_yaml_with_lines(path)
    if experiment is None:
        experiment = load_experiment(path.parent.name.replace("_", "-"), path.parent.parent)
    reader = _Reader(path, lines, experiment)
    return reader.read(data)


class _Reader:
    """Checks each field of one file against what the experiment declares."""

    def __init__(self, path: Path, lines: Lines, experiment: Experiment) -> None:
        self.path, self.lines, self.experiment = path, lines, experiment
        self.metrics = (*experiment.headline, *experiment.metrics)

    def read(self, data: Mapping[str, Any]) -> ClaimSet:
        self.fields(data, (), {"claims"}, {"values", "findings"})
        claims = tuple(self.claim(item, ("claims", place)) for place, item in self.items(data, "claims"))
        values = tuple(self.value(item, ("values", place)) for place, item in self.items(data, "values"))
        self.unique([claim.id for claim in claims], "claims")
        self.unique([value.id for value in values], "values")
        identifiers = [claim.id for claim in claims]
        findings = tuple(
            self.finding(item, ("findings", place), identifiers)
            for place, item in self.items(data, "findings")
        )
        return ClaimSet(self.path, claims, values, findings)

    def claim(self, item: Any, where: tuple[str | int, ...]) -> Claim:
        required = {"id", "statement", "source", "metric", "better", "worse", "margin", "scales"}
        self.fields(item, where, required, {"paper_numbers"})
        better = self.known(item, where, "better", self.experiment.arms, "arm")
        worse = self.known(item, where, "worse", self.experiment.arms, "arm")
        if better == worse:
            raise self.error(f'"better" and "worse" are both {better}', *where, "worse")
        scales = item["scales"]
        if not isinstance(scales, list) or not scales:
            raise self.error('"scales" must be a list that is not empty', *where, "scales")
        for place, scale in enumerate(scales):
            self.one_of(scale, (*where, "scales", place), self.experiment.scales, "scale")
        return Claim(
            id=self.text(item, where, "id"),
            statement=self.text(item, where, "statement"),
            source=self.source(item["source"], (*where, "source"), {"where"}),
            metric=self.known(item, where, "metric", self.metrics, "metric"),
            better=better,
            worse=worse,
            margin=self.number(item, where, "margin", least=0.0),
            scales=tuple(scales),
            paper_numbers=self.paper_numbers(item.get("paper_numbers"), (*where, "paper_numbers")),
        )

    def value(self, item: Any, where: tuple[str | int, ...]) -> Value:
        self.fields(item, where, {"id", "arm", "metric", "value", "tolerance", "source", "verified"}, set())
        if not isinstance(item["verified"], bool):
            raise self.error('"verified" must be true or false', *where, "verified")
        return Value(
            id=self.text(item, where, "id"),
            arm=self.known(item, where, "arm", self.experiment.arms, "arm"),
            metric=self.known(item, where, "metric", self.metrics, "metric"),
            value=self.number(item, where, "value"),
            tolerance=self.number(item, where, "tolerance", least=0.0),
            source=self.source(item["source"], (*where, "source"), {"table", "row", "column"}),
            verified=item["verified"],
        )

    def finding(self, item: Any, where: tuple[str | int, ...], claims: Collection[str]) -> Finding:
        self.fields(item, where, {"claim", "scale", "explanation"}, set())
        return Finding(
            claim=self.known(item, where, "claim", claims, "claim"),
            scale=self.known(item, where, "scale", self.experiment.scales, "scale"),
            explanation=self.text(item, where, "explanation"),
        )

    def source(self, item: Any, where: tuple[str | int, ...], places: set[str]) -> Source:
        self.fields(item, where, {"arxiv", *places}, {"version"})
        version = item.get("version")
        if version is not None and (type(version) is not int or version < 1):
            raise self.error('"version" must be a whole number of 1 or more', *where, "version")
        if places == {"where"}:
            place = self.text(item, where, "where")
        else:
            table, row, column = (str(item[name]) for name in ("table", "row", "column"))
            place = f"Table {table}, {row}, {column}"
        return Source(self.text(item, where, "arxiv"), version, place)

    def paper_numbers(self, item: Any, where: tuple[str | int, ...]) -> dict[str, Any] | None:
        if item is None:
            return None
        self.fields(item, where, set(), {"better", "worse", "setting"})
        for side in ("better", "worse"):
            if side in item:
                self.number(item, where, side)
        return dict(item)

    def items(self, data: Mapping[str, Any], name: str) -> list[tuple[int, Any]]:
        found = data.get(name)
        if found is None:
            found = []
        if not isinstance(found, list):
            raise self.error(f'"{name}" must be a list', name)
        return list(enumerate(found))

    def fields(self, item: Any, where: tuple[str | int, ...], required: set[str], optional: set[str]) -> None:
        if not isinstance(item, dict):
            raise self.error('must be a mapping: lines of "name: value"', *where)
        for name in item:
            if name not in required | optional:
                raise self.error(
                    f'unknown field "{name}"{nearest(name, sorted(required | optional))}', *where, name
                )
        for name in sorted(required):
            if name not in item:
                raise self.error(f'"{name}" is missing', *where)

    def text(self, item: Mapping[str, Any], where: tuple[str | int, ...], name: str) -> str:
        if not isinstance(item[name], str) or not item[name].strip():
            raise self.error(f'"{name}" must be text (numbers in quotes)', *where, name)
        return item[name].strip()

    def number(
        self, item: Mapping[str, Any], where: tuple[str | int, ...], name: str, least: float | None = None
    ) -> float:
        found = item[name]
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self.error(f'"{name}" must be a number', *where, name)
        if least is not None and found < least:
            raise self.error(f'"{name}" must be {least:g} or more', *where, name)
        return float(found)

    def known(
        self,
        item: Mapping[str, Any],
        where: tuple[str | int, ...],
        name: str,
        names: Collection[str],
        what: str,
    ) -> str:
        return self.one_of(item[name], (*where, name), names, what)

    def one_of(self, name: Any, where: tuple[str | int, ...], names: Collection[str], what: str) -> str:
        if not isinstance(name, str) or name not in names:
            raise self.error(
                f'unknown {what} "{name}"{nearest(str(name), names)}; known: {", ".join(names)}', *where
            )
        return name

    def unique(self, identifiers: list[str], section: str) -> None:
        for place, identifier in enumerate(identifiers):
            if identifier in identifiers[:place]:
                raise self.error(f'id "{identifier}" stands twice', section, place, "id")

    def error(self, message: str, *where: str | int) -> KDError:
        return KDError(str(self.lines.error(message, *where)))


from reproductions.engine.judge import Judgement, judge  # noqa: E402, F401 - judge.py reads ClaimSet from here
