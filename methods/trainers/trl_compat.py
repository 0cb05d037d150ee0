"""Every TRL name this library leans on, private ones included, in one place.

TRL moves names between minor releases. Nothing else in `methods` imports from `trl`; test_trl_compat.py
holds the classes, signatures and hooks below to what the trainers here expect of them.
"""

from torch.distributed.fsdp import FSDPModule
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer
from trl.generation.vllm_generation import VLLMGeneration
from trl.import_utils import is_vllm_available
from trl.models.utils import _ForwardRedirection
from trl.trainer.utils import RepeatSampler

__all__ = [
    "GRPOConfig",
    "GRPOTrainer",
    "RepeatSampler",
    "SFTConfig",
    "SFTTrainer",
    "VLLMGeneration",
    "is_vllm_available",
    "through_wrapper",
]


def through_wrapper(wrapped, core, function):
    """Call `function()` inside the forward of `wrapped`, so that DDP and FSDP hooks around `core` still fire.

    Computing on `core` directly (its backbone, then a fused head) would skip gradient synchronisation, or find sharded
    weights: FSDP2 shards a module in place, so that it is its own wrapper. A head that is a group of its own, as under
    adapters, where accelerate does not see the final norm, has no forward that would gather it.
    """
    if wrapped is core and not isinstance(core, FSDPModule):
        return function()

    def inside():
        get = getattr(core, "get_output_embeddings", None)
        head = get() if callable(get) else None
        if isinstance(head, FSDPModule) and not head.weight.requires_grad:  # type: ignore[attr-defined]
            head.unshard()
        return function()

    return _ForwardRedirection()(wrapped, core, inside)
