"""The plan of a reproduction: one value that everybody is handed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root
from reproductions.engine.plan.experiment import Experiment, Scale, load_experiment
from reproductions.engine.plan.measures import claims_of, measures_of
from reproductions.engine.plan.spec import UnsweptError, curve_of, key_of, read_testbed_of, specs_at

Task = tuple[str, int]  # an arm and a seed

FRESH = 10_000  # the first seed that no record, sweep or gate uses


@dataclass(frozen=True)
class Plan:
    """A paper at a scale: which arms with which seeds, what each computes (spec) and what it is called (key).

    `seeds`: those of the arms that `more` does not name; `more`: how many seeds an arm has by now that open claims
    need. `measures`: the metrics that are wanted of each arm; `how`: how each of them is measured, as a digest.
    """

    experiment: Experiment
    scale: Scale
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    specs: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]
    testbed: Mapping[str, Any]
    cache: Path
    measures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    how: Mapping[str, str] = field(default_factory=dict)
    curve: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, int] = field(default_factory=dict)
    unswept: str = ""  # what of a sweep is wanting before anything can be run

    @property
    def paper(self) -> str:
        """The paper's id."""
        return self.experiment.paper

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """The seeds of an arm: those of the plan's look, or more where an open claim needs them."""
        return self.scale.seeds[: self.more[arm]] if arm in self.more else self.seeds

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """Every seed that some arm has, in order."""
        most = max((len(self.seeds_of(arm)) for arm in self.arms), default=0)
        return self.scale.seeds[:most]

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every run, seed by seed."""
        return tuple(
            (arm, seed) for seed in self.all_seeds for arm in self.arms if seed in self.seeds_of(arm)
        )

    @property
    def complete(self) -> bool:
        """Whether it is all arms of the scale at one of its looks: only then may its results be recorded."""
        return self.arms == self.scale.arms and len(self.seeds) in self.scale.looks

    @property
    def fresh(self) -> bool:
        """Whether its seeds are others than the declared ones: a second opinion, never a record."""
        return self.scale.seeds != self.experiment.scale(self.scale.name).seeds

    @cached_property
    def runs(self) -> dict[tuple[str, int], Task]:
        """(key, seed) -> the first task that makes it: arms of one key are made once."""
        found: dict[tuple[str, int], Task] = {}
        for arm, seed in self.tasks:
            found.setdefault((self.keys[arm], seed), (arm, seed))
        return found

    def wanted(self, key: str, seed: int) -> tuple[str, ...]:
        """The metrics that are wanted of a run: of all arms of its key together, whatever the seed."""
        arms = [arm for arm in self.arms if self.keys[arm] == key]
        return tuple(dict.fromkeys(metric for arm in arms for metric in self.measures.get(arm, ())))

    def with_more(self, arms: Collection[str], seeds: int) -> Plan:
        """The plan with so many seeds for these arms, none of which loses one."""
        grown = {arm: max(seeds, len(self.seeds_of(arm))) for arm in arms}
        return replace(self, more={**self.more, **grown})

    @property
    def folder(self) -> Path:
        """Where tracebacks, logs and the lock of this paper and scale lie."""
        return self.cache / "reproduce" / self.paper / self.scale.name


def make_plan(
    paper: str,
    scale: str = "tiny",
    *,
    seeds: int | None = None,
    first_seed: int | None = None,
    arms: Sequence[str] | None = None,
    papers_root: Path | None = None,
    cache: Path | None = None,
) -> Plan:
    """All arms at the first look of the scale. Raises KDError or CatalogError on bad input.

    `seeds`: only the first so many (one of the scale's looks: up to that look); `arms`: only these; `first_seed`: as
    many seeds as the scale declares, from this one on, which no sweep, gate or record has (see FRESH).
    """
    from reproductions.testbeds import measuring

    experiment = load_experiment(paper, papers_root)
    chosen = experiment.scale(scale)
    if first_seed is not None:
        if first_seed < FRESH:
            raise KDError(
                f"--first-seed {first_seed}: seeds below {FRESH} are those of records, sweeps and gates"
            )
        chosen = replace(chosen, seeds=tuple(range(first_seed, first_seed + len(chosen.seeds))))
    if seeds is not None and not 1 <= seeds <= len(chosen.seeds):
        raise KDError(
            f"--seeds {seeds}: scale {scale} of {paper} declares {len(chosen.seeds)}, so 1 to {len(chosen.seeds)}"
        )
    wanted = [experiment.arm(arm).name for arm in arms or ()]
    for arm in wanted:
        if arm not in chosen.arms:
            raise KDError(f'{paper} does not run arm "{arm}" at scale {scale}, only {", ".join(chosen.arms)}')
    testbed = read_testbed_of(experiment, chosen)
    here = tuple(arm for arm in chosen.arms if not wanted or arm in wanted)
    try:
        specs, unswept = specs_at(experiment, scale, testbed), ""
    except UnsweptError as error:
        specs, unswept = specs_at(experiment, scale, testbed, unswept=True), str(error)
    _check_claims(experiment, chosen, {arm: key_of(spec) for arm, spec in specs.items()})
    specs = {arm: spec for arm, spec in specs.items() if arm in here}
    return Plan(
        experiment=experiment,
        scale=chosen,
        arms=here,
        seeds=chosen.seeds[: seeds or chosen.looks[0]],
        specs=specs,
        keys={arm: key_of(spec) for arm, spec in specs.items()},
        testbed=testbed,
        cache=cache if cache is not None else cache_root(),
        measures={
            arm: metrics for arm, metrics in measures_of(experiment, chosen, testbed).items() if arm in here
        },
        how=measuring(testbed),
        curve=curve_of(chosen, testbed),
        unswept=unswept,
    )


def _check_claims(experiment: Experiment, scale: Scale, keys: Mapping[str, str]) -> None:
    """Raises CatalogError where a claim compares an arm with itself under another name: it would be decided at once."""
    for claim in claims_of(experiment).at(scale.name):
        arms = dict[str, str]()
        for name in claim.contrast.weights:
            arm = experiment.arm(name)
            same = arms.setdefault(keys.get(arm.name, arm.name), arm.name)
            if same != arm.name:
                what = f"claim {claim.id}: at scale {scale.name} the arm {arm.name} is the arm {same}"
                raise experiment.error(f"{what}, whatever else it says", "arms", arm.declared)
