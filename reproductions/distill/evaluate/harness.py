"""Tasks of lm-evaluation-harness on models that are loaded already, by its own API: `lm_eval.simple_evaluate`."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from catalog.errors import cut
from catalog.reader import Lines, nearest
from methods.modeling.core import core_model
from methods.tokenizers.templates import EndlessTemplate, chat_text
from reproductions.distill.evaluate.tasks import WHERE, Tasks
from reproductions.engine.errors import KDError


def asked(wanted: Tasks) -> dict[str, Any]:
    """What figures of tasks depend on beside the model, as plain data; lm-eval's version is part of it."""
    return {"version": version("lm_eval"), **wanted.identity}


def check_tasks(wanted: Tasks, lines: Lines) -> None:
    """Raises CatalogError, with the task's line, for one that is unknown, cannot be read, or is not for this machine.

    Reads the tasks' data sets; no model is needed.
    """
    manager, broken = _manager(wanted.include_path, _known_without(wanted))
    seen: dict[str, str] = {}
    for place, name in enumerate(wanted.names):
        where = (*WHERE, "tasks", place)
        if name not in manager.all_tasks:
            near = nearest(name, manager.all_tasks)
            raise lines.error(f'lm_eval: no task "{name}"{near}{_of_the_broken(broken)}', *where)
        try:
            with _quietly():
                loaded = manager.load([name])["tasks"]
        except Exception as error:
            raise lines.error(f'lm_eval: the task "{name}" cannot be read: {_said(error)}', *where) from error
        for task, one in loaded.items():
            if getattr(one, "UNSAFE_CODE", False):
                raise lines.error(
                    f'lm_eval: the task "{task}" runs what a model wrote as a program, which is not done here',
                    *where,
                )
            if getattr(one, "MULTIMODAL", False):
                raise lines.error(f'lm_eval: the task "{task}" has inputs other than text', *where)
            if task in seen:
                raise lines.error(f'lm_eval: the task "{task}" is in "{seen[task]}" and "{name}"', *where)
            seen[task] = name


def run_tasks(model: Any, tokenizer: Any, wanted: Tasks, who: str) -> dict[str, Any] | None:
    """What lm-eval finds of a model with its own weights, in fp32 where they are, adapters among them.

    `tasks`: by name, groups too, its metrics (value and standard error in lm-eval's units), examples, version and
    shots; `shown` says whether the task is one that was asked for, not a part of it. `cut` counts lm-eval's warnings
    that an input was cut on the left. None on a machine's second and further processes, as lm-eval has it.
    Raises KDError.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    core: Any = core_model(model)
    manager, _ = _manager(wanted.include_path, _known_without(wanted))
    training = core.training
    if wanted.apply_chat_template:
        _try_template(tokenizer, who)
    try:
        with _quietly() as told, _own_forward(core):
            # It sets a token to pad with, and sides to pad on: of a copy.
            judged = HFLM(pretrained=core, tokenizer=copy.deepcopy(tokenizer), batch_size=wanted.batch_size)
            found: Any = simple_evaluate(
                model=judged,
                tasks=list(wanted.names),
                num_fewshot=wanted.num_fewshot,
                batch_size=wanted.batch_size,
                limit=wanted.limit,
                apply_chat_template=wanted.apply_chat_template,
                log_samples=False,
                task_manager=manager,
            )
    except Exception as error:
        raise KDError(f"lm-eval could not measure the {who}: {_said(error)}") from error
    finally:
        core.train(training)
    return None if found is None else {"tasks": _figures(found), "cut": sum("runcat" in one for one in told)}


def _try_template(tokenizer: Any, who: str) -> None:
    """Raises KDError where a chat template refuses a question, MethodError where it does not end."""
    try:
        chat_text(tokenizer, [{"role": "user", "content": "a"}])
    except EndlessTemplate:
        raise
    except Exception as error:  # a template raises what it likes
        raise KDError(
            f"apply_chat_template: the {who} has no chat template that works: {_said(error)}"
        ) from error


def _figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers out of lm-eval's results, by task and metric."""
    made: dict[str, Any] = {}
    for name, figures in found["results"].items():
        metrics = {}
        for key, value in figures.items():
            metric, comma, picked = key.partition(",")
            if not comma or metric.endswith("_stderr") or isinstance(value, bool):
                continue
            label = metric if picked == "none" else f"{metric} {picked}"
            metrics[label] = {
                "value": _number(value),
                "stderr": _number(figures.get(f"{metric}_stderr,{picked}")),
            }
        made[name] = {
            "metrics": metrics,
            "examples": figures.get("sample_len"),
            "version": found["versions"].get(name),
            "shots": found["n-shot"].get(name),
        }
    parts = {
        part
        for whole, inside in found.get("group_subtasks", {}).items()
        for part in _all_below(whole, found)
        if made.get(whole, {}).get("metrics")
    }
    return {name: {**one, "shown": bool(one["metrics"]) and name not in parts} for name, one in made.items()}


def _all_below(group: str, found: Mapping[str, Any]) -> Iterator[str]:
    for part in found["group_subtasks"].get(group, []):
        yield part
        yield from _all_below(part, found)


def _number(value: Any) -> float | None:
    """None for what lm-eval has no number for ("N/A"), or one that JSON has not."""
    number = isinstance(value, int | float) or hasattr(value, "item")
    return float(value) if number and math.isfinite(value) else None


def _known_without(wanted: Tasks) -> bool:
    """Whether all names are tasks of one's own, so that lm-eval's fourteen thousand need not be looked through."""
    if wanted.include_path is None:
        return False
    own, _ = _manager(wanted.include_path, True)
    return set(wanted.names) <= set(own.all_subtasks)


@lru_cache(maxsize=8)
def _manager(include: Path | None, own_alone: bool) -> tuple[Any, tuple[tuple[str, str], ...]]:
    """lm-eval's index of tasks, and the files of `include` that it could not read, each with why."""
    from lm_eval.tasks import TaskManager

    with _quietly(logging.DEBUG) as told:
        made = TaskManager(
            include_path=None if include is None else str(include), include_defaults=not own_alone
        )
    skipped = [one.args for one in told.records if str(one.msg).startswith("Skip ") and len(one.args) == 2]
    broken = [
        (Path(path).name, _said(error))
        for path, error in skipped
        if include is not None and Path(path).is_relative_to(include) and not isinstance(error, ValueError)
    ]
    return made, tuple(broken)


def _of_the_broken(broken: tuple[tuple[str, str], ...]) -> str:
    return "".join(f"; {name} in include_path cannot be read: {why}" for name, why in broken[:1])


def _said(error: Exception) -> str:
    """An error of somebody else's in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {cut(text, 240)}" if text else type(error).__name__


class _Told(logging.Handler):
    """What lm-eval logs, kept."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def __iter__(self) -> Iterator[str]:
        return (record.getMessage() for record in self.records)


@contextlib.contextmanager
def _quietly(level: int = logging.WARNING) -> Iterator[_Told]:
    """No bars, prints and log lines of lm-eval between our own; what it logs is kept."""
    logger, told = logging.getLogger("lm_eval"), _Told()
    before = logger.level, logger.propagate, list(logger.handlers)
    logger.setLevel(level)
    logger.propagate, logger.handlers = False, [told]
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield told
    finally:
        logger.setLevel(before[0])
        logger.propagate, logger.handlers = before[1], before[2]


@contextlib.contextmanager
def _own_forward(core: Any) -> Iterator[None]:
    """Trainers patch `forward` on the instance, to autocast for one; what is saved is the model without it."""
    patched = core.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if patched is not None:
            core.__dict__["forward"] = patched
