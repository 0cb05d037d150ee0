"""The config file of `kd distill` for classifiers: strict YAML, every mistake with its line and the nearest valid name.

    task: classification
    method: bert-pkd               # a recipe of terms; `terms` of your own in its place
    teacher: models/reviews        # a classifier: a folder beside this file, a hub id, or a list
    student: {model: models/reviews, layers: 2}    # another encoder too; a model without a classifier gets one
    data: {from: reviews.csv, columns: {text: review, label: stars}}
    output: my-student
    evaluate: {rows: 200}          # held out; or `data`, rows of their own

Texts and labels are the columns `text` and `label` where nothing else is said. Classes are the teacher's, without one
those of the data in their order. Every other field, with its default: BUDGET, EVALUATE and OPTIONAL below, KEYS of
data/spec.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods.classes.suits import why_not
from reproductions.distill import limits
from reproductions.distill.config import check_output
from reproductions.distill.data.spec import DataSpec, read_spec
from reproductions.distill.method import check_method, read_method
from reproductions.distill.places import student_in, teachers_in
from reproductions.engine.files import content_digest, digest
from reproductions.models.sources import Loading, model_folder

TASK = "classification"
REQUIRED = ("task", "student", "data", "output")
BUDGET: dict[str, Any] = {
    "steps": 1000,  # optimizer steps
    "batch_size": 16,  # texts of one micro-batch
    "accumulate": 1,
    "learning_rate": 5e-5,
    "schedule": "linear",
    "warmup_steps": 0,
    "weight_decay": 0.01,
    "max_grad_norm": 1.0,
    "tokens": 128,  # of a text; longer ones are cut, and counted
}
EVALUATE: dict[str, Any] = {"rows": 200, "data": None, "batch_size": 32}  # rows: half of all at most
OPTIONAL: dict[str, Any] = {
    "method": None,
    "terms": None,
    "settings": {},
    "teacher": None,
    "teacher_terms": None,
    "accept_teacher_terms": False,
    "budget": BUDGET,
    "precision": "fp32",
    "seed": 0,
    "save_every": 100,
    "evaluate": EVALUATE,
}


@dataclass(frozen=True)
class ClassesConfig:
    """What a user asked for, complete with defaults; as `reproductions.distill.config.Config`, but for classes."""

    path: Path
    method: str
    tree: Mapping[str, Any]
    settings: Mapping[str, Any]
    teachers: tuple[str, ...]
    teachers_loaded: tuple[Loading, ...]
    student: str
    student_loaded: Loading
    data: DataSpec
    held_data: DataSpec | None
    held_rows: int
    batch_size: int
    output: Path
    teacher_terms: str | None
    accept_teacher_terms: bool
    budget: Mapping[str, Any]
    precision: str
    seed: int
    save_every: int
    report_to: tuple[str, ...] = ()
    lines: Lines = field(kw_only=True, repr=False, compare=False)

    @property
    def hash(self) -> str:
        """12 hex digits over everything that changes the student."""
        named = ("tree", "budget", "precision", "seed", "held_rows")
        plain = {name: getattr(self, name) for name in named} | {"task": TASK, "inputs": self.inputs}
        return digest(json.loads(json.dumps(plain)), 12)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What is read, by its content as it was when this was first asked for; a model of the hub by its name."""
        found: dict[str, Any] = {"data": self.data.identity}
        if self.held_data is not None:
            found["evaluation"] = self.held_data.identity
        models = [("student", self.student, self.student_loaded)]
        for place, (name, loading) in enumerate(zip(self.teachers, self.teachers_loaded, strict=True), 1):
            models.append((f"teacher {place}", name, loading))
        for what, name, loading in models:
            folder = model_folder(name)
            found[what] = name if folder is None else content_digest(folder)
            if loading != Loading():
                found[f"loading of {what}"] = {key: value for key, value in vars(loading).items() if value}
        return found


def task_of(path: Path) -> str | None:
    """What the `task` of a config file says, None where it has none. Raises CatalogError for another than is known."""
    data, lines = read_yaml_with_lines(path)
    task = data.get("task")
    if task not in (None, TASK):
        raise lines.error(f'no task "{task}"{nearest(str(task), [TASK])}; known: {TASK}', "task")
    return task


def load_classes_config(path: Path) -> ClassesConfig:
    """The config in a file. Raises CatalogError."""
    data, lines = read_yaml_with_lines(path)
    data = {name: value for name, value in data.items() if value is not None}
    limits.check_fields(data, REQUIRED, OPTIONAL, lines)
    recipe, settings, tree = read_method(data, lines)
    teachers, loaded, answers = teachers_in(data, lines)
    if any(answers):
        raise lines.error("answers are kept of what is said of next tokens, not of classes", "teacher")
    student, student_loaded = student_in(data, lines)
    spec, given = read_spec(data, lines, "data"), data.get("evaluate", {})
    if not isinstance(given, Mapping):
        raise lines.error(
            '"evaluate" must be a mapping such as {rows: 200}: a classifier is always measured', "evaluate"
        )
    held = read_spec(data, lines, "evaluate", "data", like=spec) if given.get("data") is not None else None
    numbers = {name: value for name, value in given.items() if name != "data"}
    defaults = {name: value for name, value in EVALUATE.items() if name != "data"}
    evaluate = limits.with_defaults(
        {"evaluate": numbers}, "evaluate", defaults, dict.fromkeys(defaults, limits.COUNT), lines
    )
    config = ClassesConfig(
        path=path,
        method=recipe.id if recipe else "own",
        tree=tree,
        settings=settings,
        teachers=teachers,
        teachers_loaded=loaded,
        student=student,
        student_loaded=student_loaded,
        data=spec,
        held_data=held,
        held_rows=evaluate["rows"],
        batch_size=evaluate["batch_size"],
        output=lines.beside(data["output"], "output"),
        **limits.terms(data, lines),
        budget=limits.with_defaults(data, "budget", BUDGET, limits.BUDGET_RANGES, lines),
        precision=limits.precision(data, lines),
        seed=limits.whole(data, "seed", 0, limits.SETTING_RANGES["seed"], lines),
        save_every=limits.whole(data, "save_every", OPTIONAL["save_every"], limits.COUNT, lines),
        lines=lines,
    )
    limits.check_budget(config.budget, lines)
    check_output(config.output, config.path, config.student, config.teachers, lines)
    check_method(config.tree, data, recipe, config.settings, config.teachers, lines)
    reason = why_not(config.tree)
    if reason is not None:
        raise lines.error(f"{config.method} is not for classes: {reason}", "method" if recipe else "terms")
    return config
