"""What a paper claims, as data. Every claim is one contrast: a weighted sum of arms on one metric. No torch here.

Reading an experiment's sections is in reading.py; deciding what recorded figures say about them is in decide.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import digest

DIGEST_DIGITS = 12

Relation = Literal["greater", "within"]


@dataclass(frozen=True)
class Source:
    """Where in which version of the paper something stands; `version` is None where that was not seen.

    A question of the atlas' own has no paper: `arxiv` is empty, and `where` says what it comes from.
    """

    arxiv: str
    version: int | None
    where: str

    @property
    def label(self) -> str:
        """The identifier as arXiv writes it, e.g. "2306.08543v5"."""
        return self.arxiv if self.version is None else f"{self.arxiv}v{self.version}"

    @property
    def told(self) -> str:
        """All of it on one line."""
        return f"arXiv {self.label}, {self.where}" if self.arxiv else f"a question of our own: {self.where}"

    @property
    def url(self) -> str:
        """The paper's address, '' for a question of our own."""
        return f"https://arxiv.org/abs/{self.label}" if self.arxiv else ""


@dataclass(frozen=True)
class Contrast:
    """sum of weight x metric(arm), minus the number `against`, turned so that + is the better side of the metric.

    It is claimed to be greater than `bound`, or to lie within +-`bound` of zero. Arms at a point of the experiment's
    sweep are named "arm@point=value" (`name_at`).
    """

    weights: Mapping[str, float]
    relation: Relation
    bound: float
    against: float = 0.0

    @property
    def pair(self) -> tuple[str, str] | None:
        """(better, worse) where one arm stands against one other with equal weight, else None."""
        names, weights = list(self.weights), list(self.weights.values())
        return (names[0], names[1]) if weights == [1.0, -1.0] and self.against == 0 else None

    @property
    def formula(self) -> str:
        """The contrast on one line, e.g. "akl - sft > 0" or "|a - b| <= 1"."""
        total = " ".join(_signed(weight, name) for name, weight in self.weights.items())
        if self.against:
            total += f" {'-' if self.against > 0 else '+'} {abs(self.against):g}"
        total = total.removeprefix("+ ")
        return f"|{total}| <= {self.bound:g}" if self.relation == "within" else f"{total} > {self.bound:g}"


@dataclass(frozen=True)
class PaperNumbers:
    """What the paper reports for the arms of a claim, and in which setting it measured it."""

    numbers: Mapping[str, float]
    setting: str | None


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, as a contrast on one metric that is decided at some scales.

    `smallest_effect`: what size matters, in the metric's unit, None where the rule for all says it (effects.py).
    `needs`: properties that a testbed must have shown, beside headroom, before it may judge this. `metrics` and
    `needs_at`: by scale, where they are others: another testbed measures and shows other things.
    """

    id: str
    statement: str
    source: Source
    metric: str
    contrast: Contrast
    scales: tuple[str, ...]
    paper: PaperNumbers | None
    smallest_effect: float | None = None
    needs: tuple[str, ...] = ()
    metrics: Mapping[str, str] = field(default_factory=dict)
    needs_at: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def on(self, scale: str) -> Claim:
        """The claim with the metric and the needs that it has at a scale."""
        metric, needs = self.metrics.get(scale, self.metric), self.needs_at.get(scale, self.needs)
        return replace(self, metric=metric, needs=needs, metrics={}, needs_at={})

    @property
    def asserts(self) -> dict[str, Any]:
        """What is claimed, without prose and provenance: plain data that the digest is made of."""
        found = {
            "metric": self.metric,
            "weights": {name: float(weight) for name, weight in self.contrast.weights.items()},
            "relation": self.contrast.relation,
            "bound": float(self.contrast.bound),
            "against": float(self.contrast.against),
        }
        # Only where they are declared: a claim without them asserts what it did before there were any.
        if self.smallest_effect is not None:
            found["smallest_effect"] = float(self.smallest_effect)
        if self.needs:
            found["needs"] = sorted(self.needs)
        if self.metrics:
            found["metrics"] = dict(self.metrics)
        if self.needs_at:
            found["needs_at"] = {scale: sorted(names) for scale, names in sorted(self.needs_at.items())}
        return found


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
class ClaimSet:
    """All that an experiment claims. `findings`: claim -> scale -> the best explanation of what came out."""

    claims: tuple[Claim, ...]
    values: tuple[Value, ...]
    findings: Mapping[str, Mapping[str, str]]

    def at(self, scale: str) -> tuple[Claim, ...]:
        """The claims that are decided at a scale, each with its metric there."""
        return tuple(claim.on(scale) for claim in self.claims if scale in claim.scales)

    def claim(self, identifier: str) -> Claim:
        """The claim of that id. Raises KDError with the nearest one."""
        for claim in self.claims:
            if claim.id == identifier:
                return claim
        known = [claim.id for claim in self.claims]
        raise KDError(f'no claim "{identifier}"{nearest(identifier, known)}; there are {", ".join(known)}')

    def paper_number(self, arm: str, metric: str) -> float | None:
        """The paper's own figure for an arm and metric, as seen in a table; a claim may quote another metric."""
        for value in self.values:
            if value.verified and (value.arm, value.metric) == (arm, metric):
                return value.value
        return None

    def explanation(self, claim: str, scale: str) -> str:
        """The finding written for a claim at a scale, or ''."""
        return self.findings.get(claim, {}).get(scale, "")

    def digest(self, identifier: str | None = None) -> str:
        """12 hex digits over what a claim asserts, or over all claims and asserted values: not over any prose."""
        if identifier is not None:
            return digest(self.claim(identifier).asserts, DIGEST_DIGITS)
        values = [
            [value.id, value.arm, value.metric, value.value, value.tolerance]
            for value in self.values
            if value.verified
        ]
        return digest(
            {"claims": {claim.id: claim.asserts for claim in self.claims}, "values": sorted(values)},
            DIGEST_DIGITS,
        )

    def digests(self, scale: str, arm: str | None = None) -> dict[str, str]:
        """The digest of each claim at a scale, of those that weigh an arm if one is named.

        An arm's results keep this under `claims` from the first run made for a paper on (store/arm.py), so that
        a claim changed after its first figures were seen shows.
        """
        return {
            claim.id: digest(claim.asserts, DIGEST_DIGITS)
            for claim in self.at(scale)
            if arm is None or arm in claim.contrast.weights
        }

    def changed(self, scale: str, frozen: Mapping[str, str]) -> list[str]:
        """The ids of today's claims at a scale that asserted something else when their first run was made."""
        today = self.digests(scale)
        return [claim for claim, asserted in today.items() if frozen.get(claim, asserted) != asserted]


def name_at(arm: str, points: Mapping[str, Any]) -> str:
    """The name of an arm at points of the sweep, e.g. "labels@share=0.125"; the arm's own name at none."""
    if not points:
        return arm
    return f"{arm}@" + ",".join(f"{name}={point_text(value)}" for name, value in points.items())


def point_text(value: Any) -> str:
    """A point of a sweep as a claim writes it: 1 and 1.0 are one point."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def sentence(contrast: Contrast, titles: Mapping[str, str]) -> str:
    """What a contrast claims in plain words, for a claim that has none of its own."""
    named = [_titled(name, titles) for name in contrast.weights]
    by = f" by more than {contrast.bound:g}" if contrast.bound else ""
    if contrast.relation == "greater" and contrast.pair:
        return f"{named[0]} beats {named[1]}{by}."
    if contrast.relation == "within" and contrast.pair:
        return f"{named[0]} and {named[1]} differ by no more than {contrast.bound:g}."
    if list(contrast.weights.values()) == [1.0]:
        return f"{named[0]} is better than {contrast.against:g}{by}."
    titled = dict(zip(named, contrast.weights.values(), strict=True))
    return Contrast(titled, contrast.relation, contrast.bound, contrast.against).formula + "."


def _titled(name: str, titles: Mapping[str, str]) -> str:
    if name in titles:
        return titles[name]
    arm, _, points = name.partition("@")
    return titles[arm] + (f" ({points.replace('=', ' ').replace(',', ', ')})" if points else "")


def _signed(weight: float, name: str) -> str:
    size = "" if abs(weight) == 1 else f"{abs(weight):g} "
    return f"{'-' if weight < 0 else '+'} {size}{name}"
