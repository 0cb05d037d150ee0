"""A model whose weights are sharded over processes: work that differs between them, and the whole of it at the end."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from methods.errors import MethodError

GATHER = "stage3_gather_16bit_weights_on_model_save"


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


def check_gathers(trainer: Any, say: Callable[[str], None]) -> None:
    """Raises MethodError, before a training, where DeepSpeed is set not to gather what it shards; says notes."""
    if trainer.is_fsdp_enabled and not trainer.accelerator.is_fsdp2:
        say("note: a student sharded by FSDP 1 has never been tried; `fsdp_version: 2` of accelerate has")
    if not trainer.is_deepspeed_enabled:
        return
    zero: Mapping[str, Any] = trainer.accelerator.deepspeed_config.get("zero_optimization", {})
    if zero.get("stage") == 3 and zero.get(GATHER) is not True:
        raise MethodError(
            f"DeepSpeed shards the student's weights (stage 3) and could not write them as one: set {GATHER} to true "
            "in its config, or zero3_save_16bit_model in that of accelerate"
        )


def whole_student(trainer: Any, again: Callable[[], Any]) -> Any | None:
    """The trained student with all of its weights on the first process, None on the others; every process calls this.

    A sharded one is put into `again()`, the student as it was before (with its adapters), on the CPU: what saves,
    merges and measures it then sees a plain model. DeepSpeed gathers stage 3 in 16 bits.
    """
    sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
    if not sharded:
        model = trainer.accelerator.unwrap_model(trainer.model)
        return model if trainer.is_world_process_zero() else None
    wrapped = trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model
    weights = trainer.accelerator.get_state_dict(wrapped)
    if not trainer.is_world_process_zero():
        return None
    student = again()
    own = student.state_dict()
    missing = student.load_state_dict({name: weights[name] for name in own if name in weights}, strict=False)
    tied = {
        own[name].data_ptr() for name in own if name in weights
    }  # of two names of one weight one is enough
    lost = [name for name in missing.missing_keys if own[name].data_ptr() not in tied]
    if lost:
        raise MethodError(f"the gathered student lacks {', '.join(lost[:3])}; its checkpoints are kept")
    return student
