"""Classes split by where a teacher's states of their texts lie: more to learn where there are few classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from methods.errors import MethodError
from methods.registry import component
from methods.slots.rows import Rows
from methods.slots.targets.teachers import linear
from methods.slots.term import IDS, Term, Weight

SPLITS = ("directions", "clusters")
ROUNDS = 50  # of Lloyd's algorithm


@component("term", "subclass-match")
class SubclassMatch(Term, nn.Module):
    """sum_c p(c) KL(p(s | c) || q(s | c)) over the subclasses s of each class c, as the first teacher splits it.

    Beside the classes' own forward KL it is the KL over all subclasses together (the chain rule), of a student whose
    subclass layer tells them within their class: that layer learns along and leaves, and the student stays plain. A
    class is the texts that the teacher says are of it; what is split is what goes into the teacher's head.
    `split` "directions": the projections on the class's principal directions, turned by a random rotation, in units of
    their root mean square, and their negatives; p(s | c) is their softmax at `temperature`. With `null_space` what the
    teacher's head reads is taken out first. "clusters": the nearest of so many means of the class's states (k-means).
    Source: LELP, Loo et al., arXiv 2409.20449, as public notes tell it: its text was not seen. There the student has an
    output for each subclass, and a class's are summed; the units, and a class by the teacher's word, are ours. Raises
    MethodError for tags of tokens, and for an odd number of directions and negatives.
    """

    reads = IDS
    middles: Tensor
    axes: Tensor

    def __init__(
        self,
        subclasses: int = 4,
        *,
        split: str = "directions",
        temperature: float = 1.0,
        null_space: bool = True,
        weight: Weight = 1.0,
        seed: int | None = None,
    ):
        super().__init__()
        if split not in SPLITS:
            raise MethodError(f"classes are split by {' or '.join(SPLITS)}, not by {split!r}")
        if subclasses < 2 or (split == "directions" and subclasses % 2):
            raise MethodError(f"{subclasses} subclasses cannot be: directions have two sides, so 2, 4, 6 ...")
        if not temperature > 0:
            raise MethodError(f"the temperature is {temperature}, not positive")
        self.subclasses, self.split, self.temperature = subclasses, split, temperature
        self.null_space, self.weight, self.seed = null_space, weight, seed

    def prepare(self, trainer: Any) -> None:
        if not getattr(trainer, "sees_inside", False):
            raise MethodError("subclass-match is about encoders that classify texts")
        states, head = trainer.teacher_states()
        seed = int(trainer.args.seed if self.seed is None else self.seed)
        draws = torch.Generator().manual_seed(seed)
        of = head.logits(states).argmax(-1)
        exact, weights = states.double(), head.weight.detach().double().cpu()
        by_class = [exact[of == number] for number in range(len(weights))]
        if self.split == "directions":
            read = weights if self.null_space else weights[:0]
            parts = [directions(own, self.subclasses // 2, read, draws) for own in by_class]
        else:
            parts = [clusters(own, self.subclasses, draws) for own in by_class]
        middles, axes = (torch.stack(side).to(states.dtype) for side in zip(*parts, strict=True))
        self.register_buffer("middles", middles, persistent=False)  # (C, H)
        self.register_buffer("axes", axes, persistent=False)  # (C, S, H)
        width = trainer.models.student().config.hidden_size
        self.layer = nn.Linear(width, len(weights) * self.subclasses)
        with torch.no_grad():
            drawn = torch.rand(self.layer.weight.shape, generator=draws, dtype=torch.float64) * 2 - 1
            self.layer.weight.copy_(width**-0.5 * drawn)
            self.layer.bias.zero_()

    def shares(self, states: Tensor) -> Tensor:
        """p(s | c) (N, C, S) of the teacher's states (N, H), for every class."""
        away = states.to(self.axes.dtype).unsqueeze(1) - self.middles
        if self.split == "directions":
            return (torch.einsum("nch,csh->ncs", away, self.axes) / self.temperature).softmax(-1)
        near = (away.unsqueeze(2) - self.axes).square().sum(-1).argmin(-1)
        return nn.functional.one_hot(near, self.subclasses).to(away.dtype)

    def total(self, rows: Rows) -> Tensor:
        states, head = linear(rows.teachers[0])
        with torch.no_grad():
            p, aim = head.logits(states).softmax(-1), self.shares(states)
        ours = self.layer(rows.hidden.to(self.layer.weight.dtype)).unflatten(-1, (-1, self.subclasses))
        away = torch.xlogy(aim, aim) - aim * ours.log_softmax(-1)
        return (p.to(away.dtype).unsqueeze(-1) * away).sum()


def directions(states: Tensor, count: int, read: Tensor, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The middle (H,) of a class's states (n, H), and `count` axes with their negatives (2 count, H) through it.

    Orthonormal principal directions of what is outside the rows of `read` (C, H), in a random rotation, divided by the
    root mean square of all projections on them; zeros where nothing differs.
    """
    width = states.shape[1]
    middle = states.mean(0) if len(states) else states.new_zeros(width)
    away = states - middle
    if len(read):
        basis = torch.linalg.svd(read, full_matrices=False)[2]
        away = away - away @ basis.T @ basis
    turned = torch.linalg.qr(torch.randn(count, count, generator=draws, dtype=torch.float64))
    rotation = turned.Q * turned.R.diagonal().sign()
    if not len(states) or count > width:
        return middle, states.new_zeros(2 * count, width)
    main = torch.linalg.eigh(away.T @ away).eigenvectors[:, -count:].flip(1).T
    largest = main.gather(1, main.abs().argmax(1, keepdim=True))
    axes = rotation.to(main) @ (main * largest.sign())
    size = (away @ axes.T).square().mean().sqrt()
    if size <= 1e-9:
        return middle, states.new_zeros(2 * count, width)
    return middle, torch.cat([axes, -axes]) / size


def clusters(states: Tensor, count: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """The middle (H,) of a class's states (n, H), and `count` means of clusters (count, H) seen from it.

    k-means from centres that are drawn far from each other (k-means++). Of fewer states than clusters all are one.
    """
    width = states.shape[1]
    middle = states.mean(0) if len(states) else states.new_zeros(width)
    if len(states) < count:
        return middle, states.new_zeros(count, width)
    away = states - middle
    chosen = [int(torch.randint(len(away), (1,), generator=draws))]
    while len(chosen) < count:
        far = torch.cdist(away, away[chosen]).min(1).values.square() + 1e-12
        chosen.append(int(torch.multinomial(far / far.sum(), 1, generator=draws)))
    means = away[chosen]
    for _ in range(ROUNDS):
        near = torch.cdist(away, means).argmin(1)
        moved = torch.stack(
            [away[near == n].mean(0) if (near == n).any() else means[n] for n in range(count)]
        )
        if torch.equal(moved, means):
            break
        means = moved
    return middle, means
