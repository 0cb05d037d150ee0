"""What is found out about a model before it is trained or asked, while that can still be said in one sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from methods.errors import MethodError
from methods.losses.fused.linear import head_of
from methods.modeling.core import core_model, hidden_states

PROBES = 5  # tokens that a head is tried on


def check_ids(highest: int, models: Iterable[Any], tokenizer: Any) -> None:
    """Raises MethodError where a model has no embedding for the highest id of the data; names the token."""
    for model in models:
        size = model.get_input_embeddings().weight.shape[0]
        if highest >= size:
            token = tokenizer.convert_ids_to_tokens([highest])[0]
            raise MethodError(
                f"the data hold the token {token!r} (id {highest}), and {_name(model)} knows the ids 0 to {size - 1} "
                "only: take a model with the same tokens, or the token out of the data"
            )


def learned_positions(model: Any) -> int | None:
    """How many tokens a model with a learned embedding for each position reads; None where positions are computed.

    Works on a model without weights too (device "meta").
    """
    core = core_model(model)
    for name, module in core.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) and ("pos" in last or last == "wpe"):
            if module.padding_idx is not None:  # RoBERTa's positions begin behind that of the padding
                return module.num_embeddings - module.padding_idx - 1
            # OPT's table begins with two rows that stand for no position.
            return int(getattr(core.config, "max_position_embeddings", module.num_embeddings))
    return None


@torch.no_grad()
def check_head(model: Any) -> None:
    """Raises MethodError unless the model's LM head on its hidden states gives the model's own logits.

    The fused losses never ask a model for logits: they read its last hidden states and its head, with the scale and the
    soft cap that its config names. An architecture that does something else there would be trained towards another
    distribution than its own, silently. The same for a model that reads what comes after a token: an encoder with a
    head would learn to copy the answer that it is shown.
    """
    core: Any = core_model(model)
    head, training = head_of(core), core.training
    size = min(len(head.weight), core.get_input_embeddings().weight.shape[0])
    ids = torch.linspace(0, size - 1, PROBES, device=core.device).long().unsqueeze(0)
    mask = torch.ones_like(ids)
    other = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)  # another last token
    core.eval()
    try:
        own, after = (
            core(input_ids=each, attention_mask=mask, use_cache=False).logits[0].float()
            for each in (ids, other)
        )
        made = head.logits(hidden_states(core, ids, mask)[0])
    finally:
        core.train(training)
    told = own.isfinite() & after.isfinite()
    told[-1] = False
    if bool(told.any()) and float((own - after)[told].abs().max()) > 5e-2 * (
        1 + float(own[told].abs().max())
    ):
        raise MethodError(
            f"{_name(core)}: what it says after a token depends on the tokens that follow, as in an encoder; it takes "
            "a language model that writes from left to right"
        )
    if own.shape == made.shape:
        known = own.isfinite() & made.isfinite()
        gap = float((own - made)[known].abs().max()) if bool(known.any()) else 0.0
        fine = 1e-3 if own.dtype == made.dtype == head.weight.dtype else 5e-2  # bf16 rounds
        if gap <= fine * (1 + float(own[known].abs().max())):
            return
        what = f"differ by up to {gap:.3g}"
    else:
        what = f"have {made.shape[-1]} ids, its own {own.shape[-1]}"
    raise MethodError(
        f"{_name(core)}: the logits of its last hidden states and its head {what} from those the model gives; "
        "something lies between that is not known here (a scale, a soft cap), so its losses would be of another model"
    )


def _name(model: Any) -> str:
    where = getattr(model.config, "_name_or_path", "")
    return f"{where} ({type(model).__name__})" if where else type(model).__name__
