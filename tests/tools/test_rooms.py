"""The plan of the house: no folder with more than a dozen files flat, no circle of imports."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("catalog", "methods", "reproductions", "tools")
DOZEN = 12
#: What is still to be divided; a line goes when the folder has its rooms, and none comes.
TOO_MANY: set[str] = set()
#: Circles that are still to be cut, by the modules in them.
CIRCLES: set[frozenset[str]] = set()


def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything but tests."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: Iterable[str]) -> set[str]:
    """The modules of ours that a file imports when it runs, wherever in it; types alone do not count."""
    found = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inside & set(known)) or {node.module}
        todo += ast.iter_child_nodes(node)
    return found & set(known)


def circles(arrows: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules each of which leads to every other of its group."""
    reach: dict[str, set[str]] = {}
    for start in arrows:
        seen: set[str] = set()
        todo = [*arrows[start]]
        while todo:
            name = todo.pop()
            if name not in seen:
                seen.add(name)
                todo += arrows[name]
        reach[start] = seen
    return {
        frozenset({name, *(other for other in reach[name] if name in reach[other])})
        for name in arrows
        if name in reach[name]
    }


def test_nothing_is_imported_in_a_circle():
    found = modules()
    made = circles({name: imported(path, found) for name, path in found.items()})
    assert made <= CIRCLES, sorted(map(sorted, made - CIRCLES))
    assert made >= CIRCLES, f"cut by now, so no longer known: {sorted(map(sorted, CIRCLES - made))}"


def test_a_circle_would_be_found():
    arrows = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": set()}
    assert circles(arrows) == {frozenset({"a", "b", "c"})}
    assert circles({"a": {"b"}, "b": set()}) == set()


def test_no_folder_holds_more_than_a_dozen_files():
    folders = {path.parent for path in modules().values()}
    crowded = {
        folder.relative_to(ROOT).as_posix()
        for folder in folders
        if sum(path.name != "__init__.py" for path in folder.glob("*.py")) > DOZEN
    }
    assert crowded <= TOO_MANY, sorted(crowded - TOO_MANY)
    assert crowded >= TOO_MANY, f"divided by now, so no longer known: {sorted(TOO_MANY - crowded)}"


@pytest.mark.parametrize("room", ROOMS)
def test_the_rooms_are_there(room):
    assert any(name.startswith(f"{room}.") for name in modules())
