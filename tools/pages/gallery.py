"""methods/GALLERY.md: every component that a recipe may name, from its signature and docstring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from methods.registry import SLOTS, Component, components
from tools.pages.markdown import code, md

_SOURCE = re.compile(r"(?:Source|From|Paper):\s*(.+?)(?:\n\s*\n|\Z)", re.S)


def page(found: Iterable[Component] | None = None) -> str:
    """The gallery as Markdown; components are read from the source, nothing is imported."""
    entries = sorted(components().values() if found is None else found, key=lambda entry: entry.name)
    lines = [
        "# Components",
        "",
        "<!-- Written by `make readme` from the docstrings under methods/; edit those. -->",
        "",
        "What a recipe, an arm or a `kd distill` config may name, by slot; settings with their defaults. A component",
        "is `NAME` or `{name: NAME, <settings>}`. [Back to the README](../README.md).",
        "",
    ]
    for slot, about in SLOTS.items():
        chosen = [entry for entry in entries if entry.slot == slot]
        if chosen:
            lines += [f"## {slot}", "", f"{md(about[:1].upper() + about[1:])}.", ""]
            for entry in chosen:
                lines += _entry(entry)
    return "\n".join(lines).rstrip() + "\n"


def settings(entry: Component) -> str:
    """'head_mass=0.5, share (required)': what may be set."""
    return ", ".join(
        f"{one.name} (required)" if one.required else f"{one.name}={one.default!r}"
        for one in entry.parameters.values()
    )


def _entry(entry: Component) -> Iterator[str]:
    path = "/".join(entry.module.split(".")[1:]) + ".py"
    yield f"- **{code(entry.name)}** {code(settings(entry))}".rstrip()
    yield f"  {md(entry.summary)} [source]({path}#L{entry.line})"
    source = _SOURCE.search(entry.doc)
    if source:
        yield f"  *{md(source[1])}*"
