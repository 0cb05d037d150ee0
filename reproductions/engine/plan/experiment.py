"""A paper's experiment, reproductions/papers/<id>.yaml: claims, arms, scales: data, and no torch.

    arms:
      sft: {title: SFT, method: sft}
      akl: {title: AKL, role: method, method: akl}              # methods/recipes/akl.yaml
      rkl: {title: reverse KL, terms: [{divergence: reverse-kl}]}
      akl-hard: {like: akl, settings: {head_mass: 0.9}}         # what differs from another arm
    scales:
      tiny: {testbed: pronunciation, seeds: {looks: [5, 10, 20, 40]}, learning_rate: swept}
      tiny-navigate: {testbed: navigate, ...}                   # a second testbed: `tiny-` and a word
                                                                # dials: see engine/plan/dials.py

An arm is a method: a recipe, its keys, or both (its own keys win). `$name` is looked up in the sweep's point, in the
scale's `set` and in the arm's own teacher. A swept arm stands for one arm a point, `arm@share=0.5`; its bare name is
the last point.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods.recipe import METHOD_KEYS, read_recipe, recipe_ids, variables
from reproductions.engine.errors import KDError
from reproductions.engine.plan.code import load_code
from reproductions.engine.verdicts.words import LOOKS

ROLES = ("method", "baseline", "ablation")
PAPERS_ROOT = Path(__file__).resolve().parents[2] / "papers"
KEYS = (
    "paper",
    "about",
    "attempt",
    "claims",
    "arms",
    "data",
    "sweep",
    "budget",
    "scales",
    "headline",
    "metrics",
    "findings",
)
ARM_KEYS = (
    "title",
    "role",
    "method",
    "settings",
    "like",
    "student",
    "training",
    "learning_rate",
    *METHOD_KEYS,
)
SCALE_KEYS = (
    "testbed", "seeds", "minutes", "arms", "start", "learning_rate", "training", "sft_start", "set", "plus_terms",
    "teacher", "student", "tuning", "precision", "curve", "test_examples", "lora", "device", "gpu_workers", "download",
    "label", "metrics", "dials",
)  # fmt: skip
OWN_KEYS = ("settings", "start", "training", "learning_rate", *METHOD_KEYS)  # of an arm at one scale
SWEPT = "swept"


@dataclass(frozen=True)
class Arm:
    """One way of training the student, before any scale: `tree` holds its keys, those of the arms it is like too."""

    name: str
    title: str
    role: str
    tree: Mapping[str, Any]
    point: Mapping[str, Any]  # of the sweep, {} where the arm is not swept
    declared: str  # the arm of the file that it comes from


@dataclass(frozen=True)
class Scale:
    """Where and how big: the testbed, the seeds, and what the runs there have beside the testbed's defaults."""

    name: str
    testbed: str
    seeds: tuple[int, ...]  # all that there may be
    looks: tuple[int, ...]  # how many of the first of them each look takes; the last look takes all
    minutes: float  # on two cores, 0 where unknown
    arms: tuple[str, ...]  # those that run here
    own: Mapping[str, Mapping[str, Any]]  # by arm, what it has of its own here
    settings: Mapping[str, Any]  # the scale's other keys


@dataclass(frozen=True)
class Experiment:
    """A file, checked. `headline` metrics stand in the tables, in order; `metrics` are further ones to claim."""

    paper: str
    about: str
    arms: Mapping[str, Arm]
    scales: Mapping[str, Scale]
    steps: Mapping[str, Any]  # data steps by name
    sweep: Mapping[str, tuple[Any, ...]]
    budget: Mapping[str, tuple[str, ...]]
    headline: tuple[str, ...]
    metrics: tuple[str, ...]
    data: Mapping[str, Any]
    lines: Lines
    path: Path
    code: str | None  # the digest of the Python beside the file, where there is some

    def scale(self, name: str) -> Scale:
        """The scale of that name. Raises KDError with the nearest one."""
        if name not in self.scales:
            raise KDError(
                f'{self.paper} has no scale "{name}"{nearest(name, self.scales)}; it has {", ".join(self.scales)}'
            )
        return self.scales[name]

    def arm(self, name: str) -> Arm:
        """The arm of that name, a swept one's last point for its bare name. Raises KDError with the nearest one."""
        if name in self.bare:
            name = self.bare[name]
        if name not in self.arms:
            raise KDError(
                f'{self.paper} has no arm "{name}"{nearest(name, self.arms)}; it has {", ".join(self.arms)}'
            )
        return self.arms[name]

    def arms_at(self, scale: str) -> dict[str, Arm]:
        """The arms that run at a scale, in order."""
        return {name: self.arms[name] for name in self.scale(scale).arms}

    @cached_property
    def bare(self) -> dict[str, str]:
        """The bare name of each swept arm -> its last point."""
        return {arm.declared: arm.name for arm in self.arms.values() if arm.name != arm.declared}

    @property
    def titles(self) -> dict[str, str]:
        """Titles by arm, bare names of swept arms among them."""
        return {name: arm.title for name, arm in self.arms.items()} | {
            bare: self.arms[name].title for bare, name in self.bare.items()
        }

    def error(self, message: str, *where: str | int) -> CatalogError:
        """An error about a place of the file."""
        return self.lines.error(message, *where)


def list_papers(root: Path | None = None) -> list[str]:
    """Ids of the papers that have an experiment, sorted."""
    return sorted(path.stem for path in (root or PAPERS_ROOT).glob("*.yaml"))


def experiment_path(paper: str, root: Path | None = None) -> Path:
    """The file of a paper's experiment. Raises KDError with the nearest paper."""
    known = list_papers(root)
    if paper not in known:
        listed = f"; there are {', '.join(known)}" if known else ""
        raise KDError(f'no reproduction of a paper "{paper}"{nearest(paper, known)}{listed}')
    return (root or PAPERS_ROOT) / f"{paper}.yaml"


def code_path(experiment: Path) -> Path:
    """Where the Python beside an experiment is, if there is any."""
    return experiment.with_suffix(".py")


def load_experiment(paper: str, root: Path | None = None) -> Experiment:
    """The experiment of a paper; imports its own Python. Raises CatalogError with file, line and nearest valid name."""
    path = experiment_path(paper, root)
    return read_experiment(paper, path, *read_yaml_with_lines(path))


def read_experiment(paper: str, path: Path, data: Mapping[str, Any], lines: Lines) -> Experiment:
    """An experiment from what its file holds, and the lines of that; see `load_experiment`."""
    return _Reader(path, data, lines).read(paper)


class _Reader:
    """Checks each field of one file."""

    def __init__(self, path: Path, data: Mapping[str, Any], lines: Lines) -> None:
        self.path, self.data, self.lines = path, data, lines

    def read(self, paper: str) -> Experiment:
        self.keys(self.data, KEYS, "an experiment")
        for name in ("paper", "arms", "scales"):
            if name not in self.data:
                raise self.lines.error(f'"{name}" is missing')
        if self.data["paper"] != paper:
            raise self.lines.error(
                f'says paper "{self.data["paper"]}", the file is called {self.path.name}', "paper"
            )
        sweep = {
            name: tuple(self.kind(points, list, "a list of values", "sweep", name))
            for name, points in self.mapping("sweep").items()
        }
        steps = self.mapping("data")
        arms = self.arms(sweep, steps)
        scales = {name: self.scale(name, arms) for name in self.mapping("scales")}
        return Experiment(
            paper=paper,
            about=str(self.data.get("about", "")),
            arms=arms,
            scales=scales,
            steps=steps,
            sweep=sweep,
            budget={name: tuple(items) for name, items in self.mapping("budget").items()},
            headline=self.names("headline") or self.claimed(),
            metrics=self.names("metrics"),
            data=self.data,
            lines=self.lines,
            path=self.path,
            code=load_code(code_path(self.path)) if code_path(self.path).is_file() else None,
        )

    def arms(self, sweep: Mapping[str, tuple[Any, ...]], steps: Mapping[str, Any]) -> dict[str, Arm]:
        declared = self.mapping("arms")
        if not declared:
            raise self.lines.error("needs at least one arm", "arms")
        found: dict[str, Arm] = {}
        for name in declared:
            if not name or set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-_."):
                raise self.lines.error(f'arm "{name}": only a-z, 0-9, "-", "_" and "."', "arms", name)
            tree = self.arm_tree(name, declared, ())
            role = tree.pop("role", "baseline")
            if role not in ROLES:
                what = f'role "{role}"{nearest(str(role), ROLES)}; roles are {", ".join(ROLES)}'
                raise self.lines.error(what, "arms", name, "role")
            title = str(tree.pop("title", "") or self.recipe_title(tree, name))
            swept = [key for key in sweep if key in self.used(tree, steps)]
            for values in itertools.product(*(sweep[key] for key in swept)):
                point = dict(zip(swept, values, strict=True))
                suffix = ",".join(
                    f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}"
                    for key, value in point.items()
                )
                label = f"{name}@{suffix}" if suffix else name
                shown = f"{title} ({suffix.replace(',', ', ')})" if suffix else title
                found[label] = Arm(label, shown, role, tree, point, name)
        return found

    def arm_tree(self, name: str, declared: Mapping[str, Any], around: tuple[str, ...]) -> dict[str, Any]:
        """An arm's keys with those of the arm that it is like; its own win, settings and training are merged."""
        own = declared[name]
        if not isinstance(own, dict):
            raise self.lines.error("an arm is a mapping: {title: ..., method: ...}", "arms", name)
        self.keys(own, ARM_KEYS, "an arm", "arms", name)
        method = own.get("method")
        if method is not None and method not in recipe_ids():
            known = recipe_ids()
            what = (
                f'no method "{method}"{nearest(str(method), known)}; methods/recipes has {", ".join(known)}'
            )
            raise self.lines.error(what, "arms", name, "method")
        like = own.get("like")
        if like is None:
            return dict(own)
        if like not in declared or like in (*around, name):
            what = f'arm "{name}" is like "{like}"{nearest(str(like), declared)}, which is no other arm'
            raise self.lines.error(what, "arms", name, "like")
        base = self.arm_tree(like, declared, (*around, name))
        merged = {key: value for key, value in base.items() if key not in ("title", "role")} | own
        for key in ("settings", "training"):
            if key in base and key in own:
                merged[key] = {**base[key], **own[key]}
        merged.pop("like")
        return merged

    def recipe_title(self, tree: Mapping[str, Any], name: str) -> str:
        return read_recipe(tree["method"]).title if "method" in tree else name

    def used(self, tree: Any, steps: Mapping[str, Any], seen: frozenset[str] = frozenset()) -> set[str]:
        """The variables of an arm, those of the data steps that it names among them."""
        found = set(variables(tree))
        for word in self.words(tree):
            step = word.partition(".")[0]
            if step in steps and step not in seen:
                found |= self.used(steps[step], steps, seen | {step})
        return found

    def words(self, tree: Any) -> Iterable[str]:
        if isinstance(tree, str):
            yield tree
        for item in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
            yield from self.words(item)

    def scale(self, name: str, arms: Mapping[str, Arm]) -> Scale:
        where = ("scales", name)
        tree = self.kind(self.data["scales"][name], dict, "a mapping", *where)
        self.keys(tree, SCALE_KEYS, "a scale", *where)
        for needed in ("testbed", "seeds"):
            if needed not in tree:
                raise self.lines.error(f'"{needed}" is missing', *where)
        own = tree.get("arms") or {}
        listed = list(own) if own else list(dict.fromkeys(arm.declared for arm in arms.values()))
        own = own if isinstance(own, dict) else {}
        declared = {arm.declared for arm in arms.values()}
        for place, arm in enumerate(listed):
            if arm not in declared:
                at = arm if isinstance(tree["arms"], dict) else place
                raise self.lines.error(f'no arm "{arm}"{nearest(str(arm), declared)}', *where, "arms", at)
            self.keys(own.get(arm) or {}, OWN_KEYS, "an arm at a scale", *where, "arms", arm)
        rate = tree.get("learning_rate")
        if rate is not None and rate != SWEPT and not isinstance(rate, int | float):
            raise self.lines.error(
                f'"learning_rate" is a number or "{SWEPT}", not {rate!r}', *where, "learning_rate"
            )
        self.dials(tree.get("dials"), *where, "dials")
        return Scale(
            name=name,
            testbed=str(tree["testbed"]),
            seeds=self.seeds(tree["seeds"], *where, "seeds"),
            looks=self.looks(tree["seeds"], *where, "seeds"),
            minutes=float(tree.get("minutes") or 0),
            arms=tuple(arm.name for arm in arms.values() if arm.declared in listed),
            own={arm: dict(item or {}) for arm, item in own.items()},
            settings={
                key: value
                for key, value in tree.items()
                if key not in ("testbed", "seeds", "minutes", "arms")
            },
        )

    def dials(self, value: Any, *where: str | int) -> None:
        """Settings of the task with other values than the testbed's, each once."""
        if value is None:
            return
        for dial, values in self.kind(
            value, dict, "a mapping: {setting of the task: [values]}", *where
        ).items():
            if not isinstance(values, list) or not values:
                raise self.lines.error("a dial is a list of values", *where, dial)
            if any(other == one for place, one in enumerate(values) for other in values[:place]):
                raise self.lines.error("the values of a dial must be all different", *where, dial)

    def seeds(self, value: Any, *where: str | int) -> tuple[int, ...]:
        """So many seeds from 0, as many as the last look takes, or those listed."""
        if isinstance(value, dict):
            value = self.looks(value, *where)[-1]
        seeds = list(range(value)) if type(value) is int else value
        if (
            not isinstance(seeds, list)
            or not seeds
            or any(type(seed) is not int or seed < 0 for seed in seeds)
        ):
            raise self.lines.error(
                '"seeds" is how many, {looks: [5, 10, ...]}, or a list of whole numbers of 0 or more', *where
            )
        if len(set(seeds)) != len(seeds):
            raise self.lines.error("the seeds must be all different", *where)
        return tuple(seeds)

    def looks(self, value: Any, *where: str | int) -> tuple[int, ...]:
        """Numbers of seeds at which a claim may be decided: one where nothing says more."""
        if not isinstance(value, dict):
            return (len(self.seeds(value, *where)),)
        self.keys(value, ("looks",), '"seeds"', *where)
        looks = value.get("looks")
        if not isinstance(looks, list) or not looks or any(type(n) is not int or n < 1 for n in looks):
            raise self.lines.error('"looks" are whole numbers of seeds, 1 or more', *where)
        if tuple(looks) != LOOKS[: len(looks)]:
            known = ", ".join(map(str, LOOKS))
            raise self.lines.error(f'"looks" are the first of {known}: the level is split over these', *where)
        return tuple(looks)

    def names(self, key: str) -> tuple[str, ...]:
        found = self.kind(self.data.get(key) or [], list, "a list of names", key)
        return tuple(str(name) for name in found)

    def claimed(self) -> tuple[str, ...]:
        """The claims' own metric, where the file names no headline."""
        metric = self.mapping("claims").get("metric")
        return (str(metric),) if metric else ()

    def mapping(self, key: str) -> dict[str, Any]:
        return self.kind(self.data.get(key) or {}, dict, 'a mapping: lines of "name: value"', key)

    def kind(self, value: Any, kind: type, words: str, *where: str | int) -> Any:
        if not isinstance(value, kind):
            raise self.lines.error(f'"{where[-1]}" must be {words}', *where)
        return value

    def keys(self, tree: Mapping[str, Any], known: Collection[str], what: str, *where: str | int) -> None:
        for key in tree:
            if key not in known:
                raise self.lines.error(f'{what} has no "{key}"{nearest(key, known)}', *where, key)
