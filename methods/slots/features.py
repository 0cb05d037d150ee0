"""What happens between the layers: outputs of blocks, which to match with which, filters, distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from methods.errors import MethodError
from methods.modeling.core import blocks_of

Pairs = Sequence[tuple[int, int]]  # (block of the student, block of the teacher), both from 0
FILTER_FILE = "filters.safetensors"


@contextmanager
def recorded_blocks(model: nn.Module, blocks: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """A mapping that every forward pass inside fills with the outputs (B, L, H) of these blocks.

    The outputs are those of the blocks, without the norm that the model puts behind the last one.
    """
    states: dict[int, Tensor] = {}

    def keep(block: int) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            states[block] = output[0] if isinstance(output, tuple) else output

        return hook

    modules = blocks_of(model)
    handles = [modules[block].register_forward_hook(keep(block)) for block in sorted(set(blocks))]
    try:
        yield states
    finally:
        states.clear()
        for handle in handles:
            handle.remove()


def uniform_layers(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Every block of the student with the last teacher block of its share: block i with ceil((i + 1) T / S) - 1.

    Where S divides T, that is every (T / S)-th block, as in TED's scripts. Raises MethodError for a teacher with fewer
    blocks than the student.
    """
    if not 0 < student_layers <= teacher_layers:
        raise MethodError(
            f"{teacher_layers} teacher blocks cannot be shared out to {student_layers} student blocks"
        )
    return [(i, -(-(i + 1) * teacher_layers // student_layers) - 1) for i in range(student_layers)]


NAMED_LAYERS = ("uniform", "uniform-but-last", "top", "bottom", "last")


def layer_pairs(layers: str | Pairs, student_layers: int, teacher_layers: int) -> tuple[tuple[int, int], ...]:
    """Pairs of blocks by name, or as they are given.

    "uniform": see `uniform_layers`; "uniform-but-last": without the last of them; "top": block i of the student with
    block i + T - S; "bottom": with block i; "last": the last two alone. Raises MethodError for another name, for a
    student of one block without its last, and for one with more blocks than the teacher.
    """
    if not isinstance(layers, str):
        return tuple((s, t) for s, t in layers)
    if layers not in NAMED_LAYERS:
        raise MethodError(f"layers are {', '.join(NAMED_LAYERS)} or pairs of blocks, not {layers!r}")
    every = uniform_layers(student_layers, teacher_layers)
    if layers == "uniform-but-last":
        every = every[:-1]
    elif layers == "last":
        every = every[-1:]
    elif layers != "uniform":
        above = teacher_layers - student_layers if layers == "top" else 0
        every = [(i, i + above) for i in range(student_layers)]
    if not every:
        raise MethodError("a student of one block has none but the last")
    return tuple(every)


class LayerFilters(nn.Module):
    """One affine map for each of some blocks: (..., H) -> (..., D). `weight` (blocks, D, H), `bias` (blocks, D).

    Source: TED, arXiv 2210.01351; linear maps are the default of its official code.
    """

    def __init__(self, blocks: Sequence[int], width: int, size: int, *, seed: int = 0):
        super().__init__()
        if not blocks or len(set(blocks)) != len(blocks):
            raise MethodError(f"filters need blocks that are all different, not {list(blocks)}")
        self.blocks = tuple(blocks)
        draws, bound = torch.Generator().manual_seed(seed), width**-0.5
        uniform = torch.rand(len(blocks), size, width, generator=draws) * 2 - 1
        self.weight = nn.Parameter(bound * uniform)
        self.bias = nn.Parameter(torch.zeros(len(blocks), size))

    def forward(self, block: int, hidden: Tensor) -> Tensor:
        place = self.blocks.index(block)
        return functional.linear(hidden.to(self.weight.dtype), self.weight[place], self.bias[place])

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the filters as safetensors into `folder`."""
        tensors = {"weight": self.weight, "bias": self.bias, "blocks": torch.tensor(self.blocks)}
        save_file(
            {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, Path(folder) / FILTER_FILE
        )

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> LayerFilters:
        """The filters that `save_pretrained` wrote."""
        tensors = load_file(Path(folder) / FILTER_FILE)
        _, size, width = tensors["weight"].shape
        made = cls(tensors.pop("blocks").tolist(), width, size)
        made.load_state_dict(tensors)
        return made


def squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over the last dimension of (student - teacher)^2: (..., D) -> (...)."""
    return (student - teacher).square().mean(-1)


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the angle: (..., D) -> (...), in [0, 2]."""
    return 1 - functional.cosine_similarity(student, teacher, dim=-1)


def normalised_squared_error(student: Tensor, teacher: Tensor) -> Tensor:
    """`squared_error` of vectors that were brought to length 1, 2 / D times the cosine distance: (..., D) -> (...)."""
    return squared_error(functional.normalize(student, dim=-1), functional.normalize(teacher, dim=-1))


HIDDEN_DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squared_error": squared_error,
    "cosine": cosine_distance,
    "normalised_squared_error": normalised_squared_error,
}
