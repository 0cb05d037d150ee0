"""The function behind `module:function`, or `path/to/file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from catalog.errors import nearest
from tools.commands import UsageError


def load(target: str) -> Callable[..., Any]:
    """What `target` names, imported from the working folder or what is installed; UsageError with the nearest name."""
    place, colon, name = target.rpartition(":")
    if not (place and colon and name):
        raise UsageError(f'kd conform: "{target}" is not MODULE:FUNCTION, such as my_losses:distillation')
    found: Any = _module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            known = [one for one in dir(found) if callable(getattr(found, one, None))]
            raise UsageError(f'kd conform: {place} has no "{part}"{nearest(part, known)}')
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"kd conform: {target} is a {type(found).__name__}, not a function")
    return found


def _module(place: str) -> ModuleType:
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except UsageError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if place == missing or place.startswith(f"{missing}."):
            raise UsageError(
                f'kd conform: no module "{missing}"{nearest(missing, _beside(missing))}'
            ) from error
        raise UsageError(f'kd conform: {place} imports "{missing}", which is not installed') from error
    except Exception as error:  # whatever somebody's module raises while it is imported
        said = str(error).splitlines()[0] if str(error) else "no message"
        raise UsageError(f"kd conform: importing {place} raised {type(error).__name__}: {said}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        beside = [str(path.parent / one.name) for one in path.parent.glob("*.py")]
        raise UsageError(f"kd conform: no file {path}{nearest(str(path), beside)}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _beside(name: str) -> list[str]:
    """Modules of the same package, or that may be imported from here."""
    package, _, _ = name.rpartition(".")
    parent = sys.modules.get(package) if package else None
    paths = getattr(parent, "__path__", None) if package else None
    if package and paths is None:
        return []
    return [f"{package}.{one.name}" if package else one.name for one in pkgutil.iter_modules(paths)]
