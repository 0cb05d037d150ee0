"""The method of a config, a recipe or terms of one's own; what is wrong is told where it was written."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest
from methods.engine import MODES, Engine
from methods.errors import MethodError
from methods.recipe import (
    ITSELF,
    OF_ANSWERS,
    OPTIMISES,
    Recipe,
    canonical_method,
    columns_in,
    components_of,
    read_recipe,
    readings_of,
    recipe_ids,
    teachers_of,
    variables,
)
from methods.registry import RegistryError
from reproductions.distill import limits
from reproductions.distill.surroundings import named_teachers
from reproductions.engine.errors import KDError

# A method of one's own in place of a recipe's, by the same keys; `rows` are a recipe's `data`.
OWN_METHOD = ("terms", "sampler", "rows", "trainer", "gradient_balance", "advantage", "rewards")
MADE_UP = (4, 3, 5)  # tokens, width, ids that a divergence is tried on
# Who writes what the student samples while it learns, in the place of our own loop. "memory" is a share of the GPU's.
ROLLOUTS: Mapping[str, Any] = {
    "engine": "vllm",
    "mode": "colocate",
    "server": "",
    "memory": 0.3,
    "sleep": False,
}
ROLLOUT_RANGES = {"memory": limits.Range(0, 1, "both")}


def read_method(
    data: Mapping[str, Any], lines: Lines
) -> tuple[Recipe | None, dict[str, Any], dict[str, Any]]:
    """The recipe (None for one's own terms), the settings with their defaults, and the canonical form of both."""
    own = [name for name in OWN_METHOD if data.get(name) is not None]
    name = data.get("method")
    settings = data.get("settings")
    settings = {} if settings is None else settings
    if not isinstance(settings, dict):
        raise lines.error('"settings" must be a mapping', "settings")
    if name is None:
        if not own:
            raise lines.error('"method" is missing: a recipe, or "terms" of your own')
        if settings:
            raise lines.error(
                "settings belong to a method of methods/recipes; this config names none", "settings"
            )
        try:
            return None, {}, canonical_method(_own_tree(data))
        except RegistryError as error:
            raise lines.error(str(error), *_in_file(error.path)) from None
    if own:
        raise lines.error(f"{name} has its own {own[0]}; give either a method or terms of your own", own[0])
    wanted, known = str(name).replace("_", "-"), recipe_ids()
    if wanted not in known:
        raise lines.error(f'no method "{name}"{nearest(wanted, known)}; known: {", ".join(known)}', "method")
    recipe = read_recipe(wanted)
    unknown = next((key for key in settings if key not in recipe.settings), None)
    try:
        return recipe, {**recipe.settings, **settings}, canonical_method(recipe.method(settings))
    except RegistryError as error:
        if unknown is not None:
            raise lines.error(str(error), "settings", unknown) from None
        raise _told(error, recipe, data, lines) from None


def check_method(
    tree: Mapping[str, Any],
    data: Mapping[str, Any],
    recipe: Recipe | None,
    settings: Mapping[str, Any],
    teachers: Sequence[str],
    lines: Lines,
) -> None:
    """Raises CatalogError for settings out of range, components that cannot be made of them, and teachers that miss."""
    method, raw = (recipe.id, recipe.tree) if recipe else ("own", _own_tree(data))
    limits.check_settings(raw, settings, lambda message, *path: lines.error(message, *_in_file(path)))
    needed = teachers_of(tree)
    if not needed and teachers:
        raise lines.error(
            f"{method} learns from the data alone; take the teacher out, or another method", "teacher"
        )
    if needed and not teachers:
        raise lines.error(f'{method} needs a "teacher"')
    try:
        named_teachers(tree, needed, list(teachers))
    except KDError as error:
        raise lines.error(f"{method}: {error}", "teacher") from None
    try:
        try_out(tree, len(teachers))
    except RegistryError as error:
        path = error.path
        if path[:1] == ("terms",):  # a term of weight zero is none, so the others have other numbers
            weights = [
                settings.get(str(part.get("weight"))[1:], part.get("weight", 1)) for part in raw["terms"]
            ]
            path = "terms", [n for n, weight in enumerate(weights) if weight != 0][int(path[1])], *path[2:]
        raise _told(RegistryError(str(error), *path), recipe, data, lines) from None


def _told(error: RegistryError, recipe: Recipe | None, data: Mapping[str, Any], lines: Lines) -> CatalogError:
    """An error somewhere in a method's tree, where the user wrote what it is about."""
    if recipe is None:
        return lines.error(str(error), *_in_file(error.path))
    found: Any = recipe.tree
    for step in error.path:
        inside = isinstance(found, Mapping) and step in found
        inside |= isinstance(found, list) and isinstance(step, int) and step < len(found)
        if not inside:
            break
        found = found[step]
    given = data.get("settings") or {}
    names = [name for name in dict.fromkeys(variables(found)) if name in given]
    if len(names) == 1:
        return lines.error(f"{names[0]}: {error}", "settings", names[0])
    return lines.error(f"{recipe.id}: {error}", "settings" if given else "method")


def _own_tree(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config that are a method, as a recipe has them."""
    named = {key: data[key] for key in OWN_METHOD if data.get(key) is not None}
    tree = {("data" if key == "rows" else key): value for key, value in named.items()}
    return tree if data.get("teacher") else {**tree, "teacher": None}


def _in_file(path: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Where a part of one's own method stands in the config."""
    return ("rows", *path[1:]) if path[:1] == ("data",) else path


def read_engine(data: Mapping[str, Any], tree: Mapping[str, Any], layers: Any, lines: Lines) -> Engine | None:
    """The engine of `rollouts`, None where a config names none; `layers` is what is kept of the student's, if not all.

    Raises CatalogError for what is unknown or misses, for a method whose answers no engine can write, and where vLLM
    or a GPU is not there.
    """
    if data.get("rollouts") is None:
        return None
    if isinstance(data["rollouts"], str):
        data = {"rollouts": {"engine": data["rollouts"]}}
    found = limits.with_defaults(data, "rollouts", ROLLOUTS, ROLLOUT_RANGES, lines)
    for key, known in (("engine", ("vllm",)), ("mode", MODES)):
        if found[key] not in known:
            near = nearest(found[key], known)
            raise lines.error(
                f'rollouts: no {key} "{found[key]}"{near}; known: {", ".join(known)}', "rollouts", key
            )
    if (found["mode"] == "server") != bool(found["server"]):
        raise lines.error(
            "rollouts: `mode: server` and the address of a `server` belong together", "rollouts", "server"
        )
    reason = why_no_engine(tree)
    if reason is None and layers is not None:
        reason = "vLLM starts from the folder of the student, which has other layers; save the cut first"
    if reason is None:
        reason = _engine_misses()
    if reason is not None:
        raise lines.error(f"rollouts: {reason}", "rollouts")
    return Engine(found["mode"], found["server"] or None, float(found["memory"]), found["sleep"])


def why_no_engine(tree: Mapping[str, Any]) -> str | None:
    """Why an engine cannot write what a canonical method samples, if so."""
    from methods.registry import load

    trainer = tree["trainer"]
    samplers = [name for slot, name in components_of(tree) if slot == "sampler" and name != "domains"]
    if trainer["name"] in OF_ANSWERS and not samplers:
        return "this method learns from rows that are there before, and nothing is sampled"
    if trainer["name"] not in (*OF_ANSWERS, *OPTIMISES):
        return f"the trainer {trainer['name']} has a loop of its own, which no engine can stand in for"
    if trainer.get("teacher_mix"):
        return "teacher_mix: student and teacher write together, which no engine does"
    own = [name for name in samplers if getattr(load("sampler", name), "own_loop", False)]
    rule = "writes token by token by a rule, or with the teacher, which no engine does"
    return f"the sampler {own[0]} {rule}" if own else None


def _engine_misses() -> str | None:
    """What vLLM needs and is not there, if anything."""
    from importlib.util import find_spec

    import torch

    if find_spec("vllm") is None:
        what = "the package vllm (pip install 'trl[vllm]'), which is not installed"
    elif not torch.cuda.is_available():
        what = "a GPU"
    else:
        return None
    return f"vLLM needs {what}; without `rollouts` the student writes by itself"


# A method tried out before a model is loaded: components are made, divergences measured on made-up numbers.


def try_out(method: Mapping[str, Any], teachers: int) -> None:
    """Raises RegistryError whose path leads to the part of a canonical method that cannot work with its settings."""
    from methods.registry import build

    if method["trainer"]["name"] == "teacher-alone":
        raise RegistryError("teacher-alone trains nothing: it is for measuring a teacher", "trainer")
    there = teachers + (ITSELF in method["teachers"])
    for place, tree in enumerate(method.get("terms", ())):
        _try("terms", place, run=lambda tree=tree: _term(tree, method, there))
    if (reads := readings_of(method)) is not None:
        _try("trainer", run=lambda: columns_in(reads))
    if "advantage" in method:
        _try("advantage", run=lambda: _advantage(method, there))
    for place, tree in enumerate(method.get("rewards", ())):
        _try("rewards", place, run=lambda tree=tree: build("reward", tree))
    if "sampler" in method:
        _try("sampler", run=lambda: build("sampler", method["sampler"]))


def _try(*path: str | int, run: Any) -> None:
    try:
        run()
    except RegistryError as error:
        raise error.below(*path) from None
    except (TypeError, ValueError, IndexError, KeyError) as error:  # a MethodError is a ValueError
        raise RegistryError(" ".join(str(error).split()), *path) from None


def _term(tree: Mapping[str, Any], method: Mapping[str, Any], teachers: int) -> None:
    from methods.assembly import term_of
    from methods.slots.term import NOTHING, weight_at
    from methods.slots.terms.divergence import Divergence

    made = term_of(tree, Nowhere(), method["teachers"])  # type: ignore[arg-type]
    weight_at(made.weight, 0.0)  # a schedule that cannot be says so
    if made.reads != NOTHING and not teachers:
        raise MethodError('this term reads a "teacher", and the config names none')
    if isinstance(made, Divergence) and made._by_rows is None and not callable(made.settings):
        _measure(made)


def _advantage(method: Mapping[str, Any], teachers: int) -> None:
    """An advantage whose teachers and rewards are there."""
    from methods.registry import build
    from methods.slots.advantages import asked_of
    from methods.slots.advantages.signals import DIVERGENCE

    asked = asked_of(build("advantage", method["advantage"]))
    numbers = {who for who in asked if isinstance(who, int)} | ({0} if DIVERGENCE in asked else set())
    if max(numbers, default=-1) >= teachers:
        raise MethodError(f"this advantage asks teacher number {max(numbers)}, counted from 0, of {teachers}")
    if any(
        name == "advantage" and "reward" in what for name, what in components_of(method)
    ) and not method.get("rewards"):
        raise MethodError('this advantage is about rewards, and the method has no "rewards"')


def _measure(term: Any) -> None:
    """A divergence between two distributions that differ is not zero, or nothing would be learnt from it."""
    import torch

    from methods.losses.fused.linear import Head, linear_divergence

    draws = torch.Generator().manual_seed(0)
    tokens, width, ids = MADE_UP
    sides = [
        (torch.randn(tokens, width, generator=draws), Head(torch.randn(ids, width, generator=draws)))
        for _ in range(2)
    ]
    given = {"divergence": term.divergence, "temperature": term.temperature, **term.settings}
    value = float(linear_divergence(*sides[0], *sides[1], **given).total)
    if not abs(value) > 1e-6:
        said = ", ".join(f"{name}: {setting}" for name, setting in term.settings.items()) or "its settings"
        shown = "no number" if math.isnan(value) else "0"
        raise MethodError(
            f"with {said} this divergence is {shown} whatever the models say: nothing would be learnt"
        )


class Nowhere:
    """Surroundings without models: what a term asks for when it is made."""

    seed = 0

    def __init__(self, tokenizer: Any = None) -> None:
        self.tokenizer = tokenizer

    def corpus(self) -> None:
        """A config names no plain text."""
