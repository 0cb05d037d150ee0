"""Next-token logits, token by token: of a small Llama written out, of any other model by its own forward pass.

Rollouts, labelling and evaluation all decode with `decoder_for`. What a written-out step leaves out is the price of
generality, which is most of the time of a model of a million parameters: masks built anew for every token, a cache that
grows by copying, a call for each of its parts. The numbers are the model's own up to rounding.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation
from transformers.models.llama import modeling_llama as llama

from methods.modeling.caching import key_value_cache
from methods.modeling.core import core_model

# Fused copies of all projections are made for every batch, and what they save is a matter of small models.
LARGEST = 50_000_000
ROPES = ("default", "linear", "llama3")  # whose angles depend on the position alone
PARTS = frozenset(
    {
        nn.Embedding, nn.Linear, nn.ModuleList, SiLUActivation, llama.LlamaAttention, llama.LlamaDecoderLayer,
        llama.LlamaMLP, llama.LlamaModel, llama.LlamaRMSNorm, llama.LlamaRotaryEmbedding,
    }
)  # fmt: skip
NORMS = ("input_layernorm", "post_attention_layernorm")


class Decoder(Protocol):
    """A model with B left-padded rows that it has read so far."""

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Reads tokens (B, T) at their positions; logits (B, V) of the next one, in the model's precision."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Forgets all rows but these (B',)."""
        ...

    def repeat(self, times: int) -> None:
        """Each row so many times, one behind the other."""
        ...


def decoder_for(model: PreTrainedModel, mask: Tensor) -> Decoder:
    """A decoder for rows whose tokens, those to come among them, are attended where `mask` (B, L) is 1.

    The mask is 0 on the padding at the left and nowhere else. The model is in evaluation mode and its weights stay as
    they are while it decodes. Raises MethodError for a model that reads no key-value cache.
    """
    return WrittenOut(model, mask) if is_written_out(model) else ByForward(model, mask)


def is_written_out(model: Any) -> bool:
    """Whether `WrittenOut` computes what this model does: a small plain Llama in full precision that nobody watches."""
    if type(model) is not llama.LlamaForCausalLM or torch.is_autocast_enabled(model.device.type):
        return False
    # Accelerate's mixed precision is a patch of the forward pass, hooks may look at it or change it.
    if hasattr(model, "_original_forward") or model._forward_hooks or model._forward_pre_hooks:
        return False
    config, weights = model.config, list(model.parameters())
    modules = [*model.model.modules(), model.lm_head]
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return (
        PARTS.issuperset(map(type, modules))
        and not any(module._forward_hooks or module._forward_pre_hooks for module in modules)
        and not any(getattr(module, "bias", None) is not None for module in modules)
        and config.hidden_act == "silu"
        and config.num_key_value_heads == config.num_attention_heads
        and rope.get("rope_type", "default") in ROPES
        and len({(type(w.data), w.dtype, w.device) for w in weights}) == 1
        and weights[0].dtype in (torch.float32, torch.float64)
        and type(weights[0].data) is Tensor
        and sum(w.numel() for w in weights) <= LARGEST
    )


class ByForward:
    """Any model with a key-value cache, by its own forward pass."""

    def __init__(self, model: PreTrainedModel, mask: Tensor) -> None:
        self.model, self.mask, self.cache, self.read = model, mask, key_value_cache(model), 0

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self.read += ids.shape[1]
        logits: Tensor = self.model(
            input_ids=ids,
            attention_mask=self.mask[:, : self.read],
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]

    def repeat(self, times: int) -> None:
        self.cache.batch_repeat_interleave(times)
        self.mask = self.mask.repeat_interleave(times, 0)


class WrittenOut:
    """A Llama as a loop over its weights: projections fused, a cache made once, no mask where no row is padded."""

    def __init__(self, model: PreTrainedModel, mask: Tensor) -> None:
        core: Any = core_model(model)
        config, first = core.config, core.lm_head.weight
        self.heads, self.eps = config.num_attention_heads, config.rms_norm_eps
        self.size = core.model.layers[0].self_attn.head_dim
        with torch.no_grad():
            self.layers = [_fused(layer) for layer in core.model.layers]
            places = torch.arange(mask.shape[1], device=first.device).unsqueeze(0)
            cos, sin = core.model.rotary_emb(first, places)
        # cos x + sin rotated(x), where rotated(x) = (-x2, x1): the sign goes into the table
        half = self.size // 2
        self.cos, self.sin = cos[0], torch.cat([-sin[0][:, :half], sin[0][:, half:]], -1)
        self.embed, self.head, self.norm = core.model.embed_tokens.weight, first.t(), core.model.norm.weight
        rows, length = mask.shape
        shape = (len(self.layers), 2, rows, self.heads, length, self.size)
        self.cache, self.read = first.new_empty(shape), 0
        lowest = torch.finfo(first.dtype).min
        self.bias = None  # (B, 1, 1, L), added to the scores
        if not bool(mask.all()):
            self.bias = torch.zeros(mask.shape, dtype=first.dtype, device=first.device)
            self.bias = self.bias.masked_fill_(mask == 0, lowest)[:, None, None]

    def keep(self, rows: Tensor) -> None:
        self.cache = self.cache.index_select(2, rows)
        self.bias = None if self.bias is None else self.bias[rows]

    def repeat(self, times: int) -> None:
        self.cache = self.cache.repeat_interleave(times, 2)
        self.bias = None if self.bias is None else self.bias.repeat_interleave(times, 0)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        rows, new = ids.shape
        begin, end = self.read, self.read + new
        self.read = end
        x = F.embedding(ids, self.embed)
        cos, sin = self.cos[positions][:, :, None, None], self.sin[positions][:, :, None, None]
        bias = self._bias(begin, end)
        for place, (norm, qkv, out, next_norm, gate_up, down) in enumerate(self.layers):
            mixed = (self._normed(x, norm) @ qkv).view(rows, new, 3, self.heads, self.size)
            pair, half = mixed[:, :, :2], self.size // 2
            turned = torch.cat([pair[..., half:], pair[..., :half]], -1)
            pair = pair * cos + turned * sin
            keys, values = self.cache[place]
            keys[:, :, begin:end] = pair[:, :, 1].transpose(1, 2)
            values[:, :, begin:end] = mixed[:, :, 2].transpose(1, 2)
            seen = F.scaled_dot_product_attention(
                pair[:, :, 0].transpose(1, 2),
                keys[:, :, :end],
                values[:, :, :end],
                attn_mask=bias,
                is_causal=bias is None and new > 1,
            )
            x = x + seen.transpose(1, 2).reshape(rows, new, -1) @ out
            gate, up = (self._normed(x, next_norm) @ gate_up).chunk(2, -1)
            x = x + (F.silu(gate) * up) @ down
        return self._normed(x[:, -1], self.norm) @ self.head

    def _bias(self, begin: int, end: int) -> Tensor | None:
        """What is added to the scores of tokens begin to end: (B, 1, T, end), or None."""
        if self.bias is None:
            return None
        bias, new = self.bias[..., :end], end - begin
        if new == 1:
            return bias
        lowest = torch.finfo(bias.dtype).min
        later = torch.full((new, end), lowest, dtype=bias.dtype, device=bias.device).triu_(begin + 1)
        return torch.minimum(bias, later)

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return F.rms_norm(x, weight.shape, weight, self.eps)
        # transformers normalises in single precision, whatever the model's
        return weight * F.rms_norm(x.float(), weight.shape, None, self.eps).to(x.dtype)


def _fused(layer: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """A layer's weights in the order in which they are used, ready to be multiplied from the right."""
    attention, mlp = layer.self_attn, layer.mlp
    qkv = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
    gate_up = torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])
    before, between = (getattr(layer, name).weight for name in NORMS)
    return (
        before,
        qkv.t(),
        attention.o_proj.weight.t(),
        between,
        gate_up.t(),
        mlp.down_proj.weight.t(),
    )
