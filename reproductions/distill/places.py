"""Where the models of a config lie: folders beside it first, then the hub, and never the hub for a misspelt folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.reader import Lines, nearest
from reproductions.models.sources import PACKAGED, model_folder


def teachers_in(data: Mapping[str, Any], lines: Lines) -> tuple[str, ...]:
    """The teachers of a config: none, one, or a list."""
    value = data.get("teacher")
    several = isinstance(value, list)
    found = value if isinstance(value, list) else [] if value is None else [value]
    for place, name in enumerate(found):
        if not isinstance(name, str) or not name.strip():
            raise lines.error('"teacher" must be a model or a list of models', "teacher", place)
    return tuple(
        model_in(name, lines, "teacher", *([place] if several else [])) for place, name in enumerate(found)
    )


def model_in(name: str, lines: Lines, *where: str | int) -> str:
    """A folder beside the config file where there is one, else the hub's id.

    What looks like a folder that is not there is not asked of the hub, where somebody else's model may bear that name.
    """
    if name.startswith("hub:"):
        return name.removeprefix("hub:")
    around = lines.path.parent
    local = around / Path(name).expanduser()
    if local.is_dir():
        return str(local.resolve())
    if model_folder(name) is not None or name in PACKAGED:
        return name
    beside = local.parent
    models = (
        [] if not beside.is_dir() else sorted(path.name for path in beside.iterdir() if _holds_a_model(path))
    )
    close = nearest(local.name, models)
    path_like = name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith("/")
    if path_like or close or ("/" in name and beside.is_dir()):
        hint = "" if path_like else f"; for a model of the hub say hub:{name}"
        raise lines.error(f'"{where[0]}": no folder {local}{close}{hint}', *where)
    return name


def _holds_a_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
