"""What a training leaves on the disk while it is not done: one at a time, whole checkpoints, room for them."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reproductions.engine.errors import KDError
from reproductions.engine.files import sole_user, why_not_writable
from reproductions.engine.signals import terminable

STATE, LOCK = ".kd-state", ".kd-lock"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors", "model.safetensors.index.json")
FSDP = ("pytorch_model_fsdp", "optimizer")  # of a sharded student: a file .bin, or a folder _0
FULL = (errno.ENOSPC, errno.EDQUOT)


def first_process() -> bool:
    """Whether this is the only process of a training, or the one of several that speaks and writes."""
    return int(os.environ.get("RANK", "0")) == 0


@contextlib.contextmanager
def working_on(output: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The one training that writes into this folder; SIGTERM and SIGHUP end it as Ctrl-C does, with a sentence.

    Raises KDError where another process is at it, and in one sentence where the disk is full.
    """
    first = first_process()
    fresh = first and not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    lock = output / LOCK
    try:
        with (
            _room_or_a_sentence(output),
            sole_user(lock, str(output)) if first else contextlib.nullcontext(),
            terminable(),
        ):
            try:
                yield
            except KeyboardInterrupt:
                found = newest_checkpoint(output)
                where = f"step {step_of(found)}" if found else "the beginning"
                say(f"stopped; the same command goes on from {where}")
                raise
            finally:
                if first:
                    lock.unlink(missing_ok=True)
    finally:
        if fresh and output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def check_writable(config: Any) -> None:
    """Raises CatalogError, with the config's line, where nothing can be written into its output."""
    reason = why_not_writable(config.output)
    if reason is not None:
        raise config.lines.error(
            f'"output": {config.output} cannot be written: {reason}; name another one', "output"
        )


@contextlib.contextmanager
def _room_or_a_sentence(output: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not disk_full(error):
            raise
        raise KDError(
            f"{output}: the disk is full; make room, and the same command goes on from the last whole checkpoint"
        ) from error


def disk_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, comes of a full disk; torch and safetensors say so in words of their own."""
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        if "No space left on device" in text or ("inline_container" in text and "unexpected pos" in text):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_room(output: Path, parameters: int, *, adapters: bool, checkpoints: int) -> None:
    """Raises KDError unless checkpoints and student fit: weights in fp32, and Adam's two moments of what is trained.

    A checkpoint is written before the one before it goes. Adapters count as nothing beside their model.
    """
    needed = room_needed(parameters, adapters=adapters, checkpoints=checkpoints)
    free = free_at(output)
    if free < needed:
        raise KDError(
            f"{output}: {_size(free)} free, checkpoints and student take up to {_size(needed)}; make room, or name an "
            "output on another disk"
        )


def free_at(output: Path) -> int:
    """Bytes that are free for an output, what its own unfinished work takes among them."""
    state, place = output / STATE, output
    there = sum(file.stat().st_size for file in state.rglob("*") if file.is_file()) if state.is_dir() else 0
    while not place.exists():  # a plan makes no folder
        place = place.parent
    return shutil.disk_usage(place).free + there


def room_needed(parameters: int, *, adapters: bool, checkpoints: int) -> int:
    """Bytes that checkpoints and student take at their most, beside each other."""
    student, checkpoint = 4 * parameters, 0 if adapters else 12 * parameters
    return max(min(2, checkpoints) * checkpoint, min(1, checkpoints) * checkpoint + student)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def newest_checkpoint(output: Path) -> Path | None:
    """The newest whole checkpoint."""
    found = sorted(checkpoints_in(output), key=step_of, reverse=True)
    return next((path for path in found if is_whole(path)), None)


def drop_broken(output: Path) -> list[str]:
    """Removes checkpoints that were not written to their end; their names."""
    broken = [path for path in checkpoints_in(output) if not is_whole(path)]
    for path in broken:
        shutil.rmtree(path)
    return [path.name for path in broken]


def checkpoints_in(output: Path) -> list[Path]:
    """All checkpoint folders of an unfinished training."""
    return [path for path in (output / STATE).glob("checkpoint-*") if re.fullmatch(r"\d+", path.name[11:])]


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was made."""
    return int(checkpoint.name[11:])


def is_whole(checkpoint: Path) -> bool:
    """Whether every file of a checkpoint is there and has its end."""
    names = {path.name for path in checkpoint.iterdir()}
    memory = any(name.startswith("memory-") for name in names)
    random = any(name.startswith("rng_state") for name in names)
    weights = (
        {"optimizer.pt", "scheduler.pt"} <= names
        and bool(names.intersection(WEIGHTS))
        or "scheduler.pt" in names
        and all(f"{part}.bin" in names or f"{part}_0" in names for part in FSDP)
        or _of_deepspeed(checkpoint)
    )
    return "trainer_state.json" in names and memory and random and weights and all(
        _has_its_end(path) for path in checkpoint.iterdir()
    )  # fmt: skip


def _of_deepspeed(checkpoint: Path) -> bool:
    """Whether the folder that DeepSpeed names last is there."""
    latest = checkpoint / "latest"
    return latest.is_file() and (checkpoint / latest.read_text(encoding="utf-8").strip()).is_dir()


def _has_its_end(path: Path) -> bool:
    if path.is_dir():  # one that FSDP's ranks wrote together has its table of contents last
        return not path.name.startswith(FSDP) or (path / ".metadata").is_file()
    if path.suffix in (".pt", ".pth", ".bin"):  # zip archives, whose table of contents is their end
        return zipfile.is_zipfile(path)
    if path.suffix == ".safetensors":
        return _is_safetensors(path)
    if path.suffix == ".json":
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return False
    return True


def _is_safetensors(path: Path) -> bool:
    """Whether a file is as long as its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= path.stat().st_size - 8:
            return False
        try:
            header = json.loads(file.read(length))
        except ValueError:
            return False
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    return path.stat().st_size == 8 + length + max(ends, default=0)
