"""What a config says of its data: where they are, what their columns are called, how they become text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.distill.limits import COUNT
from reproductions.engine.files import content_digest

HUB = "hub:"
KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")
TURNS, BAD_ROWS = ("all", "last"), ("refuse", "skip")
# Every key of `data:` with its default; a text in place of the mapping is its `from`.
KEYS: Mapping[str, Any] = {
    "from": None,  # a file, a folder, or hub:ORG/NAME
    "split": "train",  # of a data set with several
    "subset": None,  # of a data set of the hub: the name of its configuration
    "rows": None,  # so many from the top
    "columns": {},  # our name: theirs
    "chat": None,  # put rows into the student's chat template; null: conversations and instructions, where it has one
    "system": None,  # what stands before every conversation that has no such message
    "chat_template": None,  # a file with one, where the student has none; it goes along with the student
    "turns": "all",  # which turns of the assistant are learnt
    "bad_rows": "refuse",  # "skip": rows that cannot be read are left out and counted
}


@dataclass(frozen=True)
class DataSpec:
    """`data:` of a config, complete with defaults. `place` is a file or folder, or None where it is `hub`'s."""

    place: Path | None
    hub: str = ""
    split: str = "train"
    subset: str | None = None
    rows: int | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    chat: bool | None = None
    system: str | None = None
    chat_template: Path | None = None
    turns: str = "all"
    bad_rows: str = "refuse"

    def __str__(self) -> str:
        return str(self.place) if self.place is not None else f"{HUB}{self.hub}"

    @property
    def identity(self) -> str | dict[str, Any]:
        """What is read and how, for the hash: the content's digest alone where everything is as by default."""
        found = f"{HUB}{self.hub}" if self.place is None else content_digest(self.place)
        own = {name: getattr(self, name) for name in _HASHED if getattr(self, name) != getattr(_PLAIN, name)}
        if self.chat_template is not None:
            own["chat_template"] = content_digest(self.chat_template)
        own = {name: dict(value) if isinstance(value, Mapping) else value for name, value in own.items()}
        return {"content": found, **own} if own else found

    @property
    def digest(self) -> str:
        """What `identity` says, on one line."""
        found = self.identity
        return found if isinstance(found, str) else str(found["content"])


_PLAIN = DataSpec(None)
_HASHED = ("split", "subset", "rows", "columns", "chat", "system", "turns", "bad_rows")


def read_spec(data: Mapping[str, Any], lines: Lines, *where: str, like: DataSpec | None = None) -> DataSpec:
    """The data named at a place of a config; what is not said is as in `like`, or by default. Raises CatalogError."""
    given: Any = data
    for key in where:
        given = given.get(key) if isinstance(given, Mapping) else None
    name = where[-1]
    given = {"from": given} if isinstance(given, str) else given
    if not isinstance(given, Mapping):
        raise lines.error(
            f'"{name}" is missing: a file, a folder, hub:ORG/NAME, or a mapping with "from"', *where
        )
    for key in given:
        if key not in KEYS:
            raise lines.error(
                f'{name}: unknown "{key}"{nearest(key, KEYS)}; known: {", ".join(KEYS)}', *where, key
            )
    at = where if len(given) == 1 and lines.at(*where, "from") == lines.at(*where) else (*where, "from")
    place = given.get("from")
    if not isinstance(place, str) or not place.strip():
        raise lines.error(f'"{name}" names nothing: "from" is a file, a folder or hub:ORG/NAME', *at)
    found: dict[str, Any] = {}
    for key, kind, what in (
        ("split", str, "the name of a split"),
        ("subset", str, "the name of a configuration"),
        ("system", str, "text"),
        ("chat", bool, "true or false"),
        ("rows", int, ""),
    ):
        value = given.get(key)
        if value is None:
            continue
        fits = type(value) is kind and value != ""
        fits = fits and (not isinstance(value, int) or isinstance(value, bool) or COUNT.holds(value))
        if not fits:
            asked = f"a whole number of {COUNT.asked(value)}" if kind is int else what
            raise lines.error(f'{name}: "{key}" must be {asked}', *where, key)
        found[key] = value
    for key, known in (("turns", TURNS), ("bad_rows", BAD_ROWS)):
        if key in given and given[key] not in known:
            near = nearest(str(given[key]), known)
            raise lines.error(f'{name}: {key} "{given[key]}"{near}; known: {", ".join(known)}', *where, key)
        found |= {key: given[key]} if key in given else {}
    found |= {"columns": _columns(given["columns"], lines, *where)} if given.get("columns") else {}
    if given.get("chat_template"):
        found["chat_template"] = _file(given["chat_template"], lines, *where, "chat_template")
    inherited = {key: getattr(like, key) for key in _INHERITED} if like is not None else {}
    return DataSpec(**{**_placed(place, lines, *at), **inherited, **found})


_INHERITED = ("columns", "chat", "system", "chat_template", "turns", "bad_rows")


def _placed(place: str, lines: Lines, *where: str) -> dict[str, Any]:
    """Where data lie: beside the config file, or on the hub."""
    name = where[-1] if where[-1] != "from" else where[-2]
    if place.startswith(HUB):
        return {"place": None, "hub": place.removeprefix(HUB)}
    path = lines.beside(place, *where)
    if path.is_dir() and (path / "config.json").is_file():
        raise lines.error(f'"{name}": {path} is a model, not data', *where)
    if path.is_file() or path.is_dir():
        return {"place": path}
    if path.exists():  # to read a pipe or a device would wait for ever
        raise lines.error(f'"{name}": {path} is neither a file nor a folder', *where)
    beside = [one.name for one in path.parent.iterdir()] if path.parent.is_dir() else []
    near = nearest(path.name, beside)
    hint = f"; for a data set of the hub say {HUB}{place}" if not near and place.count("/") == 1 else ""
    raise lines.error(f'"{name}": no file {path}{near}{hint}', *where)


def _file(name: Any, lines: Lines, *where: str) -> Path:
    path = lines.beside(str(name), *where)
    if not path.is_file():
        near = nearest(path.name, [one.name for one in path.parent.glob("*")])
        raise lines.error(f'"{where[-1]}": no file {path}{near}', *where)
    return path


def _columns(given: Any, lines: Lines, *where: str) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise lines.error('"columns" is a mapping: {prompt: question, completion: answer}', *where, "columns")
    for ours, theirs in given.items():
        if not isinstance(theirs, str) or not theirs:
            raise lines.error(f'columns: "{ours}" must be the name of a column', *where, "columns", ours)
    return dict(given)
