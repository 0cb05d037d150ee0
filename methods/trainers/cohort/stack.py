"""Several small Llama models of one shape as one: every parameter has a leading seed dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from methods.errors import MethodError
from methods.modeling.core import core_model, snapshot

# Of a configuration: what the pass below takes for granted, and the value for which it holds.
_TAKEN_FOR_GRANTED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
}


def cannot_join(member: Any) -> str | None:
    """Why a trainer cannot be one of several side by side, in a few words; None where it can, for its settings."""
    if member.args.gradient_accumulation_steps != 1:
        return "a window is more than one batch"
    if member.args.bf16 or member.args.fp16:
        return "its precision is not that of its weights"
    if member.args.device.type != "cpu":
        return "nobody has held a cohort on a GPU to trainings alone"
    if member.accelerator.num_processes != 1:
        return "several processes train"
    return None


def cannot_stack(models: Sequence[Any]) -> str | None:
    """Why these models cannot be computed as one, in a few words; None where they can."""
    if not models:
        return "no model is given"
    for model in models:
        if type(model) is not LlamaForCausalLM:
            return f"{type(core_model(model)).__name__} is no plain LlamaForCausalLM"
        config: Any = model.config
        for name, value in _TAKEN_FOR_GRANTED.items():
            if getattr(config, name, value) != value:
                return f"{name} is {getattr(config, name)}, not {value}"
        if config.num_key_value_heads != config.num_attention_heads:
            return "several heads share a key and a value"
        if config.rope_parameters["rope_type"] != "default":
            return f"rotary embeddings are of type {config.rope_parameters['rope_type']}"
        if getattr(config, "pretraining_tp", 1) != 1:
            return "pretraining_tp is not 1"
    shapes = [{n: (p.shape, p.dtype, p.device) for n, p in model.named_parameters()} for model in models]
    if any(shape != shapes[0] for shape in shapes):
        return "the models differ in shape, precision or device"
    if any(model.config.rms_norm_eps != models[0].config.rms_norm_eps for model in models):
        return "the models differ in rms_norm_eps"
    if any(model.config.rope_parameters != models[0].config.rope_parameters for model in models):
        return "the models differ in their rotary embeddings"
    return None


class StackedModel(PreTrainedModel):
    """S Llama models as one; parameter `tree.<name>` is (S, ...), model s's `<name>` at place s.

    Raises MethodError for models that cannot be stacked (`cannot_stack`).
    """

    config_class = LlamaConfig
    base_model_prefix = "tree"
    _supports_sdpa = True

    def __init__(self, models: Sequence[LlamaForCausalLM]):
        why = cannot_stack(models)
        if why is not None:
            raise MethodError(f"these models cannot be stacked: {why}")
        super().__init__(models[0].config)
        self.generation_config = models[0].generation_config
        self.size = len(models)
        self.tree = snapshot(models[0])
        named = [dict(model.named_parameters()) for model in models]
        for name, parameter in self.tree.named_parameters():
            parameter.data = torch.stack([own[name].detach() for own in named])
            parameter.grad = None
        config: Any = self.config
        self.heads, self.width = config.num_attention_heads, config.hidden_size
        self.head_width = getattr(config, "head_dim", None) or self.width // self.heads
        self._angles: tuple[Tensor, Tensor] | None = None

    # Models that read their weights out of the stack.

    def seat(self, models: Sequence[LlamaForCausalLM]) -> None:
        """From now on the models' parameters are views into the stack, and so are their gradients."""
        for name, parameter in self.tree.named_parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
            for place, model in enumerate(models):
                own = model.get_parameter(name)
                own.grad = None
                own.data = parameter.data[place]
                if parameter.grad is not None:
                    own.grad = parameter.grad[place]

    def zero_grad(self, set_to_none: bool = True) -> None:
        """The stack's own gradients become zero in place: members' gradients are views of them."""
        own = {id(parameter) for parameter in self.tree.parameters()}
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad = parameter.grad.zero_() if id(parameter) in own else None

    # The pass.

    def weight(self, name: str) -> Tensor:
        """Parameter `name` of all models, (S, ...)."""
        return self.tree.get_parameter(name)

    @property
    def head(self) -> Tensor:
        """The weight of the LM heads, (S, V, H)."""
        return self.tree.get_output_embeddings().weight

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (S, N) -> (S, N, H)."""
        table = self.weight("model.embed_tokens.weight")
        size = table.shape[1]
        places = torch.arange(self.size, device=ids.device).unsqueeze(1) * size
        rows = functional.embedding((ids + places).reshape(-1), table.reshape(-1, self.width))
        rows = rows.view(*ids.shape, self.width)
        padding = self.config.pad_token_id
        if padding is None or not rows.requires_grad:
            return rows
        # As in torch's own embedding, what goes in as padding moves nothing: a student may have sampled it.
        return torch.where((ids == padding).unsqueeze(-1), rows.detach(), rows)

    def norm(self, states: Tensor, name: str) -> Tensor:
        """RMSNorm of (S, N, H), in fp32 as Llama has it."""
        config: Any = self.config
        plain = functional.rms_norm(states.float(), (self.width,), None, config.rms_norm_eps)
        return self.weight(name).unsqueeze(1) * plain.to(states.dtype)

    def layer_weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries, keys and values in one; the output; gate and up in one; down: each (S, in, out)."""
        prefix = f"model.layers.{layer}."
        joined = [
            [f"self_attn.{part}_proj.weight" for part in "qkv"],
            ["self_attn.o_proj.weight"],
            ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
            ["mlp.down_proj.weight"],
        ]
        found = [[self.weight(prefix + name) for name in names] for names in joined]
        return tuple((torch.cat(ws, 1) if len(ws) > 1 else ws[0]).transpose(1, 2) for ws in found)  # type: ignore[return-value]

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine of the rotary embedding at positions 0..length - 1: (length, 1, D) each."""
        if self._angles is None or len(self._angles[0]) < length:
            rotary: Any = self.tree.model.rotary_emb
            positions = torch.arange(max(length, 64), device=self.device)
            cos, sin = rotary(self.weight("model.norm.weight"), positions.unsqueeze(0))
            self._angles = cos[0].unsqueeze(1), sin[0].unsqueeze(1)
        return self._angles[0][:length], self._angles[1][:length]

    def forward(
        self,
        input_ids: Tensor,
        tokens: Tensor | None = None,
        blocks: Sequence[int] = (),
        weights: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]] | None = None,
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Last hidden states (S, N, H) of right-padded ids (S, B, L) at some tokens, and the outputs of some blocks.

        `tokens` (S, N) are places among the B * L of each model, all where None: behind the last attention only those
        are computed. `weights`: what `all_weights` gives, for whoever makes several passes.
        """
        stacks, batch, length = input_ids.shape
        angles = self.angles(length)
        states = self.embed(input_ids.reshape(stacks, -1))
        found = {}
        for layer, own in enumerate(self.all_weights() if weights is None else weights):
            queries, keys, values = self.heads_of(states, layer, own[0], angles, batch)
            mixed = functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            flat = mixed.transpose(1, 2).reshape(*states.shape[:2], -1)
            last = layer == self.config.num_hidden_layers - 1
            if last and tokens is not None:
                states, flat = at_tokens(states, tokens), at_tokens(flat, tokens)
            states = self.after_attention(states, flat, layer, own)
            if layer in blocks:
                found[layer] = states if last or tokens is None else at_tokens(states, tokens)
        return self.norm(states, "model.norm.weight"), found

    def all_weights(self) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """`layer_weights` of every layer."""
        return [self.layer_weights(layer) for layer in range(self.config.num_hidden_layers)]

    def heads_of(
        self, states: Tensor, layer: int, weight: Tensor, angles: tuple[Tensor, Tensor], batch: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, (S * B, heads, T, D) each, of states (S, B * T, H)."""
        normed = self.norm(states, f"model.layers.{layer}.input_layernorm.weight")
        joined = torch.bmm(normed, weight).view(self.size * batch, -1, 3 * self.heads, self.head_width)
        both, half = joined[:, :, : 2 * self.heads], self.head_width // 2
        turned = torch.cat([-both[..., half:], both[..., :half]], -1)
        both = (both * angles[0] + turned * angles[1]).transpose(1, 2)
        values = joined[:, :, 2 * self.heads :].transpose(1, 2)
        return both[:, : self.heads], both[:, self.heads :], values

    def after_attention(
        self, states: Tensor, mixed: Tensor, layer: int, weights: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> Tensor:
        """The rest of a block: states (S, N, H) with what attention (S, N, H) and the perceptron add."""
        states = torch.baddbmm(states, mixed, weights[1])
        normed = self.norm(states, f"model.layers.{layer}.post_attention_layernorm.weight")
        gate, up = torch.bmm(normed, weights[2]).chunk(2, -1)
        return torch.baddbmm(states, functional.silu(gate) * up, weights[3])

    def get_input_embeddings(self) -> Any:
        return None

    def get_output_embeddings(self) -> Any:
        return None


def at_tokens(states: Tensor, tokens: Tensor) -> Tensor:
    """(S, M, H) at places (S, N) -> (S, N, H)."""
    stacks, length, width = states.shape
    places = tokens + torch.arange(stacks, device=tokens.device).unsqueeze(1) * length
    return states.reshape(-1, width).index_select(0, places.view(-1)).view(stacks, -1, width)


def stack(models: Sequence[LlamaForCausalLM]) -> StackedModel:
    """The models as one; they themselves stay as they are."""
    return StackedModel(models)


def unstack(stacked: StackedModel) -> list[LlamaForCausalLM]:
    """The models that a stack is made of, with weights of their own."""
    models: list[Any] = []
    for place in range(stacked.size):
        model = snapshot(stacked.tree)
        for parameter in model.parameters():
            parameter.data = parameter.data[place].clone()
            parameter.grad = None
        models.append(model)
    return models
