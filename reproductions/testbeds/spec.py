"""A testbed's file, read strictly: reproductions/testbeds/<name>.yaml as plain data, without torch.

    about: one or two sentences
    stands_in: what plays the teacher: recorded, packaged, world, oracle, itself, own
    like: another testbed            # its keys, unless they are given here; null takes one away
    task: {name: pronunciation, <settings>}
    draws: 20                        # of a generated task: the run of seed s has the task's draw + s mod 20
    revision: 16 hex digits          # of the data; checked when they are read, as far as they are known
    tokenizer: {of: <hub id>, pad: ..., eos: ..., trimmed: true}     # where the task has none of its own
    limits: {prompt: 96, completion: 80, whole: ..., pairs: [.., ..]} # tokens in training, likewise
    decoding: {batch: 100, samples: 1, keep: end, prompt: ..., completion: ..., temperatures: [0.5, 1.0]}
                                      # how answers are measured; temperatures: the grid of matched decoding
    students: {main: <model>, large: <model>}
    teachers: {main: <model>, exact: {oracle: {}}} # models: see reproductions/models/makers.py
    metrics: {answers: {sampled: [rouge_l], greedy: [exact_match]}, excess-error: {}}
    defaults: {sft_start: ..., training: ..., label: ..., tuning: ..., curve: {points: 2, examples: 120}, ...}
    gate: {metric: ..., seeds: 5, baseline: {...}, checks: {...}, covers: {...}}   # see engine/gate/spec.py

`defaults` are what runs here have where an experiment says nothing else. Source comments stand beside the numbers. A
gate changes no run: it is no part of what a run's figures follow from.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from catalog.errors import CatalogError
from catalog.reader import Lines, nearest, read_yaml_with_lines
from reproductions.engine.errors import KDError
from reproductions.engine.files import digest
from reproductions.engine.metrics import Metric
from reproductions.engine.show.view import STANDS_IN
from reproductions.metrics.base import MEASUREMENTS, make_measurements
from reproductions.metrics.base import metrics_of as metrics_of_measurements
from reproductions.parts import PartError
from reproductions.tasks.base import TASKS
from reproductions.testbeds.models import MAIN, TOKENIZER, check_keys, check_models

ROOT = Path(__file__).resolve().parent

KEYS = (
    "about", "stands_in", "like", "task", "draws", "revision", "tokenizer", "limits", "decoding",
    "students", "teachers", "metrics", "defaults", "gate",
)  # fmt: skip
NEEDED = ("about", "task", "decoding", "students", "metrics")
LIMITS = ("prompt", "completion", "whole", "pairs")
DECODING = ("batch", "samples", "keep", "prompt", "completion", "temperatures")
DEFAULTS = (
    "sft_start", "training", "label", "tuning", "curve", "precision", "test_examples", "download", "start",
)  # fmt: skip
CURVE = ("points", "examples")
TUNING = ("seed", "seeds", "learning_rates", "metric", "widen", "flat", "cliff", "floor")
GATE_SECTIONS = ("checks", "covers", "data")  # of which a testbed that is like another changes single members
NOT_IDENTITY = (
    "name",
    "about",
    "stands_in",
    "defaults",
    "metrics",
    "gate",
)  # what a student does not follow from, or gets from its run's own settings
ONLY_MEASURES = ("batch", "samples", "temperatures")  # of "decoding"


def list_testbeds(root: Path = ROOT) -> list[str]:
    """The names of all testbeds, sorted."""
    return sorted(path.stem for path in root.glob("*.yaml"))


def read_testbed(name: str, root: Path = ROOT) -> dict[str, Any]:
    """What a testbed's file says, those that it is like merged in, checked. Raises KDError with file, line, nearest."""
    known = list_testbeds(root)
    if name not in known:
        raise KDError(f'unknown testbed "{name}"{nearest(name, known)}; known: {", ".join(known)}')
    files = _chain(name, root)
    merged: dict[str, Any] = {}
    for tree, _ in reversed(files):
        own = {key: value for key, value in tree.items() if key not in ("like", "gate")}
        merged = changed(merged, own, keep_null=True)
    where = Where(files)
    models = {
        kind: merged.pop(kind, None) for kind in ("students", "teachers")
    }  # null: of the model that one is like
    merged = changed({}, merged)
    gate = _gate(tree for tree, _ in reversed(files))
    merged |= {} if gate is None else {"gate": gate}
    _check(merged | {kind: trees for kind, trees in models.items() if trees is not None}, where)
    for kind, found in models.items():
        trees = {model: tree for model, tree in (found or {}).items() if tree is not None}
        merged[kind] = {model: _likeness(trees, model, kind, where) for model in trees}
    check_models(merged, where)
    _check_parts(merged, where)
    return {"name": name, **merged}


def where_of(name: str, root: Path = ROOT) -> Where:
    """Where the values of a testbed stand: in its own file, or in those that it is like."""
    return Where(_chain(name, root))


def changed(
    tree: Mapping[str, Any], changes: Mapping[str, Any], *, keep_null: bool = False
) -> dict[str, Any]:
    """A tree with changes: mappings are merged, null takes a key away (or stays, for a later merge), else replaced."""
    made = copy.deepcopy(dict(tree))
    for key, value in changes.items():
        if isinstance(value, Mapping):
            old = made.get(key)
            made[key] = changed(old if isinstance(old, Mapping) else {}, value, keep_null=keep_null)
        elif value is None and not keep_null:
            made.pop(key, None)
        else:
            made[key] = copy.deepcopy(value)
    return made


def metrics_of(spec: Mapping[str, Any]) -> dict[str, Metric]:
    """The metrics of a testbed, by name, in order; nothing is loaded."""
    return metrics_of_measurements(make_measurements(spec["metrics"]), TASKS.find(spec["task"]["name"]))


def gate_identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What a gate's outcome follows from: task, models, defaults, the gate itself; not what else is measured."""
    left_out = ("name", "about", "stands_in", "metrics")
    found = copy.deepcopy({key: value for key, value in spec.items() if key not in left_out})
    for name in ("flat", "cliff", "floor"):  # a gate's own sweep takes the best of its own grid, whole
        found.get("defaults", {}).get("tuning", {}).pop(name, None)
    return found


def identity(
    spec: Mapping[str, Any], *, teachers: Collection[str] = (MAIN,), student: str = MAIN
) -> dict[str, Any]:
    """What a student that these teachers teach follows from, as plain data: not what is measured on it.

    A teacher that the run does not ask is left out, and so are metrics: to add one makes no run another.
    """
    named = spec.get("teachers", {})
    wanted = _with_sources(named, teachers)
    kept = {key: value for key, value in spec.items() if key not in NOT_IDENTITY}
    kept["teachers"] = {name: tree for name, tree in named.items() if name in wanted}
    kept["students"] = {student: spec["students"][student]} if student in spec["students"] else {}
    if "decoding" in kept:
        kept["decoding"] = {k: value for k, value in kept["decoding"].items() if k not in ONLY_MEASURES}
    return copy.deepcopy(kept)


def at_seed(spec: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The testbed of the run of a seed: with that draw of the task where there are several."""
    found = {key: value for key, value in spec.items() if key != "draws"}
    if "draws" in spec:
        first = spec["task"].get("draw", TASKS.default(spec["task"]["name"], "draw"))
        found["task"] = {**spec["task"], "draw": first + seed % spec["draws"]}
    return found


def measured_by(spec: Mapping[str, Any]) -> dict[str, str]:
    """The measurement that gives each metric of a testbed."""
    kind = TASKS.find(spec["task"]["name"])
    made = zip(spec["metrics"], make_measurements(spec["metrics"]), strict=True)
    return {metric: name for name, one in made for metric in one.metrics(kind)}


def measuring(spec: Mapping[str, Any]) -> dict[str, str]:
    """How each metric is measured, as 8 hex digits: over its measurement, how it decodes, the teachers that it asks.

    A figure measured in another way is another figure of the same student.
    """
    named, found = spec.get("teachers", {}), {}
    by = dict(zip(spec["metrics"], make_measurements(spec["metrics"]), strict=True))
    for metric, name in measured_by(spec).items():
        asked = _with_sources(named, by[name].teachers)
        how = {
            "measurement": [name, spec["metrics"][name] or {}],
            "decoding": {k: value for k, value in spec.get("decoding", {}).items() if k != "batch"},
            "teachers": {teacher: named[teacher] for teacher in sorted(asked & set(named))},
        }
        found[metric] = digest(how, 8)
    return found


def teachers_measured_with(spec: Mapping[str, Any], wanted: Collection[str]) -> set[str]:
    """The teachers that these metrics ask."""
    by = dict(zip(spec["metrics"], make_measurements(spec["metrics"]), strict=True))
    names = {name for metric, name in measured_by(spec).items() if metric in wanted}
    return _with_sources(spec.get("teachers", {}), [t for name in names for t in by[name].teachers])


def _with_sources(named: Mapping[str, Any], teachers: Collection[str]) -> set[str]:
    """Those teachers, and those that they learnt from."""
    wanted = set(teachers)
    for _ in named:
        wanted |= {named[name]["answers"]["of"] for name in wanted & set(named) if "answers" in named[name]}
    return wanted


class Where:
    """The files that a testbed was merged from, the file itself first: to say where something stands."""

    def __init__(self, files: list[tuple[dict[str, Any], Lines]]) -> None:
        self.files = files

    def error(self, message: str, *path: str | int) -> KDError:
        """An error about the value at `path`, in the first file that has it."""
        return KDError(str(self._lines(*path).error(message, *path)))

    def place(self, *path: str | int) -> tuple[Path, int]:
        """The file and the line of the value at `path`."""
        lines = self._lines(*path)
        return lines.path, lines.at(*path)

    def _lines(self, *path: str | int) -> Lines:
        """Those of the first file that has `path`, or as much of it as any file has."""
        while path:
            for tree, lines in self.files:
                if _has(tree, path):
                    return lines
            path = path[:-1]
        return self.files[0][1]


def _has(tree: Any, path: tuple[str | int, ...]) -> bool:
    """Whether there is a value at `path`."""
    for step in path:
        inside = isinstance(tree, Mapping) and step in tree
        if not inside and not (isinstance(tree, list) and isinstance(step, int) and step < len(tree)):
            return False
        tree = tree[step]
    return True


def _chain(name: str, root: Path) -> list[tuple[dict[str, Any], Lines]]:
    """A file and those that it is like, one after the other."""
    files: list[tuple[dict[str, Any], Lines]] = []
    seen: list[str] = []
    while name:
        try:
            tree, lines = read_yaml_with_lines(root / f"{name}.yaml")
        except CatalogError as error:
            raise KDError(str(error)) from None
        files.append((tree, lines))
        seen.append(name)
        name = tree.get("like", "")
        if name and name not in list_testbeds(root):
            raise KDError(
                str(
                    lines.error(
                        f'no testbed is called "{name}"{nearest(str(name), list_testbeds(root))}', "like"
                    )
                )
            )
        if name in seen:
            raise KDError(str(lines.error(f'"{name}" is like itself', "like")))
    return files


def _check(tree: Mapping[str, Any], where: Where) -> None:
    """Names of keys, kinds of values."""
    check_keys(tree, KEYS, "a testbed", where)
    for key in NEEDED:
        if key not in tree:
            raise where.error(f'a testbed needs "{key}"', key)
    teacher = tree.get("stands_in")
    if teacher is not None and teacher not in STANDS_IN:
        what = f'nothing stands in as "{teacher}"{nearest(str(teacher), STANDS_IN)}; known: {", ".join(STANDS_IN)}'
        raise where.error(what, "stands_in")
    for key in (
        "task",
        "limits",
        "decoding",
        "tokenizer",
        "students",
        "teachers",
        "metrics",
        "defaults",
        "gate",
    ):
        if key in tree and not isinstance(tree[key], Mapping):
            raise where.error(f'"{key}" is a mapping', key)
    for key, known in {
        "limits": LIMITS,
        "decoding": DECODING,
        "tokenizer": TOKENIZER,
        "defaults": DEFAULTS,
    }.items():
        check_keys(tree.get(key, {}), known, f'"{key}"', where, key)
    defaults = tree.get("defaults", {})
    check_keys(defaults.get("curve", {}), CURVE, '"curve"', where, "defaults", "curve")
    check_keys(defaults.get("tuning", {}), TUNING, '"tuning"', where, "defaults", "tuning")
    if "batch" not in tree["decoding"]:
        raise where.error('"decoding" needs "batch", the prompts that are answered together', "decoding")
    if tree["decoding"].get("keep", "end") not in ("start", "end"):
        raise where.error('"keep" is the part of a prompt that is too long: start or end', "decoding", "keep")
    grid = tree["decoding"].get("temperatures", [1.0])
    fits = isinstance(grid, list) and grid and all(type(t) in (int, float) and t > 0 for t in grid)
    if not fits or len(set(grid)) != len(grid):
        raise where.error(
            '"temperatures" is a list of positive numbers, each once', "decoding", "temperatures"
        )
    if (tree["metrics"].get("answers") or {}).get("matched") and "temperatures" not in tree["decoding"]:
        raise where.error(
            'matched decoding needs "temperatures", a grid, in "decoding"', "metrics", "answers"
        )
    if MAIN not in tree["students"]:
        raise where.error(f'"students" needs "{MAIN}"', "students")


def _gate(trees: Iterable[Mapping[str, Any]]) -> Any:
    """The gate of a testbed whose files are these, the first one first: None where it has none.

    Keys, single checks and single properties are taken whole from the last file that has them, null takes one away:
    a null further in means something, as in the arm {teacher: null}.
    """
    made: Any = None
    for own in (tree["gate"] for tree in trees if "gate" in tree):
        if not isinstance(own, Mapping) or not isinstance(made, Mapping):
            made = copy.deepcopy(own)
            continue
        made = _over(made, {key: value for key, value in own.items() if key not in GATE_SECTIONS})
        for key in GATE_SECTIONS:
            if key in own:
                old, new = made.get(key), own[key]
                both = isinstance(old, Mapping) and isinstance(new, Mapping)
                made = _over(made, {key: _over(old, new) if both else new})
    return made


def _over(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`new` over `old`, where null takes away what is there."""
    gone = {key for key, value in new.items() if value is None and key in old}
    return copy.deepcopy({key: value for key, value in {**old, **new}.items() if key not in gone})


def _likeness(
    trees: Mapping[str, Any], name: str, kind: str, where: Where, seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    """A model with what it has of the one that it is like."""
    tree = trees[name]
    if not isinstance(tree, Mapping):
        raise where.error("a model is a mapping: {shape: ...} or {model: <hub id>}", kind, name)
    other = tree.get("like")
    if other is None:
        return changed({}, tree)
    if other not in trees or other in (*seen, name):
        raise where.error(
            f'no other of the {kind} is called "{other}"{nearest(str(other), trees)}', kind, name, "like"
        )
    own = {key: value for key, value in tree.items() if key != "like"}
    return changed(_likeness(trees, other, kind, where, (*seen, name)), own)


def _check_parts(tree: dict[str, Any], where: Where) -> None:
    """Task, measurements and their settings; those at their defaults are left out of `tree`."""
    task = tree["task"]
    if "name" not in task:
        raise where.error('"task" needs a "name"', "task")
    tree["task"] = {"name": task["name"], **_part(TASKS, task["name"], task, where, "task")}
    tree["metrics"] = {
        name: _part(MEASUREMENTS, name, settings or {}, where, "metrics", name)
        for name, settings in tree["metrics"].items()
    }
    kind = TASKS.find(task["name"])
    taken = inspect.signature(kind).parameters
    for key in ("tokenizer", "limits"):
        if key in taken and key not in tree:
            raise where.error(f'the task {task["name"]} needs "{key}"', "task")
    if "draws" in tree:
        _check_draws(tree, taken, where)
    if "limits" in tree and "limits" not in taken:
        raise where.error(f"the task {task['name']} has its own limits", "limits")
    for name, settings in tree["metrics"].items():
        try:
            one = make_measurements({name: settings})[0]
            one.metrics(kind)
        except KDError as error:
            raise where.error(str(error), "metrics", name) from None
        for teacher in one.teachers:
            if teacher not in tree["teachers"]:
                near = nearest(teacher, tree["teachers"])
                raise where.error(
                    f'{name} asks a teacher "{teacher}" that is not there{near}', "metrics", name
                )


def _check_draws(tree: Mapping[str, Any], taken: Collection[str], where: Where) -> None:
    if type(tree["draws"]) is not int or tree["draws"] < 2:
        raise where.error('"draws" is how often the task is drawn: a whole number of 2 or more', "draws")
    if "draw" not in taken:
        raise where.error(f"the task {tree['task']['name']} is no drawn one: it has no `draw`", "draws")


def _part(parts: Any, name: str, tree: Mapping[str, Any], where: Where, *path: str) -> dict[str, Any]:
    """The settings of a part, checked, those at their defaults left out."""
    try:
        return parts.settings(name, {key: value for key, value in tree.items() if key != "name"})
    except PartError as error:
        inside = error.path or (("name",) if path == ("task",) else ())
        raise where.error(str(error), *path, *inside) from None
