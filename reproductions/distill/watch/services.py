"""`report_to:` of a config: services that draw curves, where their packages are installed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from catalog.reader import Lines, nearest

# The package that each needs.
SERVICES = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}


def read_services(data: Mapping[str, Any], lines: Lines) -> tuple[str, ...]:
    """The services of a config. Raises CatalogError for one that is unknown, or whose package is not installed."""
    given = data.get("report_to") or []
    several = isinstance(given, list)
    found = given if isinstance(given, list) else [given]
    for place, name in enumerate(found):
        where: tuple[str | int, ...] = ("report_to", *([place] if several else []))
        if not isinstance(name, str) or name not in SERVICES:
            near = nearest(str(name), SERVICES)
            raise lines.error(f'report_to: no "{name}"{near}; known: {", ".join(SERVICES)}', *where)
        if find_spec(SERVICES[name]) is None and not (name == "tensorboard" and find_spec("tensorboardX")):
            raise lines.error(
                f"report_to: {name} needs the package {SERVICES[name]}, which is not installed; the loss is in "
                "log.jsonl and loss.svg of the output in any case",
                *where,
            )
    return tuple(found)
