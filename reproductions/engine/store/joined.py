"""A recorded run and more measures of it, which a later paper wanted.

They are of the same student. On another kind of processor the same training ends in another student, in figures that
differ as those of another rounding do: there the measures that the record lacks are taken of a second training, which
the entry of `made` says (`retrained`, with its student and processor). What is recorded stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.store.arm import RunResults, digest_of, same_figures, same_training
from reproductions.engine.store.cache import DECISIVE

MODEL = ", model "  # as `cpu_name` says it


def joined(where: str, recorded: RunResults, made: RunResults) -> RunResults:
    """The recorded run with the measures that only the other one has; the recorded one itself where there are none.

    Raises KDError that begins with `where` if they are neither the same training nor the same on two kinds of
    processor, or if a second training's measure reads a column that is recorded of the first.
    """
    if same_figures(recorded, made):
        return recorded
    added = [name for name in made.metrics if name not in recorded.metrics]
    if same_training(recorded, made):
        return _with(recorded, made, added, curve=True)
    if not elsewhere(recorded.made_with, made.made_with):
        raise KDError(f"{where} was recorded with other figures; a key is never rewritten")
    brought = {column for name in added for column in made.definitions[name].columns}
    if both := sorted(brought & set(recorded.columns)):
        raise KDError(
            f'{where}: column "{both[0]}" is recorded of a training on {recorded.made_with["cpu"]}; no measure may '
            "read it together with one of another training"
        )
    retrained = {"retrained": True}
    columns = {name: made.columns[name] for name in brought}
    second = replace(made, columns=columns, made=[{**part, **retrained} for part in made.made or ()])
    return _with(recorded, second, added)


def elsewhere(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether two kinds of processor are all that may differ between environments, of what decides figures.

    One name without a model stands for several kinds.
    """
    processors = then.get("cpu"), now.get("cpu")
    if None in processors or (processors[0] == processors[1] and MODEL in str(processors[0])):
        return False
    return all(then.get(name) == now.get(name) for name in DECISIVE)


def _with(run: RunResults, other: RunResults, added: Sequence[str], *, curve: bool = False) -> RunResults:
    """A recorded run with the figures that only the other one measured; its own times and figures stay."""
    points = run.curve
    if curve and run.curve and other.curve:
        points = [
            {**mine, "metrics": {**theirs["metrics"], **mine["metrics"]}}
            for mine, theirs in zip(run.curve, other.curve, strict=True)
        ]
    more = replace(
        run,
        metrics={**run.metrics, **{name: other.metrics[name] for name in added}},
        columns={**other.columns, **run.columns},
        definitions={**other.definitions, **run.definitions},
        curve=points,
        made=_entries(run, other, added),
    )
    if set(more.columns) == set(run.columns) and set(more.metrics) == set(run.metrics):
        return run
    return replace(more, digest=digest_of(more))


def _entries(run: RunResults, other: RunResults, added: Sequence[str]) -> list[dict[str, Any]] | None:
    """Who measured what of a run: what it said, and the other's entries for the metrics that it brings."""
    entries = [dict(part) for part in run.made or ()]
    for part in other.made or ():
        metrics = {name: how for name, how in part["metrics"].items() if name in added}
        if metrics:
            entries.append({**part, "metrics": metrics})
    return entries or None
