"""Who competes with whom: recorded arms of equal budget, whichever paper brought them.

A *league* holds the arms that train one student on one task from one start for as many steps of as many examples, and
are measured on the same held-out examples. How they are taught is what they differ in: teacher, loss, data, rate. Two
files of one training (a testbed and a variant of it that measures more) are one arm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from methods.recipe import teachers_of
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json
from reproductions.engine.metrics import Array, Metric
from reproductions.engine.plan.experiment import Experiment, Scale
from reproductions.engine.plan.spec import key_of, read_testbed_of, spec_of
from reproductions.engine.show.recipes import recipe_line
from reproductions.engine.show.view import scale_order
from reproductions.engine.store.arm import ArmResults, features
from reproductions.engine.store.layout import arms_in
from reproductions.engine.store.pair import read_arm

CONFIDENCE = "confidence"  # the mean probability of the greedy answer, in percent where exact match is
AGREEMENT = "agreement"  # of a classifier with its teacher, in percent of texts
FEWEST = 3  # arms of a league
_PRIMARY = ("greedy_exact_match", "golden", "exact_match", "accuracy")
_SAMPLED = ("exact_match", "rouge_l")
_MATCHED = "matched_"


@dataclass(frozen=True)
class Budget:
    """What every arm of a league spends: steps before it starts, steps, examples a step."""

    start: str
    start_steps: int
    steps: int
    batch: int

    @property
    def told(self) -> str:
        """'400 steps of SFT, then 240 steps of 32 examples'."""
        own = f"{self.steps:,} steps of {self.batch} examples"
        if self.start_steps:
            return f"{self.start_steps:,} steps of SFT, then {own}"
        return f"from the pretrained model, {own}" if self.start == "pretrained" else own


@dataclass(frozen=True, eq=False)
class Entrant:
    """One arm: its results, and how readers know it. `places`: (paper, the paper's name for the arm)."""

    arm: ArmResults
    title: str
    papers: tuple[str, ...]

    @property
    def key(self) -> str:
        """Of its results."""
        return self.arm.key

    @property
    def recipe(self) -> str:
        """What it computes, on one line."""
        return recipe_line(self.arm.spec)

    @property
    def rate(self) -> float | None:
        """Its learning rate."""
        rate = self.arm.spec["training"].get("learning_rate")
        return None if rate is None else float(rate)

    def measures(self, name: str) -> bool:
        """Whether all of its runs have a metric."""
        if name == CONFIDENCE:
            return all(CONFIDENCE in run.columns for run in self.arm.runs.values())
        return name in self.arm.metrics and all(name in run.metrics for run in self.arm.runs.values())

    def metric(self, name: str) -> Metric:
        """A metric of the arm, or its confidence."""
        return _confidence() if name == CONFIDENCE else self.arm.metrics[name]

    def features(self, name: str, seeds: Sequence[int]) -> Array:
        """Per-example features of some seeds, (seeds, examples, F)."""
        return features([self.arm.runs[seed] for seed in seeds], self.metric(name), self.title)


@dataclass(frozen=True, eq=False)
class League:
    """Arms of equal budget. `testbeds`: where their results lie; `scale`: that of the experiments that made them."""

    scale: str
    testbeds: tuple[str, ...]
    budget: Budget
    student: str
    examples: int
    entrants: tuple[Entrant, ...]

    @property
    def primary(self) -> str | None:
        """The quality that the table is sorted by: greedy where the testbed has it."""
        known = self.known
        chosen = [name for name in _PRIMARY if name in known]
        return chosen[0] if chosen else None

    @property
    def companions(self) -> list[str]:
        """What stands beside it: sampled figures, those at matched decoding, of classes the agreement; confidence."""
        wanted = [name for score in _SAMPLED for name in (score, _MATCHED + score)]
        return [
            name for name in [*wanted, AGREEMENT, CONFIDENCE] if name in self.known and name != self.primary
        ]

    @property
    def known(self) -> list[str]:
        """Metrics that at least FEWEST arms have."""
        names = dict.fromkeys(name for entrant in self.entrants for name in entrant.arm.metrics)
        return [
            name
            for name in [*names, CONFIDENCE]
            if sum(entrant.measures(name) for entrant in self.entrants) >= FEWEST
        ]

    def measured(self, name: str) -> list[Entrant]:
        """The arms that have a metric, in one meaning of it: that of most of them."""
        found: dict[str, list[Entrant]] = {}
        for entrant in self.entrants:
            if entrant.measures(name):
                metric, run = entrant.metric(name), next(iter(entrant.arm.runs.values()))
                how = f"{metric.kind} {metric.columns} {len(run.columns[metric.columns[0]])}"
                found.setdefault(how, []).append(entrant)
        return max(found.values(), key=len, default=[])


def _confidence() -> Metric:
    return Metric("mean", (CONFIDENCE,), True, "probability of the greedy answer")


def leagues(arms: Iterable[ArmResults], names: Names) -> list[League]:
    """The leagues of at least FEWEST arms among some results: smallest scale first, then the largest league."""
    groups: dict[str, dict[str, ArmResults]] = {}
    for arm in arms:
        if not arm.runs:
            continue
        trainings = groups.setdefault(canonical_json(_field(arm)), {})
        same = canonical_json(_training(arm.spec))
        trainings[same] = _fuller(trainings[same], arm) if same in trainings else arm
    found = []
    for trainings in groups.values():
        entrants = [names.entrant(arm) for arm in trainings.values()]
        if len(entrants) >= FEWEST:
            found.append(_league(_told_apart(entrants)))
    return sorted(
        found, key=lambda league: (scale_order(league.scale), -len(league.entrants), league.testbeds)
    )


def read_all(results: Path) -> list[ArmResults]:
    """Every arm recorded under the results' folder. Raises KDError naming a broken file."""
    return [read_arm(path) for path in arms_in(results)]


@dataclass(frozen=True)
class Names:
    """What experiments call their arms: `by_key` exactly, `by_method` for results of another testbed or engine.

    Each maps to (paper, scale, title), one for every arm of every experiment.
    """

    by_key: Mapping[str, Sequence[tuple[str, str, str]]]
    by_method: Mapping[str, Sequence[tuple[str, str, str]]]

    def entrant(self, arm: ArmResults) -> Entrant:
        """An arm with the title that most papers give it and the papers that use it; what it computes, without any."""
        known = (self.by_key.get(arm.key, ()), self.by_method.get(method_text(arm.spec), ()))
        told = [dict.fromkeys((paper, title) for paper, _, title in some) for some in known]  # scales apart
        titles = [title for some in told for _, title in some]
        title = max(dict.fromkeys(titles), key=lambda text: (titles.count(text), -len(text)), default="")
        made = {name.partition("/")[0] for name in arm.claims}
        papers = made | {paper for paper, _, _ in self.by_key.get(arm.key, ())}
        return Entrant(arm, title or recipe_line(arm.spec), tuple(sorted(papers)))

    def scales(self, arm: ArmResults) -> set[str]:
        """At which scales an arm was run."""
        made = {name.partition("/")[2] for name in arm.claims}
        return made | {scale for _, scale, _ in self.by_key.get(arm.key, ())}


@dataclass(frozen=True)
class Declared:
    """A scale of an experiment with the specs and keys of its arms; arms that were not swept yet have no key."""

    experiment: Experiment
    scale: Scale
    specs: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]


def declared(experiment: Experiment) -> list[Declared]:
    """Every scale of an experiment. Raises KDError or CatalogError where it is broken."""
    found = []
    for name, scale in experiment.scales.items():
        bed, specs, keys = read_testbed_of(experiment, scale), {}, {}
        for arm in scale.arms:
            try:
                specs[arm] = spec_of(experiment, name, arm, bed)
                keys[arm] = key_of(specs[arm])
            except KDError:  # no sweep yet; anything else is raised again here
                specs[arm] = spec_of(experiment, name, arm, bed, learning_rate=1.0)
        found.append(Declared(experiment, scale, specs, keys))
    return found


def names_of(known: Sequence[Declared], attempts: Iterable[Any] = ()) -> Names:
    """What experiments call their arms, and called those of earlier attempts (engine/verdicts/attempts.py)."""
    by_key: dict[str, list[tuple[str, str, str]]] = {}
    by_method: dict[str, list[tuple[str, str, str]]] = {}
    for one in known:
        for arm, spec in one.specs.items():
            told = (one.experiment.paper, one.scale.name, one.experiment.arms[arm].title)
            if arm in one.keys:
                by_key.setdefault(one.keys[arm], []).append(told)
            by_method.setdefault(method_text(spec), []).append(told)
    arms = {one.experiment.paper: one.experiment.arms for one in known}
    for attempt in attempts:
        for name, key in {name: key for claim in attempt.claims for name, key in claim.keys.items()}.items():
            entry = arms.get(attempt.paper, {}).get(name)
            if entry is not None:
                by_key.setdefault(key, []).append((attempt.paper, attempt.scale, entry.title))
    return Names(by_key, by_method)


def method_text(spec: Mapping[str, Any]) -> str:
    """What an arm does, whatever it does it on: equal for arms that differ in testbed, budget and rate alone."""
    return canonical_json([spec["method"], spec.get("student"), spec.get("code")])


def _league(entrants: Sequence[Entrant]) -> League:
    arms = [entrant.arm for entrant in entrants]
    spec = arms[0].spec
    scales = {name.partition("/")[2] for arm in arms for name in arm.claims}
    return League(
        scale=min(scales, key=scale_order, default=""),
        testbeds=tuple(dict.fromkeys(arm.testbed for arm in sorted(arms, key=lambda arm: len(arm.testbed)))),
        budget=Budget(**budget(spec)),
        student=spec.get("student") or "main",
        examples=_examples(arms[0]),
        entrants=tuple(entrants),
    )


def _told_apart(entrants: Sequence[Entrant]) -> list[Entrant]:
    """Arms of one title get what they compute behind it."""
    titles = [entrant.title for entrant in entrants]
    return [
        replace(entrant, title=f"{entrant.title} ({entrant.recipe})")
        if titles.count(entrant.title) > 1 and entrant.title != entrant.recipe
        else entrant
        for entrant in entrants
    ]


def _field(arm: ArmResults) -> dict[str, Any]:
    """What arms must have in common to compete."""
    bed = arm.spec["testbed"]
    about = {name: bed.get(name) for name in ("task", "revision", "students")}
    return {
        **about,
        "data": arm.data_revision,
        "budget": budget(arm.spec),
        "start": arm.spec.get("sft_start"),
        "shared": {name: arm.spec.get(name) for name in ("test_examples", "precision", "lora")},
        "examples": _examples(arm),
    }


def budget(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec spends, the fields of a Budget."""
    training = spec["training"]
    batch = training.get("per_device_train_batch_size", 1) * (
        training.get("gradient_accumulation_steps") or 1
    )
    return {
        "start": spec["start"],
        "start_steps": int((spec.get("sft_start") or {}).get("max_steps") or 0),
        "steps": int(training.get("max_steps") or 0),
        "batch": int(batch),
    }


def _training(spec: Mapping[str, Any]) -> dict[str, Any]:
    """All that decides the trained student, but not what is measured on it or how a task's teachers are measured."""
    teachers = spec["testbed"].get("teachers", {})
    asked = {name: teachers.get(name) for name in teachers_of(spec["method"])}
    kept = {name: spec.get(name) for name in ("method", "training", "student", "code")}
    return {**kept, "teachers": asked}


def _examples(arm: ArmResults) -> int:
    """How many held-out examples its quality was measured on; a dear metric may have been measured on fewer."""
    run = next(iter(arm.runs.values()))
    quality = [arm.metrics[name].columns[0] for name in _PRIMARY if name in run.metrics]
    return max((len(run.columns[name]) for name in quality[:1] or run.columns), default=0)


def _fuller(one: ArmResults, other: ArmResults) -> ArmResults:
    """The one with more runs, then with more metrics; what both were made for is kept."""
    one, other = sorted((one, other), key=lambda arm: (-len(arm.runs), -len(arm.metrics), arm.testbed))
    return replace(one, claims={**other.claims, **one.claims})
