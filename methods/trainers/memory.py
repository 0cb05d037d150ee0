"""What a trainer remembers beside weights, optimizer and random state, kept in its checkpoints."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from methods.modeling.core import core_model

if TYPE_CHECKING:
    from transformers import Trainer as _Trainer
else:
    _Trainer = object


class Remembers(_Trainer):
    """Stands before a transformers Trainer: what `remembered` gives goes into each checkpoint, `recall` gets it back.

    Each rank keeps its own, in `memory-<rank>.safetensors`. It comes back with the optimizer, under DeepSpeed too, not
    with the random state: within an epoch that is restored only after the first window has been sampled.
    """

    def remembered(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Plain data, as JSON holds it, and tensors."""
        return {}, {}

    def recall(self, plain: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Go on from what `remembered` gave."""

    def trained_along(self) -> dict[str, nn.Module]:
        """Modules that are part of the model while it trains, by name; a checkpoint's model does without them."""
        return {}

    def _apart(self) -> dict[str, Tensor]:
        """This rank's part of what trains along, to read or to write."""
        tensors = {
            f"{name}.{key}": tensor.detach()
            for name, module in self.trained_along().items()
            for key, tensor in module.state_dict().items()
        }
        return {name: t.to_local() if isinstance(t, DTensor) else t for name, t in tensors.items()}

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        plain, tensors = self.remembered()
        kept = {name: t.detach().cpu().clone() for name, t in (tensors | self._apart()).items()}
        save_file(kept, self._memory(output_dir), metadata={"plain": json.dumps(plain)})

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        path = self._memory(checkpoint)
        if not path.is_file():
            warnings.warn(f"{path} is missing: counts, samplers and targets begin anew", stacklevel=2)
            return
        with safe_open(path, "pt", device=str(self.accelerator.device)) as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            plain = json.loads(file.metadata()["plain"])
        for name, tensor in self._apart().items():
            tensor.copy_(tensors.pop(name))
        self.recall(plain, tensors)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Of a head that is the embedding a checkpoint has one copy, which is not a key that misses."""
        tied = getattr(core_model(self.model), "all_tied_weights_keys", None) or {}
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)

    def _memory(self, folder: str) -> Path:
        return Path(folder) / f"memory-{self.accelerator.process_index}.safetensors"
