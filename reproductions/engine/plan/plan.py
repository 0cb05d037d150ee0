"""The plan of a reproduction: one value that everybody is handed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import cache_root
from reproductions.engine.plan.experiment import Experiment, Scale, load_experiment
from reproductions.engine.plan.spec import key_of, read_testbed_of, specs_at

Task = tuple[str, int]  # an arm and a seed


@dataclass(frozen=True)
class Plan:
    """A paper at a scale: which arms with which seeds, what each computes (spec) and what it is called (key)."""

    experiment: Experiment
    scale: Scale
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    specs: Mapping[str, Mapping[str, Any]]
    keys: Mapping[str, str]
    testbed: Mapping[str, Any]
    cache: Path

    @property
    def paper(self) -> str:
        """The paper's id."""
        return self.experiment.paper

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every run, seed by seed."""
        return tuple((arm, seed) for seed in self.seeds for arm in self.arms)

    @property
    def complete(self) -> bool:
        """Whether it is all that the scale declares: only then may its results be recorded."""
        return self.arms == self.scale.arms and self.seeds == self.scale.seeds

    @cached_property
    def runs(self) -> dict[tuple[str, int], Task]:
        """(key, seed) -> the first task that makes it: arms of one key are made once."""
        found: dict[tuple[str, int], Task] = {}
        for arm, seed in self.tasks:
            found.setdefault((self.keys[arm], seed), (arm, seed))
        return found

    @property
    def folder(self) -> Path:
        """Where tracebacks, logs and the lock of this paper and scale lie."""
        return self.cache / "reproduce" / self.paper / self.scale.name


def make_plan(
    paper: str,
    scale: str = "tiny",
    *,
    seeds: int | None = None,
    arms: Sequence[str] | None = None,
    papers_root: Path | None = None,
    cache: Path | None = None,
) -> Plan:
    """`seeds`: only the first so many; `arms`: only these. Raises KDError or CatalogError on bad input."""
    experiment = load_experiment(paper, papers_root)
    chosen = experiment.scale(scale)
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
    specs = {arm: spec for arm, spec in specs_at(experiment, scale, testbed).items() if arm in here}
    return Plan(
        experiment=experiment,
        scale=chosen,
        arms=here,
        seeds=chosen.seeds[:seeds],
        specs=specs,
        keys={arm: key_of(spec) for arm, spec in specs.items()},
        testbed=testbed,
        cache=cache if cache is not None else cache_root(),
    )
