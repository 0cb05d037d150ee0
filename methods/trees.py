"""What reading a tree of plain data needs: known keys, and errors that say where in the tree they stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from methods.registry import RegistryError, near


def known_keys(tree: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    for name in tree:
        if name not in tuple(known):
            raise RegistryError(
                f'{what} has no "{name}"{near(str(name), tuple(known))}; known: {", ".join(known)}', name
            )


def text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise RegistryError(f"{what} is a text, not {value!r}")
    return value


def below(where: Any, function: Any, *arguments: Any, strip: bool = False) -> Any:
    """What `function` gives; an error of it is told from `where` on. `strip`: its own path is the mapping's here."""
    steps = where if isinstance(where, tuple) else (where,)
    try:
        return function(*arguments)
    except RegistryError as error:
        inside = error.path != ("name",) and strip
        raise (
            error
            if inside
            else error.below(*steps)
            if error.path != ("name",)
            else RegistryError(str(error), *steps)
        ) from None
