"""What runs share: teachers, SFT starts, texts that teachers wrote. Made once by whoever needs it first."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reproductions.engine.files import file_lock, read_json, write_atomic
from reproductions.engine.work.artifacts import Artifacts, save_model
from reproductions.engine.work.seeding import preserved_random_state, seed_everything

if TYPE_CHECKING:
    from torch import Tensor

    from reproductions.engine.work.run import Run

TENSORS = "tensors.safetensors"


class Shared:
    """Models and plain data by content: `key` says what they are made of, testbed and data revision are added.

    Building uses random numbers seeded by key["seed"] (default 0), not the run's, and a run of its own (`run.apart`),
    which the builder is given: whoever needs the thing first makes the same one, and the run goes on as if it had found
    it. `used` says what was used and what making it had cost.
    """

    def __init__(self, artifacts: Artifacts, run: Run) -> None:
        self._artifacts, self._run = artifacts, run
        self.used: dict[str, dict[str, Any]] = {}
        self.seconds = 0.0  # spent making things here, or waiting for another run that does

    def model(
        self,
        kind: str,
        key: Mapping[str, Any],
        build: Callable[[Run], Any],
        load: Callable[[Path], Any] | None = None,
    ) -> Any:
        """A model, read back from safetensors, on the CPU."""

        def write(folder: Path, run: Run) -> None:
            save_model(build(run), folder)

        folder = self._obtain(kind, key, write)
        if load is not None:
            return load(folder)
        from transformers import AutoModelForCausalLM

        with preserved_random_state():  # whether reading it back draws numbers is no matter of the run's
            return AutoModelForCausalLM.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )

    def data(self, kind: str, key: Mapping[str, Any], build: Callable[[Run], Any]) -> Any:
        """Plain JSON data."""

        def write(folder: Path, run: Run) -> None:
            write_atomic(folder / "data.json", json.dumps(build(run), ensure_ascii=False, allow_nan=False))

        return read_json(self._obtain(kind, key, write) / "data.json")

    def has(self, kind: str, key: Mapping[str, Any]) -> bool:
        """Whether there is such a thing already, whole or not."""
        return self._artifacts.path(kind, self._full(key)).exists()

    @contextlib.contextmanager
    def one_at_a_time(self, kind: str, key: Mapping[str, Any]) -> Iterator[None]:
        """Whoever else makes several of a kind together waits, and then finds them."""
        name = f"{self._artifacts.path(kind, self._full(key)).name}.together.lock"
        began = time.perf_counter()
        with file_lock(self._artifacts.root / "locks" / name):
            self.seconds += time.perf_counter() - began
            yield

    def made_ahead(self, kind: str, key: Mapping[str, Any], model: Any, apart: Run, seconds: float) -> None:
        """Keeps a model that `apart` made with others, its share `seconds`; one that is there already stays."""

        def write(folder: Path, run: Run) -> None:
            save_model(model, folder)
            run.budget, run.ahead = apart.budget, seconds
            run.shared.used.update(apart.shared.used)

        self._obtain(kind, key, write)
        self.seconds += seconds

    def tensors(
        self, kind: str, key: Mapping[str, Any], build: Callable[[Run], Mapping[str, Tensor]], limit: int
    ) -> dict[str, Tensor]:
        """Tensors by name, on the CPU. Of this kind no more than `limit` bytes stay on disk: the oldest go first."""
        from safetensors.torch import load_file, save_file

        def write(folder: Path, run: Run) -> None:
            save_file({name: tensor.contiguous() for name, tensor in build(run).items()}, folder / TENSORS)

        for attempt in range(2):
            folder, made = self._obtained(kind, key, write)
            try:
                found: dict[str, Tensor] = load_file(folder / TENSORS)
            except FileNotFoundError:  # gone since: others made much in the meantime
                if attempt:
                    raise
                continue
            if made:
                self._artifacts.prune(kind, limit, keep=folder)
            return found
        raise AssertionError("unreachable")

    def _full(self, key: Mapping[str, Any]) -> dict[str, Any]:
        bed = self._run.testbed
        return {**key, "testbed": bed.shelf, "data_revision": bed.revision}

    def _obtain(self, kind: str, key: Mapping[str, Any], write: Callable[[Path, Run], None]) -> Path:
        return self._obtained(kind, key, write)[0]

    def _obtained(
        self, kind: str, key: Mapping[str, Any], write: Callable[[Path, Run], None]
    ) -> tuple[Path, bool]:
        full_key = self._full(key)
        name, told = self._artifacts.path(kind, full_key).name, list[str]()

        def tell(event: str, **more: Any) -> None:
            told.append(event)
            self._run.tell({"event": event, "phase": kind, "name": name, **more})

        def build(folder: Path) -> dict[str, Any]:
            tell("making")
            return self._build(folder, int(key.get("seed", 0)), write)

        began = time.perf_counter()
        folder, meta = self._artifacts.obtain(kind, full_key, build, lambda: tell("waiting"))
        self.seconds += time.perf_counter() - began
        if told:
            tell("shared", made="making" in told, seconds=meta["seconds"])
        budget = dict(meta["budget"])
        seconds = round(meta["seconds"] + budget.pop("ahead", 0.0), 3)
        self.used.update(budget.pop("made_from"))
        self.used[folder.name] = {"kind": kind, "key": meta["key"], "seconds": seconds, **budget}
        return folder, "making" in told

    def _build(self, folder: Path, seed: int, write: Callable[[Path, Run], None]) -> dict[str, Any]:
        import torch

        apart = self._run.apart(seed)
        # Somebody may ask for a teacher in the middle of an evaluation, where gradients are off and autocast is on.
        device = self._run.device.type
        with preserved_random_state(), torch.enable_grad(), outside_autocast(device):
            seed_everything(seed)
            write(folder, apart)
        ahead = {"ahead": round(apart.ahead, 3)} if apart.ahead else {}
        return {**apart.budget.as_dict(), "made_from": apart.shared.used, **ahead}


@contextlib.contextmanager
def outside_autocast(device: str) -> Iterator[None]:
    """As where no autocast is, on a device's type.

    `torch.autocast(enabled=False)` will not do: weights that were cast to bf16 are kept until the outermost autocast
    ends, so each step of a training inside would go by the weights that were there before the first.
    """
    import torch

    enabled, depth = torch.is_autocast_enabled(device), torch.autocast_increment_nesting() - 1
    for _ in range(depth + 1):
        torch.autocast_decrement_nesting()
    torch.clear_autocast_cache()
    torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        torch.set_autocast_enabled(device, enabled)
        torch.clear_autocast_cache()
        for _ in range(depth):
            torch.autocast_increment_nesting()
