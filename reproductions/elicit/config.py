"""The config file of `kd elicit`: strict YAML, every mistake with its line and the nearest valid name.

    seeds: questions.jsonl           # one {"prompt": ...} a line, beside this file
    output: elicited                 # a folder: train.jsonl for `kd distill`, rows.parquet, a card
    teacher:
      server: https://api.example.org/v1     # speaks OpenAI's chat completions
      model: some-model
      key: EXAMPLE_API_KEY           # the name of the environment variable, never the key
      terms: open-weights            # an entry of catalog/teachers.yaml
    steps:
      - {name: label, max_tokens: 256}
    caps: {money: 5.0}
    prices: {read: 0.15, written: 0.6}       # of a million tokens

In place of `server` and `model` a teacher may be `local`, a model's folder or hub id, or `recorded`, files of
{"instruction": ..., "output": ...} beside this file or in KD_DATA_DIR. `teachers` are several by name, of whom `route`
chooses: by a field of the seeds ({field: teacher}) or by shares ({shares: {large: 1, small: 3}}). methods/GALLERY.md
lists the steps under "elicitation". Every other field, with its default: TEACHER, OPTIONAL, CAPS and PRICES below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest, read_yaml_with_lines
from methods.registry import RegistryError, canonical
from reproductions.distill import limits
from reproductions.distill.config import family
from reproductions.distill.places import model_in
from reproductions.models.sources import mirror

REQUIRED = ("seeds", "output", "steps")
KINDS = ("server", "local", "recorded")
TEACHER: Mapping[str, Mapping[str, Any]] = {
    "server": {
        "server": "",
        "model": "",
        "key": "OPENAI_API_KEY",
        "terms": "",
        "parallel": 16,
        "timeout": 120.0,
        "attempts": 6,
        "extra": {},  # fields that are sent with each request
        "name": "",  # stands for address and model in the journal: a server that moved is asked nothing twice
    },
    "local": {"local": "", "terms": "", "batch": 16},
    "recorded": {"recorded": [], "terms": "", "question": "instruction", "answer": "output"},
}
MOST_SPENT = 10**15  # of a cap, or of a price
CAPS: Mapping[str, Any] = {"calls": None, "read": None, "written": None, "money": None}
PRICES: Mapping[str, Any] = {"read": 0.0, "written": 0.0}
OPTIONAL: Mapping[str, Any] = {
    "teacher": None,
    "teachers": None,
    "route": None,
    "fallback": False,
    "accept_teacher_terms": False,
    "prompt": "prompt",  # the seeds' column that the student reads
    "first": None,  # so many seeds
    "caps": CAPS,
    "prices": PRICES,
    "seed": 0,
    "journal": None,  # a file that several configs may share; else it lies in `output`
    "title": None,
}
RANGES: Mapping[str, limits.Range] = {
    **limits.OF_A_SERVER,
    "batch": limits.Range(1, limits.MOST_ROWS),
}


@dataclass(frozen=True)
class Config:
    """What a user asked for, complete with defaults; `teachers` by name, `steps` in their canonical form."""

    path: Path
    seeds: Path
    output: Path
    steps: tuple[Mapping[str, Any], ...]
    teachers: Mapping[str, Mapping[str, Any]]
    route: Mapping[str, Any] | None
    fallback: bool
    accept_teacher_terms: bool
    prompt: str
    first: int | None
    caps: Mapping[str, Any]
    prices: Mapping[str, Any]
    seed: int
    journal: Path
    title: str
    lines: Lines = field(kw_only=True, repr=False, compare=False)


def load_config(path: Path) -> Config:
    """The config in a file. Raises CatalogError."""
    data, lines = read_yaml_with_lines(path)
    known = [*REQUIRED, *OPTIONAL]
    for name in data:
        if name not in known:
            raise lines.error(f'unknown field "{name}"{nearest(name, known)}', name)
    for name in ("seeds", "output"):
        if not isinstance(data.get(name), str) or not data[name].strip():
            raise lines.error(f'"{name}" is missing or not text', *([name] if name in data else []))
    around, teachers = path.parent, _teachers(data, lines)
    config = Config(
        path=path,
        seeds=(around / data["seeds"]).resolve(),
        output=(around / data["output"]).resolve(),
        steps=_steps(data, lines),
        teachers=teachers,
        route=_route(data, teachers, lines),
        fallback=_of_kind(data, "fallback", bool, "true or false", lines) or False,
        accept_teacher_terms=_of_kind(data, "accept_teacher_terms", bool, "true or false", lines) or False,
        prompt=_of_kind(data, "prompt", str, "the name of a column", lines) or "prompt",
        first=None if data.get("first") is None else limits.whole(data, "first", 1, limits.COUNT, lines),
        caps=_numbers(data, "caps", CAPS, lines),
        prices={**PRICES, **_numbers(data, "prices", PRICES, lines)},
        seed=limits.whole(data, "seed", 0, limits.SETTING_RANGES["seed"], lines),
        journal=_journal(data, around, lines),
        title=_of_kind(data, "title", str, "text", lines) or Path(data["output"]).name,
        lines=lines,
    )
    if not config.seeds.is_file():
        raise lines.error(f'"seeds": no file {config.seeds}', "seeds")
    if config.output.exists() and not config.output.is_dir():
        raise lines.error(f'"output": {config.output} is a file, not a folder', "output")
    if config.output in (around.resolve(), config.seeds.parent):
        raise lines.error('"output" is the folder of the config or the seeds: name another one', "output")
    return config


def check_teacher_terms(config: Config, known: Mapping[str, Any]) -> None:
    """Raise CatalogError where a teacher's terms forbid training on its outputs and nobody said that this is known.

    `known` are the entries of catalog/teachers.yaml. A teacher whose family cannot be told counts as unclear.
    """
    for name, teacher in config.teachers.items():
        entry = terms_of(teacher)
        where = where_is(config, name)
        if entry and entry not in known:
            raise config.lines.error(
                f'no entry "{entry}" in catalog/teachers.yaml{nearest(entry, known)}', *where, "terms"
            )
        if entry and known[entry].allows_training == "no" and not config.accept_teacher_terms:
            raise config.lines.error(
                f"the terms of {known[entry].title} forbid training other models on its outputs ({known[entry].note}) "
                "See whether they bind you; `accept_teacher_terms: true` goes on",
                *where,
                *(["terms"] if teacher["terms"] else []),
            )


def terms_of(teacher: Mapping[str, Any]) -> str:
    """The entry of catalog/teachers.yaml that a config names, or that a model's name tells; "" where neither does."""
    return teacher["terms"] or family(str(teacher.get("model") or teacher.get("local") or "")) or ""


def where_is(config: Config, name: str) -> tuple[str, ...]:
    """The keys that lead to a teacher in the file."""
    return ("teachers", name) if len(config.teachers) > 1 or name != "teacher" else ("teacher",)


def _teachers(data: Mapping[str, Any], lines: Lines) -> dict[str, dict[str, Any]]:
    one, several = data.get("teacher"), data.get("teachers")
    if (one is None) == (several is None):
        raise lines.error('give a "teacher", or several "teachers" by name', *(["teachers"] if one else []))
    if one is not None:
        return {"teacher": _teacher(one, lines, "teacher")}
    if not isinstance(several, dict) or not several:
        raise lines.error('"teachers" must be a mapping of names to teachers', "teachers")
    return {name: _teacher(tree, lines, "teachers", name) for name, tree in several.items()}


def _teacher(tree: Any, lines: Lines, *where: str) -> dict[str, Any]:
    what = f'"{".".join(where)}"'
    kinds = [kind for kind in KINDS if isinstance(tree, dict) and kind in tree]
    if len(kinds) != 1:
        raise lines.error(f"{what} must be a mapping with one of {', '.join(KINDS)}", *where)
    kind, defaults = kinds[0], TEACHER[kinds[0]]
    for name in tree:
        if name not in defaults:
            near = nearest(name, defaults)
            if "key" in name and name != "key":
                near = '; "key" names the environment variable that holds it, and never is the key'
            raise lines.error(f'{what} has no "{name}"{near}; known: {", ".join(defaults)}', *where, name)
    made = {"kind": kind, **defaults}
    for name, value in tree.items():
        usual = defaults[name]
        if isinstance(usual, float | int) and not isinstance(usual, bool):
            kinds_of = (int, float) if isinstance(usual, float) else (int,)
            within = RANGES[name]
            if not isinstance(value, kinds_of) or isinstance(value, bool) or not within.holds(value):
                number = "a number" if isinstance(usual, float) else "a whole number"
                asked = within.asked(value)
                raise lines.error(f'{what}: "{name}" must be {number} of {asked}', *where, name)
        elif type(value) is not type(usual) and not (name == "recorded" and isinstance(value, str)):
            raise lines.error(f'{what}: "{name}" must be like {usual!r}', *where, name)
        made[name] = value
    if kind == "server":
        if not made["model"].strip():
            raise lines.error(f'{what} needs a "model"', *where)
        if not made["key"].replace("_", "").isalnum() or made["key"] != made["key"].upper():
            raise lines.error(
                f'{what}: "key" is the name of an environment variable such as OPENAI_API_KEY, never the key itself',
                *where,
                "key",
            )
    elif kind == "local":
        made["local"] = model_in(made["local"], lines, *where, "local")
    else:
        files = made["recorded"] if isinstance(made["recorded"], list) else [made["recorded"]]
        if not files:
            raise lines.error(f'{what}: "recorded" names no file', *where, "recorded")
        made["recorded"] = [_recorded(file, lines, *where, "recorded") for file in files]
    return made


def _recorded(name: Any, lines: Lines, *where: str) -> Path:
    folder = mirror("KD_DATA_DIR")
    places = [lines.path.parent / str(name), *([folder / str(name)] if folder else [])]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        looked = ", ".join(map(str, places)) + ("" if folder else " (KD_DATA_DIR is not set)")
        raise lines.error(f'no file "{name}": looked at {looked}', *where)
    return found.resolve()


def _steps(data: Mapping[str, Any], lines: Lines) -> tuple[dict[str, Any], ...]:
    steps = data.get("steps")
    if not isinstance(steps, list) or not steps:
        raise lines.error(
            '"steps" must be a list of components: - {name: label}', *(["steps"] if "steps" in data else [])
        )
    made = []
    for place, step in enumerate(steps):
        try:
            made.append(canonical("elicitation", step))
        except RegistryError as error:
            raise lines.error(str(error), "steps", place, *error.path) from None
        limits.check_step(step, lambda message, *path, at=place: lines.error(message, "steps", at, *path))
    return tuple(made)


def _route(data: Mapping[str, Any], teachers: Mapping[str, Any], lines: Lines) -> dict[str, Any] | None:
    route = data.get("route")
    if route is None:
        return None
    if not isinstance(route, dict) or len(route) != 1 or next(iter(route)) not in ("field", "shares"):
        raise lines.error('"route" must be {field: COLUMN} or {shares: {TEACHER: NUMBER}}', "route")
    if "shares" in route:
        shares = route["shares"]
        for name in shares if isinstance(shares, dict) else []:
            if name not in teachers:
                raise lines.error(
                    f'route: no teacher "{name}"{nearest(name, teachers)}', "route", "shares", name
                )
        numbers = list(shares.values()) if isinstance(shares, dict) else []
        if not numbers or not all(_is_number(value) and limits.POSITIVE.holds(value) for value in numbers):
            raise lines.error("route: shares are numbers above 0, by teacher", "route", "shares")
    elif not isinstance(route["field"], str):
        raise lines.error('route: "field" must be the name of a column', "route", "field")
    return route


def _numbers(data: Mapping[str, Any], name: str, known: Mapping[str, Any], lines: Lines) -> dict[str, Any]:
    given = data.get(name)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise lines.error(f'"{name}" must be a mapping', name)
    for key, value in given.items():
        if key not in known:
            raise lines.error(
                f'{name}: unknown "{key}"{nearest(key, known)}; known: {", ".join(known)}', name, key
            )
        whole = name == "caps" and key != "money"
        within = limits.Range(0, MOST_SPENT)
        if not _is_number(value) or not within.holds(value) or (whole and not isinstance(value, int)):
            kind = "a whole number" if whole else "a number"
            beyond = f" and at most {MOST_SPENT:.0f}" if _is_number(value) and value > MOST_SPENT else ""
            raise lines.error(f"{name}: {key} must be {kind} of 0 or more{beyond}", name, key)
    return given


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and limits.ANY.holds(abs(value))


def _journal(data: Mapping[str, Any], around: Path, lines: Lines) -> Path:
    name = _of_kind(data, "journal", str, "a file", lines)
    place = (around / (name or f"{data['output']}/answers.journal")).resolve()
    if place.is_dir():
        raise lines.error(f'"journal": {place} is a folder, not a file', "journal")
    return place


def _of_kind(data: Mapping[str, Any], name: str, kind: type, what: str, lines: Lines) -> Any:
    value = data.get(name)
    if value is not None and type(value) is not kind:
        raise lines.error(f'"{name}" must be {what}', name)
    return value
