"""How vLLM is to run where it writes a student's rollouts (methods.trainers.engine); reading it needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

MODES = ("colocate", "server")


@dataclass(frozen=True)
class Engine:
    """How vLLM runs: beside the training on its GPU ("colocate"), or as a server at an address.

    `memory` is the share of the GPU's that an engine beside the training takes, `sleep` lets it give that back between
    rollouts.
    """

    mode: str = "colocate"
    server: str | None = None
    memory: float = 0.3
    sleep: bool = False

    def arguments(self) -> dict[str, Any]:
        """What TRL's VLLMGeneration takes for it."""
        if self.mode == "server":
            return {"mode": self.mode, "server_base_url": self.server}
        return {
            "mode": self.mode,
            "gpu_memory_utilization": self.memory,
            "enable_sleep_mode": self.sleep,
        }
