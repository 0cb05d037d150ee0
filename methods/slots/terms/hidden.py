"""Terms between the layers: a student's block outputs pulled towards a teacher's, and filters that learn the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.losses.fused.linear import Head, linear_cross_entropy
from methods.losses.mutual_information import MutualInformation
from methods.registry import component
from methods.slots.features import HIDDEN_DISTANCES, NAMED_LAYERS, LayerFilters, Pairs, layer_pairs
from methods.slots.rows import Rows, count_chunks
from methods.slots.term import FIRST, NOTHING, Term, Weight

MUTUAL_INFORMATION = "mutual_information"
IDENTITY = "identity"
FILTERS = ("task", IDENTITY)
Filters = tuple[LayerFilters | None, LayerFilters | None]


@component("term", "hidden-match")
class HiddenMatch(Term, nn.Module):
    """Mean over (s, t) of `layers` of D(F_s(h_s), G_t(h_t)), h the outputs of the models' blocks s and t.

    Mean over completion tokens; of a teacher with other tokens over the chunks that both cut alike, by the states that
    predict a chunk's first token, which have read the same text. `layers`: "uniform", "uniform-but-last" (without the
    pair of last blocks, as PKD-Skip), "top", "bottom", "last" (see `layer_pairs`), or pairs of blocks from 0.
    `filters`: None, where F maps to the teacher's width and learns with the student, from `seed` or the trainer's seed
    (LWD); "identity", where models have one width and nothing is mapped (PKD); "task", where filters of both sides,
    `size` wide (None: the teacher's width), first learn to predict the answer on the frozen models, at
    `filter_learning_rate` (None: the trainer's), the teacher's from seed 0 whatever the trainer's (TED); or a pair of
    `LayerFilters`, F and G, which may be None. F learns on, G is frozen.
    `distance`: "squared-error" (a mean over dimensions, so its weight is large), "normalised-squared-error" (of states
    brought to length 1), "cosine", "mutual-information" with a critic for each pair, which learns along, or such
    modules: F (N, D), G (N, D) and the numbers of their sequences (N,) to a value (N,).
    Source: TED, arXiv 2210.01351, stage II (the weight is mse_alpha of its scripts), and the layer-wise distillation
    (LWD) that it compares with; mutual-information as in MI-alpha of Distiller, arXiv 2109.11105; PKD, arXiv
    1908.09355, section 3.2, with the mean over dimensions of its official code.
    """

    reads = FIRST

    def __init__(
        self,
        layers: str | Pairs = "uniform",
        *,
        weight: Weight = 1.0,
        distance: str | Sequence[nn.Module] = "squared-error",
        filters: str | Filters | None = None,
        size: int | None = None,
        filter_learning_rate: float | None = None,
        seed: int | None = None,
    ):
        super().__init__()
        self.seed = seed
        self.weight, self._layers, self._filters = weight, layers, filters
        self._size, self._filter_learning_rate = size, filter_learning_rate
        self._distance = distance.replace("-", "_") if isinstance(distance, str) else None
        known = (*HIDDEN_DISTANCES, MUTUAL_INFORMATION)
        if self._distance is not None and self._distance not in known:
            raise MethodError(f"unknown distance {distance!r}; one of {', '.join(known)}")
        if isinstance(layers, str) and layers not in NAMED_LAYERS:
            raise MethodError(f"layers are {', '.join(NAMED_LAYERS)} or pairs of blocks, not {layers!r}")
        if isinstance(filters, str) and filters not in FILTERS:
            raise MethodError(
                f"filters are {' or '.join(FILTERS)}, a pair of LayerFilters or nothing, not {filters!r}"
            )
        self.distances = nn.ModuleList(() if isinstance(distance, str) else distance)
        self.student_filters: LayerFilters | None = filters[0] if isinstance(filters, tuple) else None
        self.teacher_filters: list[LayerFilters] = []  # in a list: no part of what learns
        self._by_chunks = False

    def prepare(self, trainer: Any) -> None:
        student, teacher = (
            trainer.models.student(),
            trainer.models.first_teacher(),
        )
        seed = int(trainer.args.seed if self.seed is None else self.seed)
        self._by_chunks = trainer.models.who.first_is_paired
        width = teacher.config.hidden_size
        counts = (model.config.num_hidden_layers for model in (student, teacher))
        self.layers = layer_pairs(self._layers, *counts)
        self.student_blocks, self.teacher_blocks = (tuple(side) for side in zip(*self.layers, strict=True))
        ours, theirs = self._both_filters(trainer, student, teacher, seed)
        aim = width if theirs is None else theirs.weight.shape[1]
        given = student.config.hidden_size if ours is None else ours.weight.shape[1]
        if given != aim:
            what = "the student's states have" if ours is None else "student filters give"
            raise MethodError(f"{what} {given} dimensions, the aim has {aim}")
        _check_blocks("student", self.student_blocks, ours)
        _check_blocks("teacher", self.teacher_blocks, theirs)
        self.student_filters = ours
        if theirs is not None:
            self.teacher_filters = [theirs.to(trainer.accelerator.device).requires_grad_(False)]
        if self._distance == MUTUAL_INFORMATION and not self.distances:
            self.distances.extend(MutualInformation(aim, seed=seed + n) for n in range(len(self.layers)))
        if self._distance in (None, MUTUAL_INFORMATION) and len(self.distances) != len(self.layers):
            raise MethodError(f"{len(self.distances)} modules for {len(self.layers)} pairs of layers")

    def _both_filters(self, trainer: Any, student: Any, teacher: Any, seed: int) -> Filters:
        if isinstance(self._filters, tuple):
            return self._filters
        if self._filters == IDENTITY:
            return None, None
        if self._filters is None:
            width, aim = student.config.hidden_size, teacher.config.hidden_size
            return LayerFilters(list(dict.fromkeys(self.student_blocks)), width, aim, seed=seed), None
        size, rate = self._size or teacher.config.hidden_size, self._filter_learning_rate
        blocks, seeds = (self.student_blocks, self.teacher_blocks), (seed, 0)
        learnt = [
            trainer.task_filters(model, list(dict.fromkeys(some)), size, learning_rate=rate, seed=own)
            for model, some, own in zip((student, teacher), blocks, seeds, strict=True)
        ]
        return learnt[0], learnt[1]

    def count(self, batch: Mapping[str, Any]) -> Tensor | None:
        return count_chunks(batch) if self._by_chunks else None

    def total(self, rows: Rows) -> Tensor:
        total = rows.hidden.new_zeros(())
        sequence, ours_at, theirs_at = self._places(rows)
        for place, (s, t) in enumerate(self.layers):
            ours = rows.blocks[s][ours_at]
            if self.student_filters is not None:
                ours = self.student_filters(s, ours)
            with torch.no_grad():
                theirs = rows.teacher_blocks[t][theirs_at]
                for filters in self.teacher_filters:
                    theirs = filters(t, theirs)
            sides = ours, theirs.to(ours.dtype)
            total = total + self._between(place, *sides, sequence).sum()
        return total / len(self.layers)

    def _between(self, place: int, ours: Tensor, theirs: Tensor, sequence: Tensor) -> Tensor:
        if self._distance in HIDDEN_DISTANCES:
            plain: Callable[..., Tensor] = HIDDEN_DISTANCES[self._distance]  # type: ignore[index]
            return plain(ours, theirs)
        return self.distances[place](ours, theirs, sequence)

    def _places(self, rows: Rows) -> tuple[Tensor, Any, Any]:
        """Numbers of the sequences, and which rows of either side are compared."""
        if not self._by_chunks:
            return rows.sequence, slice(None), slice(None)
        student, teacher = rows.sides()
        count = student.chunk_count()
        places = [side.rows_of_chunks(count, "first") for side in (student, teacher)]
        return student.sequence[places[0]], places[0], places[1]


@component("term", "task-filters")
class TaskFilters(Term, nn.Module):
    """Filters that each learn to predict the completion from one block's output; the model stays frozen.

    Mean over filters of NLL(labels) under that filter's own linear head, mean over completion tokens. The heads are
    thrown away; `filters` is what is left: given, or one `size` wide (None: as wide as the model) for every block.
    Source: TED, arXiv 2210.01351, stage I; a head for each filter and the mean over filters as in its official code.
    """

    reads = NOTHING

    def __init__(self, filters: LayerFilters | None = None, *, size: int | None = None, weight: Weight = 1.0):
        super().__init__()
        self.filters, self._size, self.weight = filters, size, weight

    def prepare(self, trainer: Any) -> None:
        core: Any = trainer.models.student()
        core.requires_grad_(False)
        seed, width = int(trainer.args.seed), core.config.hidden_size
        if self.filters is None:
            blocks = range(core.config.num_hidden_layers)
            self.filters = LayerFilters(tuple(blocks), width, self._size or width, seed=seed)
        self.student_blocks = self.filters.blocks
        vocabulary, size = len(core.get_output_embeddings().weight), self.filters.weight.shape[1]
        self.heads = LayerFilters(self.filters.blocks, size, vocabulary, seed=seed)

    def total(self, rows: Rows) -> Tensor:
        assert self.filters is not None, "no trainer has prepared this term"
        total = rows.hidden.new_zeros(())
        for place, block in enumerate(self.filters.blocks):
            filtered = self.filters(block, rows.blocks[block])
            head = Head(self.heads.weight[place], self.heads.bias[place])
            total = total + linear_cross_entropy(filtered, head, rows.labels).total
        return total / len(self.filters.blocks)


def _check_blocks(who: str, wanted: Sequence[int], filters: LayerFilters | None) -> None:
    if filters is not None and set(wanted) - set(filters.blocks):
        raise MethodError(
            f"the {who} has filters for blocks {list(filters.blocks)}, not for all of {list(wanted)}"
        )
