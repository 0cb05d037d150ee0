"""The Python beside an experiment, papers/<id>.py: components, tasks and measurements that only this paper has.

It is imported before anything is planned and by every worker, and its digest stands in the specs of the paper's arms:
another source is another key. It imports no torch at its top, so that a plan stays quick.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path

from catalog.errors import CatalogError
from methods.errors import MethodError
from methods.registry import forget
from reproductions.engine.errors import KDError
from reproductions.engine.files import content_digest


def load_code(path: Path) -> str:
    """Imports the file, again where its content is another; returns its digest. Raises KDError with file and line."""
    name, digest = f"reproductions_paper_{path.stem}", content_digest(path)
    if getattr(sys.modules.get(name), "DIGEST", None) == digest:
        return digest
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise KDError(f"{path}: cannot be imported")
    module = importlib.util.module_from_spec(spec)
    forget(name)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        forget(name)
        if isinstance(error, KDError | CatalogError | MethodError):
            raise KDError(f"{path}: {error}") from error
        raise KDError(
            f"{path}:{_line(error, path)}: cannot be imported: {type(error).__name__}: {error}"
        ) from error
    module.DIGEST = digest  # type: ignore[attr-defined]
    return digest


def _line(error: Exception, path: Path) -> int:
    """The line of the file that the error is about."""
    if isinstance(error, SyntaxError) and error.lineno:
        return error.lineno
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path) and frame.lineno
    ]
    return lines[-1] if lines else 1
