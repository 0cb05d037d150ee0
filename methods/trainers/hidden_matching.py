"""Distillation of hidden states: filters that learn the task on frozen models, and a student that matches layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.fused.linear import Head, linear_cross_entropy
from methods.modeling.core import core_model
from methods.slots.features import HIDDEN_DISTANCES, LayerFilters, Pairs, recorded_blocks, uniform_layers
from methods.trainers.distillation import DistillationTrainer, SFTConfig, Term
from methods.trainers.sft import SFTTrainer

__all__ = ["FilterTrainer", "HiddenMatchingTrainer", "LayerFilters", "SFTConfig", "Term", "uniform_layers"]


class FilterTrainer(SFTTrainer):
    """Task-aware filters: each learns to predict the completion from one block's output; the model stays frozen.

    loss = mean over filters of NLL(labels) under that filter's own linear head, mean over completion tokens. The heads
    are thrown away; `filters` is what is left.
    Source: TED, arXiv 2210.01351, stage I; a head for each filter and the mean over filters as in its
    official code.
    """

    def __init__(self, *args: Any, filters: LayerFilters, **kwargs: Any):
        super().__init__(*args, **kwargs)
        core = core_model(self.accelerator.unwrap_model(self.model))
        core.requires_grad_(False)
        self.filters = filters.to(core.device)
        vocabulary = len(core.get_output_embeddings().weight)
        size = filters.weight.shape[1]
        seed = int(self.args.seed)
        self.heads = LayerFilters(filters.blocks, size, vocabulary, seed=seed).to(core.device)
        self._states: dict[int, Tensor] = {}

    def trained_along(self) -> dict[str, nn.Module]:
        return {"layer_filters": self.filters, "filter_heads": self.heads}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        core = core_model(self.accelerator.unwrap_model(model))
        with recorded_blocks(core, self.filters.blocks) as self._states:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def row_loss(self, core: nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor) -> Tensor:
        total = hidden.new_zeros(())
        for place, block in enumerate(self.filters.blocks):
            filtered = self.filters(block, self._states[block][:, :-1][rows])
            head = Head(self.heads.weight[place], self.heads.bias[place])
            total = total + linear_cross_entropy(filtered, head, labels).total
        return total / len(self.filters.blocks)


class HiddenMatchingTrainer(DistillationTrainer):
    """White-box distillation that also pulls block outputs of the student towards the teacher's.

    loss = terms + hidden_weight * mean over (s, t) of `layers` of D(F_s(h_s), G_t(h_t)), mean over completion tokens.
    F are `student_filters`, which train along; G are `teacher_filters`, frozen; without them F maps to the teacher's
    width. D is a name of `HIDDEN_DISTANCES`; "squared_error" is a mean over dimensions, so its weight is
    large. Or a module for each of `layers` that makes of F_s(h_s) (N, D), G_t(h_t) (N, D) and the numbers of their
    sequences (N,) a value (N,), such as `methods.losses.mutual_information.MutualInformation`; they train along.
    The student leaves the training without its filters and modules.
    Source: TED, arXiv 2210.01351, stage II (`hidden_weight` is mse_alpha of its scripts); without teacher
    filters it is the layer-wise distillation (LWD) that TED compares with.
    """

    def __init__(
        self,
        *args: Any,
        layers: Pairs,
        student_filters: LayerFilters,
        teacher_filters: LayerFilters | None = None,
        hidden_weight: float = 1.0,
        distance: str | Sequence[nn.Module] = "squared_error",
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.layers, self.hidden_weight, self._distance = tuple(layers), hidden_weight, None
        self.distances = nn.ModuleList(() if isinstance(distance, str) else distance)
        if isinstance(distance, str):
            if distance not in HIDDEN_DISTANCES:
                raise MethodError(f"unknown distance {distance!r}; one of {', '.join(HIDDEN_DISTANCES)}")
            self._distance = HIDDEN_DISTANCES[distance]
        elif len(self.distances) != len(self.layers):
            raise MethodError(f"{len(self.distances)} modules for {len(self.layers)} pairs of layers")
        device = self.accelerator.device
        self.student_filters, self.distances = student_filters.to(device), self.distances.to(device)
        self.teacher_filters = (
            None if teacher_filters is None else teacher_filters.to(device).requires_grad_(False)
        )
        teacher: Any = core_model(self.accelerator.unwrap_model(self.teachers[0]))
        aim = teacher.config.hidden_size if teacher_filters is None else teacher_filters.weight.shape[1]
        if student_filters.weight.shape[1] != aim:
            raise MethodError(
                f"student filters give {student_filters.weight.shape[1]} dimensions, the aim has {aim}"
            )
        _check_blocks("student", [s for s, _ in layers], student_filters)
        _check_blocks("teacher", [t for _, t in layers], teacher_filters)
        self._student_states: dict[int, Tensor] = {}
        self._teacher_states: dict[int, Tensor] = {}

    def trained_along(self) -> dict[str, nn.Module]:
        own = {"layer_filters": self.student_filters, "layer_distances": self.distances}
        return super().trained_along() | own

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        student, teacher = (self.accelerator.unwrap_model(m) for m in (model, self.teachers[0]))
        with (
            recorded_blocks(student, [s for s, _ in self.layers]) as self._student_states,
            recorded_blocks(teacher, [t for _, t in self.layers]) as self._teacher_states,
        ):
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def row_loss(self, core: nn.Module, hidden: Tensor, labels: Tensor, inputs: dict, rows: Tensor) -> Tensor:
        loss = super().row_loss(core, hidden, labels, inputs, rows)
        total = hidden.new_zeros(())
        sequence = rows.nonzero()[:, 0]
        for place, (s, t) in enumerate(self.layers):
            ours = self.student_filters(s, self._student_states[s][:, :-1][rows])
            with torch.no_grad():
                theirs = self._teacher_states[t][:, :-1][rows]
                if self.teacher_filters is not None:
                    theirs = self.teacher_filters(t, theirs)
            sides = ours, theirs.to(ours.dtype)
            found = self._distance(*sides) if self._distance else self.distances[place](*sides, sequence)
            total = total + found.sum()
        return loss + self.hidden_weight * total / len(self.layers)


def _check_blocks(who: str, wanted: Sequence[int], filters: LayerFilters | None) -> None:
    if filters is not None and set(wanted) - set(filters.blocks):
        raise MethodError(
            f"the {who} has filters for blocks {list(filters.blocks)}, not for all of {list(wanted)}"
        )
