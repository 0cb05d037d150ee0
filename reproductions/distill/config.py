"""The config file of `kd distill`: strict YAML, every mistake with its line and the nearest valid name."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods.recipe import canonical_method, read_recipe, teachers_of
from methods.registry import RegistryError
from reproductions.distill.surroundings import named_teachers
from reproductions.engine.errors import KDError
from reproductions.engine.files import content_digest, digest
from reproductions.models.sources import model_folder

REQUIRED = ("student", "data", "output")
BUDGET: dict[str, Any] = {
    "steps": 1000,  # optimizer steps
    "batch_size": 8,  # sequences of one micro-batch
    "accumulate": 1,  # micro-batches a step
    "learning_rate": 1e-5,
    "schedule": "cosine",
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "prompt_tokens": 512,
    "completion_tokens": 256,
}
LORA: dict[str, Any] = {
    "rank": 16,
    "alpha": 32,
    "dropout": 0.0,
    "targets": [],
}  # no targets: every linear layer
# A method of one's own in place of a recipe's, by the same keys.
OWN_METHOD = ("terms", "sampler", "rows", "trainer", "gradient_balance")
OPTIONAL: dict[str, Any] = {
    "method": None,
    **dict.fromkeys(OWN_METHOD),
    "teacher": None,
    "teacher_terms": None,
    "accept_teacher_terms": False,
    "settings": {},
    "budget": BUDGET,
    "lora": None,
    "precision": "fp32",
    "seed": 0,
    "save_every": 100,
}
PRECISIONS = ("fp32", "bf16-autocast")

# Which entry of catalog/teachers.yaml a model's name belongs to, where the config does not say it.
FAMILIES = {
    "*gpt-oss*": "gpt-oss",
    "*llama-2*": "llama",
    "*llama-3.1*": "llama-3-1",
    "*llama-3.2*": "llama-3-1",
    "*llama-3.3*": "llama-3-1",
    "*llama-3*": "llama-3",
    "*vicuna*": "llama",
    "*gemma*": "gemma",
    "*deepseek-v3*": "deepseek",
    "*deepseek-r1*": "deepseek",
    "*gpt2*": "open-weights",
    "*smollm*": "open-weights",
    "*pythia*": "open-weights",
}


@dataclass(frozen=True)
class Config:
    """What a user asked for, complete with defaults; `settings` are the method's own.

    `method` is the recipe's id, or "own"; `tree` its canonical form, which is what will be computed.
    """

    path: Path
    method: str
    tree: Mapping[str, Any]
    teachers: tuple[str, ...]
    student: str
    data: Path
    output: Path
    teacher_terms: str | None
    accept_teacher_terms: bool
    settings: Mapping[str, Any]
    budget: Mapping[str, Any]
    lora: Mapping[str, Any] | None
    precision: str
    seed: int
    save_every: int

    @property
    def hash(self) -> str:
        """12 hex digits over everything that changes the student: not where it is written or how often it is saved."""
        named = ("tree", "budget", "lora", "precision", "seed")
        plain = {name: getattr(self, name) for name in named} | {"inputs": self.inputs}
        return digest(json.loads(json.dumps(plain)), 12)

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What is read, by its content as it was when this was first asked for; a model of the hub by its name."""
        models = {"student": self.student}
        models |= {f"teacher {place}": name for place, name in enumerate(self.teachers, 1)}
        found = {"data": content_digest(self.data)}
        for what, name in models.items():
            folder = model_folder(name)
            found[what] = name if folder is None else content_digest(folder)
        return found


def load_config(path: Path) -> Config:
    """The config in a file: a recipe with its settings, or terms of one's own. Raises CatalogError."""
    data, lines = read_yaml_with_lines(path)
    known = [*REQUIRED, *OPTIONAL]
    for name in data:
        if name not in known:
            raise lines.error(f'unknown field "{name}"{nearest(name, known)}', name)
    for name in REQUIRED:
        if not isinstance(data.get(name), str) or not data[name].strip():
            raise lines.error(f'"{name}" is missing or not text', *([name] if name in data else []))
    method, settings, tree = _method(data, lines)
    teachers = _teachers(data, lines)
    precision = data.get("precision", OPTIONAL["precision"])
    if precision not in PRECISIONS:
        raise lines.error(f'precision "{precision}"; known: {", ".join(PRECISIONS)}', "precision")
    config = Config(
        path=path,
        method=method,
        tree=tree,
        teachers=teachers,
        student=_place(path, data["student"]),
        data=(path.parent / data["data"]).resolve(),
        output=(path.parent / data["output"]).resolve(),
        teacher_terms=data.get("teacher_terms"),
        accept_teacher_terms=data.get("accept_teacher_terms") is True,
        settings=settings,
        budget=_with_defaults(data, "budget", BUDGET, lines),
        lora=None if data.get("lora") is None else _with_defaults(data, "lora", LORA, lines),
        precision=precision,
        seed=_whole(data, "seed", lines, least=0),
        save_every=_whole(data, "save_every", lines, least=1),
    )
    if not config.data.is_file():
        raise lines.error(f'"data": no file {config.data}', "data")
    _check_output(config, lines)
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
    return config


def _method(data: Mapping[str, Any], lines: Lines) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name, settings with their defaults, and canonical form of the method that a config asks for."""
    own = [name for name in OWN_METHOD if data.get(name) is not None]
    name = data.get("method")
    if name is None and not own:
        raise lines.error('"method" is missing: a recipe, or "terms" of your own')
    settings = data.get("settings") or {}
    if not isinstance(settings, dict):
        raise lines.error('"settings" must be a mapping', "settings")
    try:
        if name is None:
            if settings:
                raise RegistryError(
                    "settings belong to a method of methods/recipes; this config names none", "settings"
                )
            tree = {key: data[key] for key in own if key != "rows"} | {"data": data.get("rows")}
            return "own", {}, canonical_method(tree)
        if own:
            raise RegistryError(
                f"{name} has its own {own[0]}; give either a method or terms of your own", own[0]
            )
        try:
            recipe = read_recipe(str(name))
        except RegistryError as error:
            raise error.below("method") from None
        try:
            made = canonical_method(recipe.method(settings))
        except RegistryError as error:
            inside = error.path if len(error.path) == 1 and error.path[0] in settings else ()
            raise RegistryError(str(error), "settings", *inside) from None
        return recipe.id, {**recipe.settings, **settings}, made
    except RegistryError as error:
        raise lines.error(str(error), *error.path) from None


def check_teacher_terms(config: Config, known: Mapping[str, Any]) -> None:
    """Raise CatalogError where a teacher's terms forbid training on its outputs and nobody said that this is known.

    `known` are the entries of catalog/teachers.yaml. A teacher whose family cannot be told counts as unclear.
    """
    if config.accept_teacher_terms:
        return
    named = [config.teacher_terms] if config.teacher_terms else [family(name) for name in config.teachers]
    for entry in filter(None, named):
        if entry not in known:
            raise CatalogError(
                f'no entry "{entry}" in catalog/teachers.yaml{nearest(entry, known)}', config.path
            )
        if known[entry].allows_training == "no":
            raise CatalogError(
                f"the terms of {known[entry].title} forbid training other models on its outputs ({known[entry].note}) "
                "See whether they bind you; `accept_teacher_terms: true` goes on",
                config.path,
            )


def family(teacher: str) -> str | None:
    """The entry of catalog/teachers.yaml that a model's name tells, or None."""
    name = Path(teacher).name.lower()
    return next((entry for pattern, entry in FAMILIES.items() if fnmatch.fnmatch(name, pattern)), None)


def _check_output(config: Config, lines: Lines) -> None:
    """The student is not written over what it is made from."""
    taken = {model_folder(name): "a teacher's" for name in config.teachers}
    taken |= {config.path.parent: "the config file's", model_folder(config.student): "the student's"}
    for folder, whose in taken.items():
        if folder is not None and folder.resolve() == config.output:
            raise lines.error(f'"output" is {whose} own folder {config.output}: name another one', "output")
    if config.output.exists() and not config.output.is_dir():
        raise lines.error(f'"output": {config.output} is a file, not a folder', "output")


def _teachers(data: Mapping[str, Any], lines: Lines) -> tuple[str, ...]:
    value = data.get("teacher")
    found = value if isinstance(value, list) else [] if value is None else [value]
    for place, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise lines.error('"teacher" must be a model or a list of models', "teacher", place)
    return tuple(_place(lines.path, name) for name in found)


def _place(config: Path, name: str) -> str:
    """A folder beside the config file where there is one, else a hub id as it is."""
    local = config.parent / name
    return str(local.resolve()) if local.is_dir() else name


def _with_defaults(
    data: Mapping[str, Any], name: str, defaults: Mapping[str, Any], lines: Lines
) -> dict[str, Any]:
    given = data.get(name) or {}
    if not isinstance(given, dict):
        raise lines.error(f'"{name}" must be a mapping', name)
    for key, value in given.items():
        if key not in defaults:
            listed = ", ".join(defaults) or "none"
            raise lines.error(f'{name}: unknown "{key}"{nearest(key, defaults)}; known: {listed}', name, key)
        _check_kind(value, defaults[key], f"{name}: {key}", lines, name, key)
    return {**defaults, **given}


def _check_kind(value: Any, default: Any, what: str, lines: Lines, *where: str) -> None:
    if isinstance(default, bool) or not isinstance(default, int | float):
        if default is not None and type(value) is not type(default):
            raise lines.error(f"{what} must be like {json.dumps(default)}", *where)
        return
    fits = (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
    if not fits or (isinstance(default, int) and not isinstance(value, int)):
        kind = "a whole number" if isinstance(default, int) else "a number"
        raise lines.error(f"{what} must be {kind} of 0 or more", *where)


def _whole(data: Mapping[str, Any], name: str, lines: Lines, *, least: int) -> int:
    value = data.get(name, OPTIONAL[name])
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise lines.error(f'"{name}" must be a whole number of {least} or more', name)
    return value
