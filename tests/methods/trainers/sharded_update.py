"""One optimizer step of trainers whose weights FSDP2 shards over two gloo ranks: run by test_sharding.py.

`python -m tests.methods.trainers.sharded_update OUT.safetensors`. Accelerate shards on accelerators only; it is told
that the CPU is one, and everything below it (sharding, gathering, reduction of gradients) is the real thing.
"""

import contextlib
import functools
import os
import sys
from unittest import mock

import pytest
import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from safetensors.torch import save_file

from methods.errors import MethodError
from tests.methods.conftest import letter_tokenizer
from tests.methods.trainers import latent_update, one_update

REFUSED = "codi"
TRAINERS = [name for name in one_update.TRAINERS if name not in (REFUSED, *one_update.SAMPLED)]
SHARDED = {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}


def pretend(original):
    """`PartialState.__init__` that takes the CPU for a kind of accelerator."""

    @functools.wraps(original)
    def begin(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self._shared_state["distributed_type"] == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_XPU
            self._shared_state["device"] = torch.device("cpu")  # safetensors knows no cpu:0

    return begin


if __name__ == "__main__":
    one_update.greedy_rollouts()
    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.object(PartialState, "__init__", pretend(PartialState.__init__)))
        for module, name in (
            (one_update, "SFTConfig"),
            (one_update, "OptimisationConfig"),
            (one_update, "PolicyConfig"),
            (latent_update, "SFTConfig"),
        ):
            config = functools.partial(getattr(module, name), **SHARDED)
            patches.enter_context(mock.patch.object(module, name, config))
        updates = {
            f"{trainer}/{name}": delta
            for trainer in TRAINERS
            for name, delta in one_update.one_update(
                trainer, "llama", letter_tokenizer(), batch=2, accumulate=1
            ).items()
        }
        with pytest.raises(MethodError, match="use DDP"):
            one_update.one_update("codi", "llama", letter_tokenizer(), batch=2, accumulate=1)
    if int(os.environ["RANK"]) == 0:
        save_file({name: delta.contiguous() for name, delta in updates.items()}, sys.argv[1])
