"""What a paper's experiment.py declares: arms, scales, metrics. Nothing here imports torch."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from catalog.reader import nearest
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json, digest

if TYPE_CHECKING:
    from reproductions.engine.run import Run
    from reproductions.testbeds.testbed import Testbed

ROLES = ("method", "baseline", "ablation")
PAPERS_ROOT = Path(__file__).resolve().parents[1] / "papers"


@dataclass(frozen=True)
class Arm:
    """One way of training the student; `train` returns the trained student."""

    title: str
    train: Callable[[Run], Any]
    role: str


@dataclass(frozen=True)
class Scale:
    """Where and how big.

    `settings` holds every hyper-parameter as plain JSON data; `minutes` is for 2 cores, 0 if unknown. `arms` names
    those that run at this scale (none named: all), where all of them would be too dear.
    """

    testbed: str
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]
    minutes: float = 0
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A paper's arms and scales.

    `headline` metrics stand in the table, in order; `metrics` names any further ones that claims may use.
    With `only_named_metrics` the results file keeps those and none of the testbed's others: for many arms.
    `testbeds` are the experiment's own, tried before those of reproductions.testbeds.
    `method_version` goes up when the method's code changes what a run computes: old runs no longer count.
    """

    paper: str
    title: str
    arms: Mapping[str, Arm]
    scales: Mapping[str, Scale]
    headline: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    only_named_metrics: bool = False
    testbeds: Mapping[str, Callable[[], Testbed]] = field(default_factory=dict)
    method_version: int = 1

    def scale(self, name: str) -> Scale:
        """The scale of that name. Raises KDError with the nearest one."""
        if name not in self.scales:
            raise KDError(
                f'{self.paper} has no scale "{name}"{nearest(name, self.scales)}; it has {_list(self.scales)}'
            )
        return self.scales[name]

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises KDError with the nearest one."""
        if name not in self.arms:
            raise KDError(
                f'{self.paper} has no arm "{name}"{nearest(name, self.arms)}; it has {_list(self.arms)}'
            )
        return self.arms[name]

    def arms_at(self, scale: str) -> dict[str, Arm]:
        """The arms that run at a scale, in order."""
        named = self.scale(scale).arms
        return {name: arm for name, arm in self.arms.items() if not named or name in named}

    def load_testbed(self, scale: str) -> Testbed:
        """The testbed of a scale (imports torch)."""
        name = self.scale(scale).testbed
        if name in self.testbeds:
            return self.testbeds[name]()
        from reproductions.testbeds import load_testbed

        return load_testbed(name)


def load_experiment(paper: str, papers_root: Path | None = None) -> Experiment:
    """The experiment in reproductions/papers/<paper>/experiment.py. Raises KDError with the nearest paper."""
    root = Path(papers_root) if papers_root is not None else PAPERS_ROOT
    path = paper_folder(paper, root) / "experiment.py"
    module = _load_module(path)
    experiments = [value for value in vars(module).values() if isinstance(value, Experiment)]
    named = getattr(module, "EXPERIMENT", None)
    experiment = named if isinstance(named, Experiment) else None
    if experiment is None and len(experiments) == 1:
        experiment = experiments[0]
    if experiment is None:
        raise KDError(f"{path}: declares no EXPERIMENT = Experiment(...)")
    _check(experiment, paper, path)
    return experiment


def list_papers(papers_root: Path | None = None) -> list[str]:
    """Ids of the papers that have an experiment, sorted."""
    root = Path(papers_root) if papers_root is not None else PAPERS_ROOT
    return sorted(path.parent.name.replace("_", "-") for path in root.glob("*/experiment.py"))


def paper_folder(paper: str, papers_root: Path | None = None) -> Path:
    """The folder of a paper's experiment, claims and results. Raises KDError with the nearest paper."""
    root = Path(papers_root) if papers_root is not None else PAPERS_ROOT
    known = list_papers(root)
    if paper not in known:
        listed = f"; there are {_list(known)}" if known else ""
        raise KDError(f'no reproduction of a paper "{paper}"{nearest(paper, known)}{listed}')
    return root / paper.replace("-", "_")


def config(experiment: Experiment, scale: str) -> dict[str, Any]:
    """What defines a run's figures, as plain JSON data: recorded in results and hashed."""
    chosen = experiment.scale(scale)
    return {
        "paper": experiment.paper,
        "scale": scale,
        "testbed": chosen.testbed,
        "method_version": experiment.method_version,
        "settings": json.loads(canonical_json(dict(chosen.settings))),
        "seeds": list(chosen.seeds),
        "arms": {
            name: {"title": arm.title, "role": arm.role} for name, arm in experiment.arms_at(scale).items()
        },
    }


def config_hash(experiment: Experiment, scale: str) -> str:
    """12 hex digits over everything in `config` that can change a figure: an arm's title and role cannot."""
    hashed = config(experiment, scale)
    hashed["arms"] = sorted(hashed["arms"])
    return digest(hashed, 12)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)


def _load_module(path: Path) -> ModuleType:
    """The module at `path`: under its package name where it has one, so that everybody shares one copy."""
    folder = path.parent
    if folder.parent.resolve() == PAPERS_ROOT:
        return importlib.import_module(f"reproductions.papers.{folder.name}.experiment")
    name = f"_experiment_{digest(str(path.resolve()), 12)}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise KDError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _check(experiment: Experiment, paper: str, path: Path) -> None:
    if experiment.paper != paper:
        raise KDError(f'{path}: says paper "{experiment.paper}", its folder says "{paper}"')
    if not experiment.arms or not experiment.scales or not experiment.headline:
        raise KDError(f"{path}: needs at least one arm, one scale and one headline metric")
    for name, arm in experiment.arms.items():
        if arm.role not in ROLES:
            raise KDError(
                f'{path}: arm "{name}" has role "{arm.role}"{nearest(arm.role, ROLES)}; '
                f"roles are {_list(ROLES)}"
            )
        if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_"):
            raise KDError(f'{path}: arm "{name}": only a-z, 0-9, "-" and "_" (it names a file)')
    for name, scale in experiment.scales.items():
        if not scale.seeds or len(set(scale.seeds)) != len(scale.seeds):
            raise KDError(f'{path}: scale "{name}" needs seeds that are all different')
        for arm_name in scale.arms:
            experiment.arm(arm_name)
        try:
            canonical_json(dict(scale.settings))
        except KDError as error:
            raise KDError(f'{path}: settings of scale "{name}": {error}') from error
