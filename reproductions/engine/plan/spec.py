"""What a run computes, as canonical data: the spec of an arm at a scale, and the key that is its hash.

Whatever can change a student stands in it: task and models, the method as a choice of components, training, start,
precision. What cannot (a title, a device, a path, the seconds it may take, what is measured on it) does not. So two
papers with one arm have one key, and a changed loss has another. What is no plain data is refused.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError, nearest
from methods.recipe import (
    METHOD_KEYS,
    OF_CLASSES,
    WRITES,
    canonical_method,
    read_recipe,
    substitute,
    teachers_of,
    variables,
)
from methods.registry import RegistryError
from reproductions.engine.errors import KDError
from reproductions.engine.files import canonical_json, digest
from reproductions.engine.plan.experiment import SWEPT, Arm, Experiment, Scale
from reproductions.engine.plan.rates import (
    Sweep,
    Tuning,
    best_rate,
    rate_name,
    recorded_figures,
    sweep_of,
    tuning_of,
)
from reproductions.tasks.base import TASKS

KEY_DIGITS = 16
SPEC_VERSION = (
    3  # of the form of a spec; goes up where the same words come to mean something else. 2: metrics in it
)
STARTS = ("sft", "pretrained")
# A testbed's defaults that a scale may change, and that every run has.
SHARED = ("precision", "test_examples", "lora")


def key_of(spec: Mapping[str, Any]) -> str:
    """The name of an arm's results: the hash of its spec. Raises KDError for what is no plain data."""
    return digest(dict(spec), KEY_DIGITS)


class UnsweptError(KDError):
    """A learning rate is to come from a sweep that is not recorded, or not all of it."""


def specs_at(
    experiment: Experiment, scale: str, testbed: Mapping[str, Any] | None = None, *, unswept: bool = False
) -> dict[str, dict[str, Any]]:
    """The spec of every arm that runs at a scale, in order.

    Raises UnsweptError where a sweep is wanting; with `unswept` the rate is then "swept": such a spec can be shown, and
    its key has no results.
    """
    chosen = experiment.scale(scale)
    bed = with_models(testbed, chosen) if testbed is not None else read_testbed_of(experiment, chosen)
    rates: Mapping[str, float | str] = {}
    try:
        rates = swept_rates(experiment, scale, bed)
    except UnsweptError:
        if not unswept:
            raise
        rates = dict.fromkeys(swept_arms(experiment, scale), SWEPT)
    return {
        name: spec_of(experiment, scale, name, bed, learning_rate=rates.get(name)) for name in chosen.arms
    }


def sweep_keys(experiment: Experiment, scale: str, testbed: Mapping[str, Any]) -> dict[str, str]:
    """What each arm's sweep is of: the key of its spec without a learning rate."""
    found = {}
    for arm in experiment.scale(scale).arms:
        spec = spec_of(experiment, scale, arm, testbed, learning_rate=0.0)
        del spec["training"]["learning_rate"]
        found[arm] = key_of(spec)
    return found


def start_specs(experiment: Experiment, scale: str, testbed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each arm, a training that leaves its start as it is: one step on the rows at the rate 0, by no teacher.

    Arms of one start have one such spec, whatever their method and training are.
    """
    from reproductions.testbeds import identity

    found = {}
    for arm in experiment.scale(scale).arms:
        spec = spec_of(experiment, scale, arm, testbed, learning_rate=0.0)
        student = spec.get("student") or "main"
        of_classes = spec["method"]["trainer"]["name"] == OF_CLASSES
        method = canonical_method({"terms": [{"term": "next-token"}]}, {})
        if of_classes:
            method = {**method, "trainer": {"name": OF_CLASSES}}
        found[arm] = {
            **{name: value for name, value in spec.items() if name != "code"},
            "testbed": json.loads(canonical_json(identity(testbed, teachers=(), student=student))),
            "method": json.loads(canonical_json(method)),
            "training": {"max_steps": 1, "per_device_train_batch_size": 1, "learning_rate": 0.0},
        }
    return found


def start_key(spec: Mapping[str, Any]) -> str:
    """Where the figures of a start are kept: as those of a sweep of one rate, 0."""
    training = {name: value for name, value in spec["training"].items() if name != "learning_rate"}
    return key_of({**spec, "training": training})


def swept_arms(experiment: Experiment, scale: str) -> list[str]:
    """The arms of a scale whose rate is to come from its sweep."""
    arms = experiment.scale(scale).arms
    return [arm for arm in arms if declared_rate(experiment, scale, arm) == SWEPT]


def sweep_at(
    experiment: Experiment,
    scale: str,
    testbed: Mapping[str, Any],
    tuning: Tuning,
    arms: Collection[str],
    root: Path | None = None,
) -> Sweep:
    """Where the sweep of these arms stands, from what is recorded by arm."""
    keys, figures, higher = sweep_keys(experiment, scale, testbed), {}, True
    for arm in arms:
        figures[arm], found = recorded_figures(str(testbed["name"]), keys[arm], tuning.metric, root)
        higher = found if figures[arm] else higher
    starts: dict[str, Mapping[str, float]] = {}
    if tuning.floor:
        specs = start_specs(experiment, scale, testbed)
        for arm in arms:
            known, found = recorded_figures(str(testbed["name"]), start_key(specs[arm]), tuning.metric, root)
            starts[arm] = known.get(rate_name(0.0), {})
            higher = found if known else higher
    return sweep_of(tuning, figures, higher, starts)


def at_an_edge(
    experiment: Experiment, scale: str, testbed: Mapping[str, Any], root: Path | None = None
) -> str | None:
    """Whose best rate is the last of a grid that may grow no more, so that the optimum may lie beyond, in words."""
    arms = swept_arms(experiment, scale)
    tuning = tuning_of(experiment.scale(scale), testbed) if arms else None
    if tuning is None or not tuning.by_arm:
        return None
    sweep = sweep_at(experiment, scale, testbed, tuning, arms, root)
    if not sweep.edges:
        return None
    grid = ", ".join(map(rate_name, sweep.grid))
    return (
        f"at scale {scale} the best rate of {', '.join(sweep.edges)} is the last of the grid {grid}: widen it"
    )


def swept_rates(experiment: Experiment, scale: str, testbed: Mapping[str, Any]) -> dict[str, float]:
    """The rates that a sweep recorded by arm found best; {} where the scale has none. KDError where it is not whole."""
    chosen = experiment.scale(scale)
    arms = swept_arms(experiment, scale)
    tuning = tuning_of(chosen, testbed) if arms else None
    if tuning is None or not tuning.by_arm:
        return {}
    sweep = sweep_at(experiment, scale, testbed, tuning, arms)
    wanting = {**sweep.missing, **{f"the start of {arm}": seeds for arm, seeds in sweep.starts.items()}}
    if wanting:
        runs = sum(map(len, wanting.values()))
        raise UnsweptError(
            f"{experiment.paper} at scale {scale}: {runs} runs of its sweep are not recorded "
            f"({', '.join(wanting)}); `kd tune {experiment.paper} --scale {scale}` makes them"
        )
    return dict(sweep.best)


def read_testbed_of(experiment: Experiment, scale: Scale) -> dict[str, Any]:
    """The testbed of a scale as data, with teachers as the scale changes them; an error names the asking line.

    Testbeds are the YAML files of `testbeds` beside the experiments' folder, of the atlas where there is no such.
    """
    from reproductions.testbeds import ROOT, read_testbed
    from reproductions.testbeds.models import STUDENT, check_keys, check_models

    beside = experiment.path.parent.parent / "testbeds"
    try:
        testbed = read_testbed(scale.testbed, beside if beside.is_dir() else ROOT)
    except KDError as error:
        raise experiment.error(str(error), "scales", scale.name, "testbed") from None
    students, where = scale.settings.get("student", {}), _OfAScale(experiment, scale.name)
    check_keys(students, students, '"student"', where)
    made = with_models(testbed, scale)
    own = {name: made["students"][name] for name in students}
    for name in own:
        check_keys(own[name], [key for key in STUDENT if key != "like"], f'"{name}"', where, "students", name)
    check_models({**made, "students": own, "teachers": {}}, where)
    return made


@dataclass(frozen=True)
class _OfAScale:
    """Where a scale's own students were written."""

    experiment: Experiment
    scale: str

    def error(self, message: str, *path: str | int) -> Exception:
        return self.experiment.error(message, "scales", self.scale, "student", *path[1:])


def with_models(testbed: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """The testbed with teachers and students as the scale changes them, or adds some."""
    from reproductions.testbeds import changed

    own = {f"{kind}s": scale.settings.get(kind) for kind in ("teacher", "student")}
    return changed(testbed, {kind: models for kind, models in own.items() if models})


def spec_of(
    experiment: Experiment,
    scale: str,
    arm: str,
    testbed: Mapping[str, Any],
    *,
    learning_rate: float | str | None = None,
) -> dict[str, Any]:
    """Everything that decides the figures of an arm at a scale, but the seed.

    `learning_rate` takes the place of the declared or swept one (for a sweep). Raises CatalogError with file, line and
    the nearest valid name.
    """
    chosen, entry = experiment.scale(scale), experiment.arm(arm)
    own = chosen.own.get(entry.declared, {})
    defaults = testbed.get("defaults", {})
    method = _method(experiment, chosen, entry, own, defaults)
    task: Any = TASKS.find(testbed["task"]["name"])
    if task.classifies and method["trainer"]["name"] == WRITES:
        method = {**method, "trainer": {"name": OF_CLASSES}}  # the same terms, on labels
    start = own.get("start") or chosen.settings.get("start") or defaults.get("start") or "sft"
    if start not in STARTS:
        raise experiment.error(f'"start" is {" or ".join(STARTS)}, not {start!r}', "scales", scale)
    training = {
        **defaults.get("training", {}),
        **chosen.settings.get("training", {}),
        **entry.tree.get("training", {}),
        **own.get("training", {}),
    }
    rate = learning_rate if learning_rate is not None else _rate(experiment, chosen, entry, testbed)
    if rate is not None:
        training["learning_rate"] = rate if rate == SWEPT else float(rate)
    spec: dict[str, Any] = {
        "version": SPEC_VERSION,
        "testbed": _testbed(testbed, chosen, method, entry.tree.get("student")),
        "method": method,
        "start": start,
        "training": training,
    }
    if start == "sft":
        spec["sft_start"] = {**defaults.get("sft_start", {}), **chosen.settings.get("sft_start", {})}
        published = any("model" in tree for tree in spec["testbed"]["students"].values())
        if published and not spec["sft_start"]:
            what = f'"start" is sft, and neither {scale} nor its testbed says how: sft_start, or start: pretrained'
            raise experiment.error(what, "scales", scale)
    if experiment.code is not None:
        spec["code"] = experiment.code
    student = entry.tree.get("student")
    if student is not None:
        spec["student"] = student
    for name in SHARED:
        value = chosen.settings.get(name, defaults.get(name))
        if value is not None:
            spec[name] = value
    try:
        return json.loads(canonical_json(spec))
    except KDError as error:
        raise experiment.error(f"arm {arm}: {error}", "arms", entry.declared) from None


def curve_of(scale: Scale, testbed: Mapping[str, Any]) -> dict[str, Any]:
    """The learning curve of the runs at a scale, none where nobody asks for one: it changes no student."""
    asked = scale.settings.get("curve", testbed.get("defaults", {}).get("curve"))
    return dict(asked) if asked else {"points": 0}


def declared_rate(experiment: Experiment, scale: str, arm: str) -> Any:
    """The learning rate that the file gives an arm at a scale: a number, "swept", or None."""
    chosen, entry = experiment.scale(scale), experiment.arm(arm)
    own = chosen.own.get(entry.declared, {})
    for place in (own, entry.tree, chosen.settings):
        if place.get("learning_rate") is not None:
            return place["learning_rate"]
    return None


def _rate(experiment: Experiment, scale: Scale, arm: Arm, testbed: Mapping[str, Any]) -> float | None:
    rate = declared_rate(experiment, scale.name, arm.name)
    if rate != SWEPT:
        return rate
    by_arm = swept_rates(experiment, scale.name, testbed)
    return by_arm[arm.name] if arm.name in by_arm else best_rate(experiment.paper, scale.name, arm.name)


def _method(
    experiment: Experiment, scale: Scale, arm: Arm, own: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The arm's method in its canonical form: recipe, the arm's own keys, the scale's, in this order."""
    where: tuple[str | int, ...] = ("arms", arm.declared)
    known = {**scale.settings.get("set", {}), "teacher": arm.tree.get("teacher", "main"), **arm.point}
    try:
        tree: dict[str, Any] = {}
        settings = substitute({**arm.tree.get("settings", {}), **own.get("settings", {})}, known)
        if "method" in arm.tree:
            tree = read_recipe(arm.tree["method"]).method(settings)
        elif settings:
            raise RegistryError(
                "settings belong to a method of methods/recipes; this arm names none", "settings"
            )
        keys = {key: value for place in (arm.tree, own) for key, value in place.items() if key in METHOD_KEYS}
        tree |= substitute(keys, known)
        steps = _steps(experiment, tree, known)
        if scale.settings.get("plus_terms") and tree.get("teacher", "main") is not None:
            tree["terms"] = [*tree["terms"], *scale.settings["plus_terms"]]
        return canonical_method(
            _with_defaults(tree, defaults), {n: _with_defaults(s, defaults) for n, s in steps.items()}
        )
    except RegistryError as error:
        raise experiment.error(str(error), *_place(experiment, where, error.path)) from None


def _steps(experiment: Experiment, tree: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The data steps that the arm can do with its variables; the others may belong to other arms."""
    made = {}
    for name, step in experiment.steps.items():
        if set(variables(step)) <= set(known):
            made[name] = substitute(step, known)
    return made


def _with_defaults(tree: Any, defaults: Mapping[str, Any]) -> Any:
    """Settings that the testbed gives a data step where the arm says nothing: how a teacher is asked there."""
    if isinstance(tree, list):
        return [_with_defaults(item, defaults) for item in tree]
    if not isinstance(tree, Mapping):
        return tree
    made = {name: _with_defaults(item, defaults) for name, item in tree.items()}
    if isinstance(made.get("use"), str):
        given = defaults.get(made["use"], {})
        made = {**given, **made}
    return made


def _place(
    experiment: Experiment, where: tuple[str | int, ...], path: tuple[str | int, ...]
) -> tuple[str | int, ...]:
    """The line to name: the value itself where it stands in the arm, the method's name where it is the recipe's."""
    exact = (*where, *path)
    arm = experiment.data["arms"][where[1]]
    if path and path[0] not in arm and "method" in arm:
        return (*where, "method")
    return exact


def _testbed(
    testbed: Mapping[str, Any], scale: Scale, method: Mapping[str, Any], student: str | None
) -> dict[str, Any]:
    """What of a testbed decides a student: its task, its shape, the teachers that are asked."""
    from reproductions.testbeds import identity

    for what, known, wanted in (
        ("teacher", testbed.get("teachers", {}), teachers_of(method)),
        ("student", testbed.get("students", {}), [student or "main"]),
    ):
        for name in wanted:
            if name not in known:
                has = f"{nearest(name, known)}; it has {', '.join(known) or 'none'}"
                raise CatalogError(f'testbed {scale.testbed} has no {what} "{name}"{has}')
    return identity(testbed, teachers=teachers_of(method), student=student or "main")
