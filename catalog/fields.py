"""Fields of a data file, taken one by one: what each must look like, and the message where it does not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from catalog.errors import CatalogError, cut, nearest
from catalog.model import CONFIDENCES, Axis

if TYPE_CHECKING:
    from catalog.reader import Lines

_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*", re.ASCII)
_MONTH = re.compile(r"(19|20)\d\d-(0[1-9]|1[0-2])", re.ASCII)
_DAY = re.compile(r"20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])", re.ASCII)
# Four digits behind the month until December 2014, five since.
_MONTH_OF_TWO = "(0[1-9]|1[0-2])"
_ARXIV = re.compile(
    rf"((0[7-9]|1[0-4]){_MONTH_OF_TWO}\.\d{{4}}|(1[5-9]|[2-9]\d){_MONTH_OF_TWO}\.\d{{5}})", re.ASCII
)
_LINK = re.compile(r"(?=[!-~]+\Z)https://[A-Za-z0-9.-]+(:\d+)?(/[^\s<>\"'`()\[\]{}|\\]*)?", re.ASCII)
_LICENCE = re.compile(r"none|[A-Za-z0-9][A-Za-z0-9.+-]*( (AND|OR) [A-Za-z0-9][A-Za-z0-9.+-]*)*", re.ASCII)

#: What texts look like, for whoever writes a schema of the same fields.
PATTERNS = {
    "identifier": _ID.pattern,
    "month": _MONTH.pattern,
    "day": _DAY.pattern,
    "arxiv": _ARXIV.pattern,
    "link": _LINK.pattern.replace(r"\Z", "$"),  # JSON Schema's dialect has no \Z
    "licence": _LICENCE.pattern,
}


class Fields:
    """A mapping whose fields are taken one by one; what nobody took is unknown and refused by `done`."""

    def __init__(self, data: Any, lines: Lines, where: tuple[str | int, ...] = ()) -> None:
        self.data, self.lines, self.where = data, lines, where
        if not isinstance(data, dict):
            name = f'"{where[-1]}" ' if where else ""
            raise lines.error(f'{name}must be a mapping: lines of "name: value"', *where)
        self.taken: list[str] = []

    def error(self, message: str, *keys: str | int) -> CatalogError:
        return self.lines.error(message, *self.where, *keys)

    def take(self, name: str, convert: Callable[[Any], Any], *, required: bool = True) -> Any:
        self.taken.append(name)
        value = self.data.get(name)
        if value is None:
            if required:
                unknown = [key for key in self.data if key not in self.taken]
                hint = nearest(name, unknown).replace("did you mean", "is it spelled")
                raise self.error(f'"{name}" is missing{hint}', *([name] if name in self.data else []))
            return None
        try:
            return convert(value)
        except ValueError as error:
            raise self.error(f'"{name}": {error}', name) from None

    def text(self, name: str) -> str:
        return self.take(name, one_line)

    def flag(self, name: str) -> bool:
        return self.take(name, true_or_false)

    def choice(self, name: str, allowed: Iterable[str], *, required: bool = True) -> Any:
        return self.take(name, lambda value: member(value, allowed, "value"), required=required)

    def many(self, name: str, convert: Callable[[Any], Any]) -> tuple[Any, ...]:
        found = []
        for place, value in enumerate(self.take(name, a_list, required=False) or []):
            try:
                item = convert(value)
            except ValueError as error:
                raise self.error(f'"{name}": {error}', name, place) from None
            if item in found:
                raise self.error(f'"{name}": "{cut(item)}" stands twice', name, place)
            found.append(item)
        return tuple(found)

    def items(self, name: str) -> list[Fields]:
        entries = self.take(name, a_list, required=False) or []
        return [Fields(entry, self.lines, (*self.where, name, place)) for place, entry in enumerate(entries)]

    def mapping(self, name: str) -> Fields:
        return Fields(self.take(name, lambda value: value), self.lines, (*self.where, name))

    def children(self, name: str, *, required: bool = True) -> Iterable[tuple[str, Fields]]:
        if self.take(name, lambda value: value, required=required) is None:
            return
        inside = Fields(self.data[name], self.lines, (*self.where, name))
        for key in inside.data:
            if not _ID.fullmatch(key):
                raise inside.error(
                    f'"{cut(key)}" is not a name of lower-case letters, digits and hyphens', key
                )
            yield key, Fields(inside.data[key], self.lines, (*inside.where, key))

    def labels(self, name: str, axis: Axis) -> dict[str, str]:
        """`{value: confidence}` over a closed axis."""
        if self.take(name, lambda value: value, required=False) is None:
            return {}
        inside = Fields(self.data[name], self.lines, (*self.where, name))
        for key in inside.data:
            one_of(key, axis.values, f"value of {name}", self.lines, *inside.where, key)
            inside.choice(key, CONFIDENCES)
        return {key: inside.data[key] for key in axis.values if key in inside.data}

    def done(self) -> None:
        for key in self.data:
            if key not in self.taken:
                raise self.error(f'unknown field "{cut(key)}"{nearest(key, self.taken)}', key)


def one_of(value: str, allowed: Iterable[str], what: str, lines: Lines, *where: str | int) -> str:
    try:
        return member(value, allowed, what)
    except ValueError as error:
        raise lines.error(str(error), *where) from None


def member(value: Any, allowed: Iterable[str], what: str) -> str:
    names = list(allowed)
    if one_line(value) not in names:
        hint = nearest(value, names) or (f"; known: {', '.join(names)}" if len(names) <= 8 else "")
        raise ValueError(f'no {what} "{cut(value)}"{hint}')
    return value


def one_line(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {_kind(value)}; put it in quotes")
    if not value.strip() or value != value.strip() or "\n" in value:
        raise ValueError("must be one line without space at either end")
    if len(value) > 500:
        raise ValueError("longer than 500 characters")
    return value


def true_or_false(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {_kind(value)}")
    return value


def a_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, not {_kind(value)}")
    return value


def _kind(value: Any) -> str:
    names = {
        bool: "true/false",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "empty")


def day(value: Any) -> str:
    """A day of the calendar: 2026-02-30 is none."""
    import datetime  # here: only the terms of teachers have days

    _well_formed_day(value)
    try:
        datetime.date.fromisoformat(value)
    except ValueError:
        raise ValueError(f'"{value}" is not a day of the calendar') from None
    return value


def _pattern(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    def convert(value: Any) -> str:
        if not pattern.fullmatch(one_line(value)):
            raise ValueError(f'"{cut(value)}" is not {what}')
        return value

    return convert


def month_or_day(value: Any) -> str:
    """A month, or a day of the calendar."""
    return month(value) if isinstance(value, str) and len(value) <= len("2023-06") else day(value)


identifier = _pattern(_ID, 'a name like "self-instruct": lower-case letters, digits, single hyphens')
month = _pattern(_MONTH, 'a month like "2023-06"')
_well_formed_day = _pattern(_DAY, 'a day like "2026-11-22"')
arxiv_id = _pattern(_ARXIV, 'an arXiv id like "2306.08543", without version')
link = _pattern(_LINK, "an https link without spaces, quotes or brackets")
licence = _pattern(_LICENCE, 'an SPDX licence id like "Apache-2.0", or "none" where the repository has none')
