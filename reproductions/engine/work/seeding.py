"""Random states: set for a run, and kept apart from what looks at a run."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np


def seed_everything(seed: int) -> None:
    """Seeds python, numpy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # libraries under us draw from the global state
    torch.manual_seed(seed)


@contextlib.contextmanager
def preserved_random_state() -> Iterator[None]:
    """Whatever is drawn inside, the states outside go on as if nothing had been."""
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(cpu)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
