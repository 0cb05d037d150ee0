"""`evaluate:` of a config: how many rows are held out, from where, and what is measured on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.distill.data.spec import DataSpec, read_spec
from reproductions.distill.evaluate.tasks import Tasks, read_tasks
from reproductions.distill.limits import Range

SCORES = ("exact-match", "rouge-l")  # of greedy answers, in percent
KEYS: Mapping[str, Any] = {
    "rows": 64,  # answers that are held out and measured, half of all at most
    "data": None,  # where they come from, in place of the training data; the same keys
    "answers": 32,  # so many of them are answered greedily; 0: only the loss is measured
    "scores": ["exact-match", "rouge-l"],
    "batch_size": 8,
    "lm_eval": None,  # tasks of lm-evaluation-harness beside them: KEYS of evaluate/tasks.py
}


@dataclass(frozen=True)
class Evaluation:
    """What is asked for, complete with defaults."""

    rows: int
    data: DataSpec | None
    answers: int
    scores: tuple[str, ...]
    batch_size: int
    lm_eval: Tasks | None = None


def read_evaluation(data: Mapping[str, Any], lines: Lines, like: DataSpec) -> Evaluation | None:
    """The evaluation of a config, None where it asks for none. Raises CatalogError."""
    given = data.get("evaluate")
    if given is None or given is False:
        return None
    given = {} if given is True else given
    if not isinstance(given, Mapping):
        raise lines.error('"evaluate" must be true, or a mapping such as {rows: 64, answers: 32}', "evaluate")
    for key in given:
        if key not in KEYS:
            raise lines.error(
                f'evaluate: unknown "{key}"{nearest(key, KEYS)}; known: {", ".join(KEYS)}', "evaluate", key
            )
    numbers = {}
    for key, least in (("rows", 2), ("answers", 0), ("batch_size", 1)):
        value = given.get(key, KEYS[key])
        within = Range(least)
        if type(value) is not int or not within.holds(value):
            raise lines.error(
                f"evaluate: {key} must be a whole number of {within.asked(value)}", "evaluate", key
            )
        numbers[key] = value
    scores = given.get("scores", KEYS["scores"])
    if not isinstance(scores, list):
        raise lines.error(f"evaluate: scores is a list of {', '.join(SCORES)}", "evaluate", "scores")
    for place, name in enumerate(scores):
        if name not in SCORES:
            raise lines.error(
                f'evaluate: no score "{name}"{nearest(str(name), SCORES)}; known: {", ".join(SCORES)}',
                *("evaluate", "scores", place),
            )
    own = read_spec(data, lines, "evaluate", "data", like=like) if given.get("data") is not None else None
    tasks = read_tasks(given.get("lm_eval"), lines)
    return Evaluation(data=own, scores=tuple(scores), lm_eval=tasks, **numbers)
