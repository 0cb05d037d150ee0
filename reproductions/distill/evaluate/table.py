"""The table of an evaluation: start, teachers and student side by side, each with its distance from the start.

Intervals are of rows: 95 % by Student's t over conversations, as another draw of rows would move the figure. Of another
seed's training they say nothing. Figures of lm-eval's tasks have the standard error that it gives, of each model alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
TERMINAL = 80  # columns of a line
LOSS, TASKS = "loss", "lm_eval"
BETTER = {LOSS: -1}  # the sign of what is better, + where nothing stands here
TITLES = {LOSS: "loss (nats a token)", "exact-match": "exact match %", "rouge-l": "ROUGE-L"}


@dataclass(frozen=True)
class Difference:
    """Of a figure from another one on the same rows, with its interval (None where one conversation is all)."""

    value: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        return asdict(self)


def difference(
    ours: Sequence[float],
    theirs: Sequence[float],
    sizes: Sequence[float],
    clusters: Sequence[int],
    level: float = LEVEL,
) -> Difference:
    """sum(ours - theirs) / sum(sizes) over rows of one or more clusters, each of which counts as one draw.

    The standard error is that of a ratio, to first order: residuals summed within a cluster.
    """
    gap = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    weight = np.asarray(sizes, dtype=np.float64)
    value = float(gap.sum() / weight.sum())
    numbers = np.unique(np.asarray(clusters), return_inverse=True)[1]
    count = int(numbers.max()) + 1
    if count < 2:
        return Difference(value, None, None)
    residuals: np.ndarray = np.bincount(numbers, weights=gap - value * weight, minlength=count)
    error = math.sqrt(count / (count - 1) * float((residuals**2).sum())) / float(weight.sum())
    if error == 0 and value != 0:  # every row moved alike: too few to know how far another would
        return Difference(value, None, None)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return Difference(value, value - half, value + half)


def columns_of(evaluation: Mapping[str, Any], who: str) -> dict[str, tuple[list[float], list[float]]]:
    """Figures of one of an evaluation's models by name of the metric: of each row, and what they are divided by."""
    figures = evaluation["models"][who]
    made = {LOSS: (list(figures["nats"]), [float(n) for n in evaluation["tokens"]])}
    return made | {name: (list(values), [1.0] * len(values)) for name, values in figures["scores"].items()}


def figure(values: Sequence[float], sizes: Sequence[float]) -> float:
    """One model's figure: the mean over what it is divided by."""
    return float(np.sum(values) / np.sum(sizes))


def summary(evaluation: Mapping[str, Any], *, against: str = "start") -> dict[str, Any]:
    """{model: {metric: {value, difference?}}}: plain data for record, card and table."""
    base = columns_of(evaluation, against)
    made: dict[str, Any] = {}
    for who in evaluation["models"]:
        made[who] = {}
        for name, (values, sizes) in columns_of(evaluation, who).items():
            made[who][name] = {"value": significant(figure(values, sizes))}
            if who != against:
                clusters = evaluation["clusters"][: len(values)]
                gap = difference(values, base[name][0], sizes, clusters)
                made[who][name] |= {
                    key: significant(value) for key, value in gap.as_dict().items() if key != "value"
                }
                made[who][name]["difference"] = significant(gap.value)
        made[who] |= _of_tasks(
            evaluation["models"][who], evaluation["models"][against], itself=who == against
        )
    return made


def _of_tasks(ours: Mapping[str, Any], theirs: Mapping[str, Any], *, itself: bool) -> dict[str, Any]:
    """One model's figures of lm-eval's tasks that were asked for, by "task metric", in lm-eval's units."""
    made: dict[str, Any] = {}
    before = theirs.get(TASKS, {}).get("tasks", {})
    for task, one in ours.get(TASKS, {}).get("tasks", {}).items():
        for metric, found in one["metrics"].items() if one["shown"] else ():
            made[f"{task} {metric}"] = {part: significant(found[part]) for part in ("value", "stderr")}
            base = before.get(task, {}).get("metrics", {}).get(metric, {}).get("value")
            if not itself and None not in (base, found["value"]):
                made[f"{task} {metric}"]["difference"] = significant(found["value"] - base)
    return made


def tasks_of(evaluation: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was asked of lm-eval, in which version, and how many examples each task had; None where nothing was."""
    if TASKS not in evaluation:
        return None
    figures = {who: one[TASKS] for who, one in evaluation["models"].items() if TASKS in one}
    about = ("version", "examples", "shots")
    tasks = {
        name: {part: one[part] for part in about}
        for figure in figures.values()
        for name, one in figure["tasks"].items()
        if one["shown"]
    }
    return {**evaluation[TASKS], "tasks": tasks, "cut": {who: one["cut"] for who, one in figures.items()}}


def about_tasks(found: Mapping[str, Any]) -> str:
    """The same in a sentence."""
    parts = []
    for name, one in found["tasks"].items():
        told = [f"version {one['version']}"] if one["version"] is not None else []
        told += [f"{one['examples']:,} examples"] if one["examples"] is not None else []
        told += [f"{one['shots']} shots"] if one["shots"] is not None else []
        parts.append(f"{name} ({', '.join(told)})")
    cut = ", ".join(f"{count:,} of the {who}" for who, count in found["cut"].items() if count)
    text = f"lm-eval {found['version']}: {', '.join(parts)}; ± is its standard error, of each model alone"
    return text + (f"; inputs that were longer than the model and cut on the left: {cut}" if cut else "")


def significant(value: float | None) -> float | None:
    """Five digits, as much as a record needs."""
    return None if value is None else float(f"{value:.5g}")


def rows_of(found: Mapping[str, Any], words: Mapping[str, str] | None = None) -> list[list[str]]:
    """Head and lines of the table; a difference stands behind its figure as "-0.52 [-0.61, -0.43]"."""
    names = list(next(iter(found.values())))
    table = [["", *(TITLES.get(name, name) for name in names)]]
    for who, figures in found.items():
        cells = []
        for name in names:
            one = figures.get(name, {"value": None})
            cell = _number(name, one["value"])
            if one.get("stderr") is not None:
                cell += f" ±{_number(name, one['stderr'])}"
            if "difference" in one:
                cell += f" ({_number(name, one['difference'], signed=True)}"
                if one.get("low") is not None:
                    cell += f" [{_number(name, one['low'], signed=True)}, {_number(name, one['high'], signed=True)}]"
                cell += ")"
            cells.append(cell)
        table.append([(words or {}).get(who, who), *cells])
    return table


def _number(name: str, value: float | None, *, signed: bool = False) -> str:
    if value is None:
        return "-"
    digits = 3 if name == LOSS or name not in TITLES else 1
    return f"{value:{'+' if signed else ''}.{digits}f}"


def lines_of(table: Sequence[Sequence[str]], columns: int = TERMINAL) -> list[str]:
    """A table as text, columns under each other; what does not fit side by side goes on in another one below.

    `columns` are those of the terminal. A column of figures that is wider alone is not cut.
    """
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    parts: list[list[int]] = []
    for n in range(1, len(widths)):
        if parts and sum(widths[m] + 2 for m in [0, *parts[-1], n]) - 2 <= columns:
            parts[-1].append(n)
        else:
            parts.append([n])
    lines: list[str] = []
    for part in parts:
        lines += [""] if lines else []
        lines += ["  ".join(row[n].ljust(widths[n]) for n in [0, *part]).rstrip() for row in table]
    return lines
