"""Named parts of testbeds, tasks and measurements: found by their file's decorator, checked by their signature.

A module that registers a part imports no torch at its top: a plan or a check reads names and settings of all of them.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from catalog.reader import nearest
from reproductions.engine.errors import KDError

Part = TypeVar("Part", bound=type)


class PartError(KDError):
    """A name or setting that does not exist; `path` says where in the tree it stands."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path


class Parts:
    """The classes of one kind, by name; `context` are parameters that the caller hands over, and no settings."""

    def __init__(self, kind: str, package: str, context: Collection[str] = ()) -> None:
        self.kind, self.package, self.context = kind, package, frozenset(context)
        self._made: dict[str, type] = {}
        self._imported = False

    def register(self, name: str) -> Callable[[Part], Part]:
        """Registers a class under a kebab-case name; returns it unchanged."""

        def keep(made: Part) -> Part:
            other = self._made.get(name, made)
            if other is not made and other.__module__ != made.__module__:
                raise KDError(
                    f'two {self.kind}s are called "{name}": {other.__module__} and {made.__module__}'
                )
            self._made[name] = made
            return made

        return keep

    @property
    def all(self) -> Mapping[str, type]:
        """Every class, by name; imports the modules that register one. A paper's own Python may add to them."""
        if not self._imported:
            self._imported = True
            folder = Path(str(importlib.import_module(self.package).__path__[0]))
            for path in sorted(folder.rglob("*.py")):
                if f"@{self.kind}(" in path.read_text(encoding="utf-8"):
                    inside = path.relative_to(folder).with_suffix("").parts
                    importlib.import_module(".".join((self.package, *inside)))
        return dict(sorted(self._made.items()))

    def find(self, name: Any) -> type:
        """The class of that name. Raises PartError with the nearest one."""
        if name not in self.all:
            raise PartError(
                f'no {self.kind} is called "{name}"{nearest(str(name), self.all)}; known: {", ".join(self.all)}'
            )
        return self.all[name]

    def settings(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """Settings checked by the signature, those at their defaults left out. Raises PartError."""
        known = {
            item.name: item
            for item in inspect.signature(self.find(name)).parameters.values()
            if item.name not in self.context
        }
        for setting in given:
            if setting not in known:
                has = f"it has {', '.join(known)}" if known else "it has none"
                raise PartError(
                    f'{self.kind} {name} has no setting "{setting}"{nearest(setting, known)}; {has}', setting
                )
        missing = [s for s, item in known.items() if item.default is item.empty and s not in given]
        if missing:
            raise PartError(f'{self.kind} {name} needs "{missing[0]}"')
        return {s: value for s, value in given.items() if value != _plain(known[s].default)}

    def default(self, name: str, setting: str) -> Any:
        """The value of a setting that nobody gave; None where it has no default."""
        found = inspect.signature(self.find(name)).parameters[setting].default
        return None if found is inspect.Parameter.empty else _plain(found)


def _plain(default: Any) -> Any:
    """A default as YAML would have it."""
    return list(default) if isinstance(default, tuple) else default
