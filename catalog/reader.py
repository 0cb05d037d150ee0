"""Strict YAML: plain data only, every value with its line, one clear message for anything else.

PyYAML's parser (libyaml where it is built in) gives the events; values are made here, by the core schema of
YAML 1.2: `true`/`false` are booleans; `yes`, `no`, `on`, dates, `010` and `12:30` are strings. So nothing
in a file turns into something its author did not mean, and no code path could build an object.
"""

from __future__ import annotations

import math
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from catalog.errors import CatalogError, cut
from catalog.errors import nearest as nearest

MAX_BYTES = 1_000_000
MAX_DEPTH = 24

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Control characters, and those that make text read differently from what it is: bidirectional overrides,
# zero-width characters, byte-order marks, line separators, surrogates.
_HOSTILE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff"
    "\U000e0000-\U000e0fff]"
)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}


def read_yaml(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file as plain data; raises CatalogError with file and line."""
    return read_yaml_with_lines(path)[0]


def read_yaml_with_lines(path: Path | str) -> tuple[dict[str, Any], Lines]:
    """The mapping in a YAML file, with the line of each value; raises CatalogError with file and line."""
    path = Path(path)
    return _Builder(path, _text(path)).document()


class Lines:
    """Where the values of one file stand: `lines.at("claims", 0, "metric")` is a line number, from 1."""

    def __init__(self, path: Path, table: dict[tuple[str | int, ...], int]) -> None:
        self.path, self._table = path, table

    def at(self, *keys: str | int) -> int:
        """The line of the key or list item at `keys`, or of the closest thing around it that exists."""
        while keys and keys not in self._table:
            keys = keys[:-1]
        return self._table.get(keys, 1)

    def below(self, *keys: str | int) -> Lines:
        """The lines of what stands at `keys`, named by their paths from there."""
        inside = {path[len(keys) :]: line for path, line in self._table.items() if path[: len(keys)] == keys}
        return Lines(self.path, {(): self.at(*keys), **inside})

    def error(self, message: str, *keys: str | int) -> CatalogError:
        """An error about the value at `keys`."""
        return CatalogError(message, self.path, self.at(*keys))

    def beside(self, name: str, *keys: str | int) -> Path:
        """The place that the value at `keys` names: beside the file, below a home (`~`), or where it says itself.

        Raises CatalogError for what cannot be looked at: links that lead to themselves, homes of nobody, endless names.
        """
        try:
            place = (self.path.parent / Path(name).expanduser()).resolve()
            place.exists()
        except (OSError, RuntimeError, ValueError) as error:
            what = error.strerror if isinstance(error, OSError) else str(error)
            raise self.error(f'"{cut(name)}" is no place: {cut(what, 200)}', *keys) from None
        return place


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise CatalogError("not a file", path)
        if status.st_size > MAX_BYTES:
            raise CatalogError(f"{status.st_size:,} bytes; at most {MAX_BYTES:,} are read", path)
        raw = path.read_bytes()
    except FileNotFoundError:
        raise CatalogError("no such file", path) from None
    except OSError as error:
        raise CatalogError(f"cannot be read: {error.strerror}", path) from None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CatalogError("not UTF-8", path, raw.count(b"\n", 0, error.start) + 1) from None
    text = text.replace("\r\n", "\n")
    if "\t" in text:
        raise CatalogError("a tab; indent with spaces", path, _line(text, text.index("\t")))
    hostile = _HOSTILE.search(text)
    if hostile:
        what = f"the control or invisible character U+{ord(hostile[0]):04X}"
        raise CatalogError(what, path, _line(text, hostile.start()))
    return text


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


class _Builder:
    """Turns parser events into plain data, refusing what plain data does not need."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.loader = _Loader(text)
        self.table: dict[tuple[str | int, ...], int] = {}

    def document(self) -> tuple[dict[str, Any], Lines]:
        try:
            self.next()  # stream start
            if isinstance(self.next(), yaml.StreamEndEvent):
                raise CatalogError("nothing in the file", self.path)
            start = self.next()
            if not isinstance(start, yaml.MappingStartEvent):
                raise self.error('the file must be a mapping: lines of "name: value"', start)
            data = self.value(start, ())
            self.next()  # document end
            after = self.next()
            if not isinstance(after, yaml.StreamEndEvent):
                raise self.error("a second document; one file holds one", after)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            what = " ".join(str(error.problem or error.context or error).split())
            raise CatalogError(
                f"not YAML: {cut(what, 200)}", self.path, mark.line + 1 if mark else None
            ) from None
        except yaml.YAMLError as error:
            raise CatalogError(f"not YAML: {' '.join(str(error).split())}", self.path) from None
        finally:
            self.loader.dispose()
        return data, Lines(self.path, self.table)

    def next(self) -> Any:
        return self.loader.get_event()

    def error(self, message: str, event: Any) -> CatalogError:
        return CatalogError(message, self.path, event.start_mark.line + 1)

    def value(self, event: Any, where: tuple[str | int, ...]) -> Any:
        self.table.setdefault(where, event.start_mark.line + 1)
        self.bare(event)
        if len(where) > MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH} levels", event)
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := self.next(), yaml.SequenceEndEvent):
                items.append(self.value(event, (*where, len(items))))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := self.next(), yaml.MappingEndEvent):
            key = self.key(event, where)
            if key in mapping:
                raise self.error(f'"{cut(key)}" stands twice, first on line {self.table[*where, key]}', event)
            self.table[*where, key] = event.start_mark.line + 1
            mapping[key] = self.value(self.next(), (*where, key))
        return mapping

    def bare(self, event: Any) -> None:
        """Refuse what only an object graph needs: aliases, anchors, tags."""
        if isinstance(event, yaml.AliasEvent):
            raise self.error(
                f'the alias "*{cut(event.anchor)}"; aliases are not read, write the value out', event
            )
        if event.anchor is not None:
            raise self.error(f'the anchor "&{cut(event.anchor)}"; anchors are not read', event)
        if event.tag is not None:
            raise self.error(f'the tag "{cut(event.tag)}"; tags are not read', event)

    def key(self, event: Any, where: tuple[str | int, ...]) -> str:
        if not isinstance(event, yaml.ScalarEvent):
            raise self.error("a name that is not plain text", event)
        self.bare(event)
        key = self.scalar(event)
        if not isinstance(key, str):
            raise self.error(f'the name "{cut(event.value)}" is not text; put it in quotes', event)
        if key == "<<" or not key.strip():
            raise self.error("merge keys and empty names are not read", event)
        return key

    def scalar(self, event: Any) -> Any:
        text: str = event.value
        if event.style == '"':  # only here can an escape write what the file's text may not hold
            hostile = _HOSTILE.search(text) or re.search("\t", text)
            if hostile:
                raise self.error(f"the control or invisible character U+{ord(hostile[0]):04X}", event)
        if not event.implicit[0]:  # quoted, or a block
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.fullmatch(text):
            return int(text)
        if _FLOAT.fullmatch(text):
            number = float(text)
            if not math.isfinite(number):
                raise self.error(f'the number "{cut(text)}" is too large', event)
            return number
        return text
