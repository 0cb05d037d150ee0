"""Work on a model whose weights FSDP2 shards that differs between the ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Every rank holds all weights of a model that FSDP2 shards, until the end; other models are left alone.

    For sampling: ranks make different numbers of passes, and a pass through a sharded layer is a collective, which
    would hang or mix up layers. It also gathers once for all tokens, not once for each.
    """
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    groups = {id(g): g for module in sharded for g in module._get_fsdp_state()._fsdp_param_groups}.values()
    # What a group does after a pass; accelerate keeps the LM head's gathered, so not one setting for all.
    settings = [(group, group.post_forward_mesh_info) for group in groups]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
        for group, setting in settings:
            group.post_forward_mesh_info = setting
