"""`lm_eval:` of an evaluation: tasks of lm-evaluation-harness, in its own words, beside the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.distill.limits import COUNT, Range
from reproductions.engine.files import content_digest, digest

PACKAGE = "lm_eval"
KEYS: Mapping[str, Any] = {
    "tasks": [],  # names of tasks, groups or tags; one of them as text
    "include_path": None,  # a folder of task files of one's own, beside the config
    "limit": None,  # so many examples of each task, a share of them below 1; None: all
    "num_fewshot": None,  # shots; None: what each task says
    "batch_size": 8,
    "apply_chat_template": False,
}
DEFINITIONS = ("yaml", ".py")  # how names end of files that define a task
WHERE = ("evaluate", "lm_eval")


@dataclass(frozen=True)
class Tasks:
    """What is asked for, complete with defaults; `definitions` is a digest of the task files in `include_path`."""

    names: tuple[str, ...]
    include_path: Path | None = None
    limit: int | float | None = None
    num_fewshot: int | None = None
    batch_size: int = 8
    apply_chat_template: bool = False
    definitions: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What the figures depend on, as plain JSON data: not where files lie, nor how much is read at once."""
        return {
            "tasks": list(self.names),
            "definitions": self.definitions,
            "limit": self.limit,
            "num_fewshot": self.num_fewshot,
            "apply_chat_template": self.apply_chat_template,
        }


def read_tasks(given: Any, lines: Lines) -> Tasks | None:
    """The tasks of a config's evaluation, None where it asks for none. Raises CatalogError.

    That there are tasks of these names is checked by `harness.check_tasks`, which asks lm-eval.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise lines.error('evaluate: "lm_eval" must be a mapping such as {tasks: [arc_easy]}', *WHERE)
    for key in given:
        if key not in KEYS:
            near = nearest(key, KEYS)
            raise lines.error(f'lm_eval: unknown "{key}"{near}; known: {", ".join(KEYS)}', *WHERE, key)
    if find_spec(PACKAGE) is None:
        raise lines.error(
            "evaluate: lm_eval needs the package lm-eval, which is not installed; the extra `lm-eval` has it",
            *WHERE,
        )
    value = {**KEYS, **given}
    names = [value["tasks"]] if isinstance(value["tasks"], str) else value["tasks"]
    if not isinstance(names, list) or not names or any(not isinstance(name, str) for name in names):
        raise lines.error("lm_eval: tasks is a list of names such as [arc_easy]", *WHERE, "tasks")
    for place, name in enumerate(names):
        if name in names[:place]:
            raise lines.error(f'lm_eval: the task "{name}" is named twice', *WHERE, "tasks", place)
    _check_numbers(value, lines)
    include, definitions = _included(value["include_path"], lines)
    return Tasks(
        names=tuple(names),
        include_path=include,
        limit=value["limit"],
        num_fewshot=value["num_fewshot"],
        batch_size=value["batch_size"],
        apply_chat_template=value["apply_chat_template"],
        definitions=definitions,
    )


def _check_numbers(value: Mapping[str, Any], lines: Lines) -> None:
    limit = value["limit"]
    share = type(limit) is float and 0 < limit < 1
    if limit is not None and not share and not (type(limit) is int and COUNT.holds(limit)):
        raise lines.error(
            f"lm_eval: limit must be a whole number of {COUNT.asked(limit)}, or a share between 0 and 1",
            *(*WHERE, "limit"),
        )
    shots = value["num_fewshot"]
    for key, number, least in (("num_fewshot", 0 if shots is None else shots, 0), ("batch_size", None, 1)):
        number = value[key] if number is None else number
        within = Range(least)
        if type(number) is not int or not within.holds(number):
            raise lines.error(f"lm_eval: {key} must be a whole number of {within.asked(number)}", *WHERE, key)
    if not isinstance(value["apply_chat_template"], bool):
        raise lines.error("lm_eval: apply_chat_template must be true or false", *WHERE, "apply_chat_template")


def _included(name: Any, lines: Lines) -> tuple[Path | None, str | None]:
    """The folder of task files beside the config, and a digest of what they say."""
    if name is None:
        return None, None
    where = (*WHERE, "include_path")
    if not isinstance(name, str) or not name.strip():
        raise lines.error("lm_eval: include_path must be the name of a folder", *where)
    folder = lines.beside(name, *where)
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.glob("*") if path.is_dir()]
        raise lines.error(f"lm_eval: include_path: no folder {folder}{nearest(folder.name, beside)}", *where)
    try:
        any(folder.iterdir())
        files = sorted(path for path in folder.rglob("*") if path.name.endswith(DEFINITIONS))
        said = [[path.relative_to(folder).as_posix(), content_digest(path)] for path in files]
    except OSError as error:
        raise lines.error(
            f"lm_eval: include_path: {folder} cannot be read: {error.strerror}", *where
        ) from None
    if not any(path.suffix == ".yaml" for path in files):
        raise lines.error(f"lm_eval: include_path: {folder} holds no task (*.yaml)", *where)
    return folder, digest(said, 16)
