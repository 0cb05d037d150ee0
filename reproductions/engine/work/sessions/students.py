"""Trained students of this machine, $KD_CACHE/students/<key>/seed<k>-<environment>: a metric more needs no training.

A student is kept where reading it back gives the very same weights: a plain transformers model of a moderate size. Any
other is trained again when somebody asks for a further metric.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reproductions.engine.files import digest, read_json, write_atomic
from reproductions.engine.store.cache import DECISIVE
from reproductions.engine.work.artifacts import save_model
from reproductions.engine.work.execute import weights_digest
from reproductions.engine.work.seeding import preserved_random_state

LARGEST = 64 * 2**20  # bytes of weights; beyond, training again is what the disk is spared
_META = "student.json"


def student_path(root: Path, key: str, seed: int, made_with: Mapping[str, Any]) -> Path:
    """The folder of a student, there or not; where it was trained with something else is another folder."""
    about = {name: made_with.get(name) for name in DECISIVE}
    return root / "students" / key / f"seed{seed}-{digest(about, 8)}"


def keep_student(folder: Path, model: Any, student: str) -> bool:
    """Writes a student whole or not at all, and says whether it was; one that cannot be read back alike is not kept."""
    from transformers import PreTrainedModel

    plain = isinstance(model, PreTrainedModel) and type(model).__module__.startswith("transformers.")
    if not plain or sum(p.numel() * p.element_size() for p in model.parameters()) > LARGEST:
        return False
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        save_model(model, partial)
        write_atomic(partial / _META, f'{{"student": "{student}", "class": "{type(model).__name__}"}}\n')
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def read_student(folder: Path, student: str | None) -> Any | None:
    """The student with these weights, in evaluation mode, on the CPU; None where the cache lacks it."""
    if student is None or not (folder / _META).is_file():
        return None
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    with contextlib.suppress(
        OSError, ValueError, KeyError, SafetensorError
    ):  # not whole: it is trained again
        meta = read_json(folder / _META)
        with preserved_random_state():
            model = AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        if type(model).__name__ == meta["class"] and weights_digest(model) == student == meta["student"]:
            return model.eval()
    return None
