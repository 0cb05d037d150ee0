"""methods/GALLERY.md: every component that a recipe may name, from its signature and docstring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from methods import fingerprints
from methods.recipe import canonical_method, components_of, read_recipe, recipe_ids
from methods.registry import ROOT, SLOTS, Component, components
from tools.pages.markdown import code, link, md

_SOURCE = re.compile(r"(?:Source|From|Paper):\s*(.+?)(?:\n\s*\n|\Z)", re.S)
NAMED = 8  # so many recipes are named beside a component; more are counted
Used = Mapping[tuple[str, str], list[str]]  # (slot, name) -> recipes


def page(found: Iterable[Component] | None = None) -> str:
    """The gallery as Markdown; components are read from the source, nothing is imported."""
    entries = sorted(components().values() if found is None else found, key=lambda entry: entry.name)
    slots = [slot for slot in SLOTS if any(entry.slot == slot for entry in entries)]
    used, recorded = used_by(), fingerprints.recorded()
    lines = [
        "# Components",
        "",
        "<!-- Written by `make readme` from the docstrings under methods/; edit those. -->",
        "",
        "What a recipe, an arm or a `kd distill` config may name, by slot; settings with their defaults. A component",
        "is `NAME` or `{name: NAME, <settings>}`. The fingerprint is a hash of what a few steps with it do to a toy: a",
        "code change that alters it makes the recorded results of its arms stale, and `make check` names them.",
        "",
        f"{' · '.join(f'[{slot}](#{slot})' for slot in slots)} · [recipes](recipes) · [README](../README.md)",
        "",
    ]
    for slot in slots:
        about = SLOTS[slot]
        lines += [f"## {slot}", "", f"{md(about[:1].upper() + about[1:])}.", ""]
        for entry in entries:
            if entry.slot == slot:
                figures = recorded.get(f"{slot}/{entry.name}")
                lines += _entry(entry, used, None if figures is None else fingerprints.fingerprint(figures))
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def used_by() -> Used:
    """The recipes in which each component stands."""
    found: dict[tuple[str, str], list[str]] = {}
    for recipe in recipe_ids():
        for key in components_of(canonical_method(read_recipe(recipe).method())):
            found.setdefault(key, []).append(recipe)
    return found


def settings(entry: Component) -> str:
    """'head_mass=0.5, share (required)': what may be set."""
    return ", ".join(
        f"{one.name} (required)" if one.required else f"{one.name}={one.default!r}"
        for one in entry.parameters.values()
    )


def _entry(entry: Component, used: Used, fingerprint: str | None) -> Iterator[str]:
    path = _path(entry)
    place = f'<a id="{entry.slot}-{entry.name}"></a>'
    yield f"- {place}**{code(entry.name)}** {code(settings(entry))}".rstrip()
    yield f"  {md(entry.summary)} [{code(f'{path}: {entry.attribute}')}]({path}#L{entry.line})"
    source = _SOURCE.search(entry.doc)
    if source:
        yield f"  *{md(source[1])}*"
    recipes = used.get((entry.slot, entry.name), [])
    named = [f"[{md(name)}](recipes/{link(name)}.yaml)" for name in recipes[:NAMED]]
    more = f" and {len(recipes) - NAMED} more" if len(recipes) > NAMED else ""
    parts = [f"Recipes: {', '.join(named)}{more}."] if recipes else []
    parts += [f"Fingerprint {code(fingerprint)}."] if fingerprint else []
    if parts:
        yield f"  <sub>{' '.join(parts)}</sub>"


def _path(entry: Component) -> str:
    """The file of a component, from methods/."""
    path = "/".join(entry.module.split(".")[1:])
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"
