"""Models of a testbed, of its own file or of an experiment's scale: their keys, and what fits what."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any, Protocol

from catalog.reader import nearest
from reproductions.tasks.base import TASKS

MAIN = "main"
TOKENIZER = ("of", "pad", "eos", "trimmed", "merges", "tokens", "completion")
SHAPE = ("layers", "hidden", "heads", "intermediate")
MODEL = ("like", "shape", "model", "layers", "frozen", "drawn", "pooled", "rows", "tokens")
STUDENT = (*MODEL, "base")
# What these keys may say, of models that classify.
CLASSIFIERS_ALONE = {"frozen": "embeddings", "drawn": "blocks", "pooled": "mean"}
TEACHER = (*MODEL, "oracle", "training", "first", "answers", "seed", "draws", "tokenizer", "prompted")
PROMPTED = ("prompt", "before", "ends", "calibrate")
BASE = ("rows", "training", "seed")


class Place(Protocol):
    """Where models were written: makes the error of a place in it."""

    def error(self, message: str, *path: str | int) -> Exception: ...


def check_models(tree: Mapping[str, Any], where: Place) -> None:
    task = tree["task"].get("name")  # an unknown one is said where the task is checked
    classifies = task in TASKS.all and TASKS.find(task).classifies  # type: ignore[attr-defined]
    for kind, known in {"students": STUDENT, "teachers": TEACHER}.items():
        for name, model in tree[kind].items():
            check_keys(model, known, f'"{name}"', where, kind, name)
            if "oracle" in model:
                _check_oracle(model, tree["task"], where, kind, name)
                continue
            if ("shape" in model) == ("model" in model):
                raise where.error(
                    'a model has either a "shape", from scratch, or a "model", a hub id', kind, name
                )
            for key, value in CLASSIFIERS_ALONE.items():
                if key in model and (model[key] != value or not classifies):
                    raise where.error(f'"{key}" is {value}, and of models that classify', kind, name, key)
            if "prompted" in model:
                _check_prompted(model, bool(classifies), where, kind, name)
            if "base" in model:
                _check_base(model, where, kind, name)
            if "shape" in model and sorted(model["shape"]) != sorted(SHAPE):
                raise where.error(f"a shape is {', '.join(SHAPE)}", kind, name, "shape")
            if "shape" in model and kind == "teachers" and "training" not in model:
                raise where.error('a teacher from scratch needs a "training"', kind, name)
            if "draws" in model:
                if type(model["draws"]) is not int or model["draws"] < 1:
                    raise where.error(
                        '"draws" is how often a teacher is made: a whole number', kind, name, "draws"
                    )
                if "prompted" not in model and ("training" not in model or "seed" in model):
                    raise where.error(
                        '"draws" are of a teacher trained here, or asked in words; they take the place of its "seed"',
                        kind,
                        name,
                        "draws",
                    )
            if "tokenizer" in model:
                check_keys(model["tokenizer"], TOKENIZER, '"tokenizer"', where, kind, name, "tokenizer")
            source = model.get("answers", {}).get("of", MAIN) if "answers" in model else None
            if source is not None and source not in tree[kind]:
                raise where.error(
                    f'no teacher is called "{source}"{nearest(str(source), tree[kind])}',
                    kind,
                    name,
                    "answers",
                    "of",
                )


def _check_oracle(model: Mapping[str, Any], task: Mapping[str, Any], where: Place, *path: str) -> None:
    """A task's own program and nothing else; its settings are those of the task's `oracle`."""
    if set(model) != {"oracle"}:
        raise where.error("an oracle is the task's own program: it takes nothing else", *path)
    if task.get("name") not in TASKS.all:
        return  # said where the task is checked
    kind: Any = TASKS.find(task["name"])
    taken = inspect.signature(kind.oracle).parameters.values()
    known = [item.name for item in taken if item.kind is item.KEYWORD_ONLY]
    if not known:
        raise where.error(f"the task {task['name']} has no oracle", *path, "oracle")
    check_keys(model["oracle"] or {}, known, "the oracle", where, *path, "oracle")


def _check_prompted(model: Mapping[str, Any], classifies: bool, where: Place, *path: str) -> None:
    check_keys(model["prompted"], PROMPTED, '"prompted"', where, *path, "prompted")
    for key in model.keys() - {"model", "prompted", "draws"}:
        raise where.error(f'a model asked in words takes no "{key}": it is as published', *path, key)
    if not classifies:
        raise where.error("only texts that are classified are asked about in words", *path, "prompted")


def _check_base(model: Mapping[str, Any], where: Place, *path: str) -> None:
    if "shape" not in model:
        raise where.error("a published model is its own base", *path, "base")
    check_keys(model["base"], BASE, '"base"', where, *path, "base")
    for key in ("rows", "training"):
        if key not in model["base"]:
            raise where.error(f'a base needs "{key}"', *path, "base")


def check_keys(
    tree: Mapping[str, Any], allowed: Collection[str], what: str, where: Place, *path: str
) -> None:
    if not isinstance(tree, Mapping):
        raise where.error(f"{what} is a mapping", *path)
    for key in tree:
        if key not in allowed:
            raise where.error(
                f'{what} has no "{key}"{nearest(str(key), allowed)}; it may have {", ".join(allowed)}',
                *path,
                key,
            )
