"""The sections `claims` and `findings` of an experiment, read strictly.

    claims:
      source: {arxiv: "2404.02657", version: 4, where: "Table 1"}   # source, metric, scales, setting, margin (0),
      metric: rouge_l                # smallest_effect and needs stand here for every claim that has none of its own
      scales: [tiny, paper]
      setting: "ROUGE-L, GPT-2 1.5B -> 120M, Dolly"                 # of the paper's numbers
      orderings:    {beats-sft: {says: "...", better: akl, worse: sft, paper: [23.88, 23.01]}}
      contrasts:    {gap-widens: {greater: {a@share=0.125: 1, b@share=0.125: -1, a@share=1: -1, b@share=1: 1}}}
      equivalences: {same: {arms: [a, b], metric: answer_tokens, within: 1}}
      thresholds:   {usable: {arm: a, metric: exact_match, better_than: 50}}
      values:                                                       # tables of the paper, asserted at scale `paper`
        - table: "1"
          tolerance: 1.0
          verified: false                                           # nobody saw them in the paper: not asserted
          columns: {dolly: {metric: rouge_l_dolly, column: "Dolly R-L"}}
          rows: {sft: {row: "GPT-2 120M, SFT", numbers: [23.01]}}   # `arm:` where the name is another than the arm's
    findings: {beats-sft: {tiny: "..."}}

A claim's own `source` changes the fields that it names; `{ours: true, where: "..."}` is that of a question which no
paper states. `paper` holds the paper's numbers: a list in the order of the
arms, or arm: number. Without `says`, a sentence is made from the arms' titles. `smallest_effect` is what size matters,
in the metric's unit (an equivalence has its bound instead); `needs: [long-answers]` are properties that a testbed must
have shown before it may judge the claim. A claim of several scales may be decided on a metric of its own at each:
`metric: {tiny: rouge_l, tiny-navigate: exact_match}` names one for every scale of the claim, the first is its first.
So may `needs`: `{tiny: [long-answers], tiny-countdown: []}`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.engine.errors import KDError
from reproductions.engine.verdicts.claims import (
    Claim,
    ClaimSet,
    Contrast,
    PaperNumbers,
    Source,
    Value,
    point_text,
    sentence,
)

Place = tuple[str | int, ...]

DEFAULTS = ("source", "metric", "scales", "setting", "margin", "smallest_effect", "needs")
SECTIONS = ("orderings", "contrasts", "equivalences", "thresholds")
FIELDS_OF_ALL = {"says", "source", "metric", "scales", "setting", "paper", "needs"}
FIELDS_OF_DIRECTED = {*FIELDS_OF_ALL, "margin", "smallest_effect"}
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def read_claims(
    data: Mapping[str, Any],
    lines: Lines,
    *,
    arms: Mapping[str, str],
    scales: Collection[str],
    sweep: Mapping[str, Collection[Any]] | None = None,
    metrics: Collection[str] | None = None,
) -> ClaimSet:
    """The claims of an experiment's YAML (`data` is the whole file). Raises KDError with file, line and nearest name.

    `arms`: name -> title, with an entry for each point of a swept arm ("arm@share=0.5"), whose bare name is the last of
    them. `sweep`: name -> its points. `metrics`: those there are, None where that is not known.
    """
    return _Reader(lines, arms, sweep or {}, scales, metrics).read(data)


class _Reader:
    """Checks each field of one file against what the experiment declares."""

    def __init__(
        self,
        lines: Lines,
        arms: Mapping[str, str],
        sweep: Mapping[str, Collection[Any]],
        scales: Collection[str],
        metrics: Collection[str] | None,
    ) -> None:
        self.lines, self.arms, self.sweep, self.scales, self.metrics = lines, arms, sweep, scales, metrics
        self.defaults: Mapping[str, Any] = {}
        self.points: dict[
            str, dict[str, dict[str, str]]
        ] = {}  # swept arm -> its name at a point -> the point
        for name in arms:
            arm, at, rest = name.partition("@")
            if at:
                pairs = (part.partition("=") for part in rest.split(","))
                self.points.setdefault(arm, {})[name] = {
                    key: point_text(_plain(value)) for key, _, value in pairs
                }

    def read(self, data: Mapping[str, Any]) -> ClaimSet:
        section = data.get("claims")
        if section is None:
            raise self.error('"claims" is missing')
        self.fields(section, ("claims",), set(), {*DEFAULTS, *SECTIONS, "values"})
        self.defaults = {name: section[name] for name in DEFAULTS if name in section}
        if "margin" in self.defaults:
            self.number(section, ("claims",), "margin", least=0.0)
        self.smallest_effect(section, ("claims",))
        needs, place = section.get("needs", []), ("claims", "needs")
        if isinstance(needs, dict):
            self.fields(needs, place, set(), set(self.scales))
        for scale, names in needs.items() if isinstance(needs, dict) else [(None, needs)]:
            self.properties(names, place if scale is None else (*place, scale))
        claims: list[Claim] = []
        for kind in SECTIONS:
            for identifier, item in self.mapping(section, ("claims",), kind).items():
                where = ("claims", kind, identifier)
                if identifier in [claim.id for claim in claims]:
                    raise self.error(f'claim "{identifier}" stands twice', *where)
                if not _ID.fullmatch(identifier):
                    raise self.error(f'"{identifier}": a claim\'s name has a-z, 0-9 and "-" only', *where)
                claims.append(self.claim(identifier, item, kind, where))
        if not claims:
            raise self.error(f"no claim; name one under {', '.join(SECTIONS)}", "claims")
        return ClaimSet(tuple(claims), self.values(section), self.findings(data, claims))

    def claim(self, identifier: str, item: Any, kind: str, where: Place) -> Claim:
        contrast = getattr(self, f"_{kind}")(item, where)
        scales = self.scales_of(item, where)
        metric, others = self.metrics_at(item, where, scales)
        needs, needs_at = self.needs_at(item, where, scales)
        return Claim(
            id=identifier,
            statement=self.text(item, where, "says") if "says" in item else sentence(contrast, self.arms),
            source=self.source(item, where),
            metric=metric,
            contrast=contrast,
            scales=scales,
            paper=self.paper(item, where, contrast),
            smallest_effect=None
            if contrast.relation == "within"
            else self.smallest_effect(item if "smallest_effect" in item else self.defaults, where),
            needs=needs,
            metrics=others,
            needs_at=needs_at,
        )

    def _orderings(self, item: Any, where: Place) -> Contrast:
        self.fields(item, where, {"better", "worse"}, FIELDS_OF_DIRECTED)
        weights = self.weights([("better", item["better"], 1.0), ("worse", item["worse"], -1.0)], where)
        return Contrast(weights, "greater", self.margin(item, where))

    def _contrasts(self, item: Any, where: Place) -> Contrast:
        self.fields(item, where, {"greater"}, FIELDS_OF_DIRECTED)
        named = self.mapping(item, where, "greater")
        for name in named:
            if named[name] is None:  # in {...} a comma ends a name that is not quoted
                raise self.error(
                    f'"{name}" has no weight; a name with a comma needs quotes', *where, "greater", name
                )
            if self.number(named, (*where, "greater"), name) == 0:
                raise self.error(f'"{name}" has weight 0', *where, "greater", name)
        weights = self.weights([(name, name, float(named[name])) for name in named], (*where, "greater"))
        if len(weights) < 2:
            raise self.error(
                "a contrast weighs two arms or more; one arm against a number is a threshold", *where
            )
        return Contrast(weights, "greater", self.margin(item, where))

    def _equivalences(self, item: Any, where: Place) -> Contrast:
        self.fields(item, where, {"arms", "within"}, FIELDS_OF_ALL)
        named = item["arms"]
        if not isinstance(named, list) or len(named) != 2:
            raise self.error('"arms" must be a list of two arms', *where, "arms")
        weights = self.weights([(0, named[0], 1.0), (1, named[1], -1.0)], (*where, "arms"))
        bound = self.number(item, where, "within", least=0.0)
        if bound == 0:
            raise self.error(
                '"within" must be more than 0: no figures show two arms to be exactly equal', *where, "within"
            )
        return Contrast(weights, "within", bound)

    def _thresholds(self, item: Any, where: Place) -> Contrast:
        self.fields(item, where, {"arm", "better_than"}, FIELDS_OF_DIRECTED)
        weights = self.weights([("arm", item["arm"], 1.0)], where)
        return Contrast(weights, "greater", self.margin(item, where), self.number(item, where, "better_than"))

    def weights(self, named: list[tuple[str | int, Any, float]], where: Place) -> dict[str, float]:
        """Each arm's weight under its canonical name; `named`: (key in the file, what it says, weight)."""
        weights: dict[str, float] = {}
        for key, text, weight in named:
            name = self.arm(text, (*where, key))
            if name in weights:
                raise self.error(f"{name} is compared with itself", *where, key)
            weights[name] = weight
        return weights

    def arm(self, text: Any, where: Place) -> str:
        """The name in the results of "arm" or "arm@point=value,point=value"."""
        name, at, rest = str(text).partition("@")
        if not isinstance(text, str) or name not in self.arms and name not in self.points:
            raise self.unknown("arm", name, self.arms, where)
        chosen: dict[str, str] = {}
        for part in rest.split(",") if at else []:
            point, equals, value = (piece.strip() for piece in part.partition("="))
            if point not in self.sweep:
                if not self.sweep:
                    raise self.error(f'"{text}": the experiment has no sweep', *where)
                raise self.unknown("sweep", point, self.sweep, where)
            known = [point_text(value) for value in self.sweep[point]]
            wanted = point_text(_plain(value))
            if not equals or wanted not in known:
                raise self.unknown(f"point of {point}", value, known, where)
            if point in chosen:
                raise self.error(f'"{text}" names {point} twice', *where)
            chosen[point] = wanted
        if not chosen:
            return list(self.points[name])[-1] if name in self.points else name
        for full, points in self.points.get(name, {}).items():
            if points == chosen:
                return full
        swept = (
            f"is swept over {', '.join(self.points[name])}"
            if name in self.points
            else "does not vary over the sweep"
        )
        raise self.error(f'"{text}": {name} {swept}', *where)

    def source(self, item: Mapping[str, Any], where: Place, place: str | None = None) -> Source:
        """The default source with what this one changes; `place` is where in the paper, if not its field `where`."""
        own, default = item.get("source", {}), self.defaults.get("source", {})
        at = (*where, "source") if "source" in item else ("claims", "source")
        known = {"arxiv", "version", "where", "ours"}
        self.fields(own, (*where, "source"), set(), known - ({"where"} if place else set()))
        self.fields(default, ("claims", "source"), set(), known)
        merged = {**default, **own} | ({"where": place} if place else {})
        ours = merged.get("ours", False)
        paper = any(merged.get(name) is not None for name in ("arxiv", "version"))
        if type(ours) is not bool or (ours and paper):
            raise self.error('"ours: true" is a question of our own: it has no arXiv number', *at)
        for name in ("where",) if ours else ("arxiv", "where"):
            if name not in merged:
                raise self.error(f'"source" without "{name}", here and under "claims"', *where)
        version = merged.get("version")
        if version is not None and (type(version) is not int or version < 1):
            raise self.error('"version" must be a whole number of 1 or more', *at, "version")
        arxiv = "" if ours else self.text(merged, at, "arxiv")
        return Source(arxiv, version, self.text(merged, at, "where"))

    def margin(self, item: Mapping[str, Any], where: Place) -> float:
        if "margin" in item:
            return self.number(item, where, "margin", least=0.0)
        return float(self.defaults.get("margin", 0.0))

    def smallest_effect(self, item: Mapping[str, Any], where: Place) -> float | None:
        if "smallest_effect" not in item:
            return None
        found = self.number(item, where, "smallest_effect")
        if not (found > 0 and math.isfinite(found)):
            raise self.error('"smallest_effect" must be more than 0', *where, "smallest_effect")
        return found

    def needs_at(
        self, item: Mapping[str, Any], where: Place, scales: tuple[str, ...]
    ) -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
        """Properties that a testbed has to have shown, at the claim's first scale and at others that differ from it."""
        own = "needs" in item
        chosen = item["needs"] if own else self.defaults.get("needs", [])
        place = where if own else ("claims",)
        if not isinstance(chosen, dict):
            return self.properties(chosen, (*place, "needs")), {}
        if own:
            self.fields(chosen, (*place, "needs"), set(), set(scales))
        missing = next((scale for scale in scales if scale not in chosen), None)
        if missing is not None:
            raise self.error(
                f'"needs" names no list for the scale "{missing}" of {where[-1]}', *place, "needs"
            )
        found = {scale: self.properties(chosen[scale], (*place, "needs", scale)) for scale in scales}
        first = found[scales[0]]
        return first, {scale: names for scale, names in found.items() if names != first}

    def properties(self, found: Any, place: Place) -> tuple[str, ...]:
        """A list of properties; `headroom` goes without saying."""
        if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
            raise self.error('"needs" must be a list of properties, as in [long-answers]', *place)
        for name in found:
            if not _ID.fullmatch(name):
                raise self.error(f'"{name}": a property has a-z, 0-9 and "-" only', *place)
            if found.count(name) > 1:
                raise self.error(f'property "{name}" stands twice', *place)
        return tuple(found)

    def metrics_at(
        self, item: Mapping[str, Any], where: Place, scales: tuple[str, ...]
    ) -> tuple[str, dict[str, str]]:
        """The metric at the claim's first scale, and those at others that differ from it."""
        if not isinstance(item.get("metric"), dict):
            return self.one_metric(item, where), {}
        named = self.mapping(item, where, "metric")
        for scale in named:
            self.one_of(scale, (*where, "metric", scale), scales, "scale of this claim")
        place = (*where, "metric")
        self.fields(named, place, set(scales), set())
        for name in ("margin", "smallest_effect", "within"):
            if name in item or name in self.defaults:
                raise self.error(f'a claim on several metrics has no "{name}": in whose unit?', *place)
        found = {scale: self.one_metric({"metric": named[scale]}, place) for scale in scales}
        first = found[scales[0]]
        return first, {scale: metric for scale, metric in found.items() if metric != first}

    def one_metric(self, item: Mapping[str, Any], where: Place) -> str:
        chosen, place = self.inherited("metric", item, where)
        if self.metrics is None:
            return self.text({"metric": chosen}, place, "metric")
        return self.one_of(chosen, (*place, "metric"), self.metrics, "metric")

    def scales_of(self, item: Mapping[str, Any], where: Place) -> tuple[str, ...]:
        chosen, place = self.inherited("scales", item, where)
        if not isinstance(chosen, list) or not chosen:
            raise self.error('"scales" must be a list that is not empty', *place, "scales")
        for number, scale in enumerate(chosen):
            self.one_of(scale, (*place, "scales", number), self.scales, "scale")
            if scale in chosen[:number]:
                raise self.error(f'scale "{scale}" stands twice', *place, "scales", number)
        return tuple(chosen)

    def inherited(self, name: str, item: Mapping[str, Any], where: Place) -> tuple[Any, Place]:
        """A field of a claim, or the default for all claims, and where it stands."""
        if name in item:
            return item[name], where
        if name in self.defaults:
            return self.defaults[name], ("claims",)
        raise self.error(f'"{name}" is missing here and under "claims"', *where)

    def paper(self, item: Mapping[str, Any], where: Place, contrast: Contrast) -> PaperNumbers | None:
        """The paper's numbers; a setting alone says what was measured where the numbers were not seen."""
        if "paper" not in item and "setting" not in item:
            return None
        setting = item.get("setting", self.defaults.get("setting"))
        if setting is not None:
            setting = self.text({"setting": setting}, where if "setting" in item else ("claims",), "setting")
        numbers: dict[str, float] = {}
        given, names, place = item.get("paper", {}), list(contrast.weights), (*where, "paper")
        if isinstance(given, list):
            if len(given) != len(names):
                raise self.error(f'"paper" must hold one number for each of {", ".join(names)}', *place)
            given = dict(zip(names, given, strict=True))
            numbers = {name: self.number(given, place, name) for name in names}
        elif isinstance(given, dict):
            for text in given:
                name = self.arm(text, (*place, text))
                numbers[self.one_of(name, (*place, text), names, "arm of this claim")] = self.number(
                    given, place, text
                )
        else:
            raise self.error(
                '"paper" must be a list of numbers in the order of the arms, or arm: number', *place
            )
        return PaperNumbers(numbers, setting)

    def values(self, section: Mapping[str, Any]) -> tuple[Value, ...]:
        tables = section.get("values", [])
        if not isinstance(tables, list):
            raise self.error('"values" must be a list of tables', "claims", "values")
        found: list[Value] = []
        for number, table in enumerate(tables):
            for value, where in self.table(table, ("claims", "values", number)):
                if value.id in [known.id for known in found]:
                    raise self.error(f'value "{value.id}" stands twice', *where)
                found.append(value)
        return tuple(found)

    def table(self, item: Any, where: Place) -> list[tuple[Value, Place]]:
        """Every number of one table of the paper; its id is "<column>-<row>"."""
        self.fields(item, where, {"table", "tolerance", "verified", "columns", "rows"}, {"source"})
        if not isinstance(item["verified"], bool):
            raise self.error('"verified" must be true or false', *where, "verified")
        tolerance = self.number(item, where, "tolerance", least=0.0)
        columns = self.mapping(item, where, "columns")
        for name, column in columns.items():
            self.fields(column, (*where, "columns", name), {"metric", "column"}, set())
        found = []
        for name, row in self.mapping(item, where, "rows").items():
            place = (*where, "rows", name)
            self.fields(row, place, {"row", "numbers"}, {"arm"})
            arm = self.arm(row["arm"], (*place, "arm")) if "arm" in row else self.arm(name, place)
            numbers = row["numbers"]
            if not isinstance(numbers, list) or len(numbers) != len(columns):
                raise self.error(
                    f'"numbers" must hold one for each column: {", ".join(columns)}', *place, "numbers"
                )
            for number, (short, column) in enumerate(columns.items()):
                if numbers[number] is None:  # the table has no such number
                    continue
                text = self.text(column, (*where, "columns", short), "column")
                cell = f"Table {self.text(item, where, 'table')}, {self.text(row, place, 'row')}, {text}"
                value = Value(
                    id=f"{short}-{name}",
                    arm=arm,
                    metric=self.one_metric(column, (*where, "columns", short)),
                    value=self.number(dict(enumerate(numbers)), (*place, "numbers"), number),
                    tolerance=tolerance,
                    source=self.source(item, where, cell),
                    verified=item["verified"],
                )
                found.append((value, (*place, "numbers", number)))
        return found

    def findings(self, data: Mapping[str, Any], claims: list[Claim]) -> dict[str, dict[str, str]]:
        known = [claim.id for claim in claims]
        found: dict[str, dict[str, str]] = {}
        for claim, texts in self.mapping(data, (), "findings").items():
            where = ("findings", claim)
            self.one_of(claim, where, known, "claim")
            if not isinstance(texts, dict) or not texts:
                raise self.error('a finding is written "scale: text"', *where)
            for scale in texts:
                self.one_of(scale, (*where, scale), self.scales, "scale")
            found[claim] = {scale: self.text(texts, where, scale) for scale in texts}
        return found

    def mapping(self, data: Mapping[str, Any], where: Place, name: str) -> dict[str, Any]:
        found = data.get(name)
        if found is None and name not in data:
            return {}
        if not isinstance(found, dict):
            raise self.error(f'"{name}" must be a mapping: lines of "name: value"', *where, name)
        return found

    def fields(self, item: Any, where: Place, required: set[str], optional: set[str]) -> None:
        if not isinstance(item, dict):
            raise self.error('must be a mapping: lines of "name: value"', *where)
        for name in item:
            if name not in required | optional:
                near = nearest(name, sorted(required | optional))
                raise self.error(f'unknown field "{name}"{near}', *where, name)
        for name in sorted(required):
            if name not in item:
                raise self.error(f'"{name}" is missing', *where)

    def text(self, item: Mapping[str, Any], where: Place, name: str) -> str:
        if not isinstance(item[name], str) or not item[name].strip():
            raise self.error(f'"{name}" must be text (numbers in quotes)', *where, name)
        return item[name].strip()

    def number(
        self, item: Mapping[Any, Any], where: Place, name: str | int, least: float | None = None
    ) -> float:
        found = item[name]
        if not isinstance(found, int | float) or isinstance(found, bool):
            raise self.error(f'"{name}" must be a number', *where, name)
        if least is not None and found < least:
            raise self.error(f'"{name}" must be {least:g} or more', *where, name)
        return float(found)

    def one_of(self, name: Any, where: Place, names: Collection[str], what: str) -> str:
        if not isinstance(name, str) or name not in names:
            raise self.unknown(what, name, names, where)
        return name

    def unknown(self, what: str, name: Any, names: Collection[str], where: Place) -> KDError:
        return self.error(
            f'unknown {what} "{name}"{nearest(str(name), names)}; known: {", ".join(names)}', *where
        )

    def error(self, message: str, *where: str | int) -> KDError:
        return KDError(str(self.lines.error(message, *where)))


def _plain(text: str) -> Any:
    """The number in a point's text, or the text."""
    try:
        return float(text)
    except ValueError:
        return text
