"""A teacher some of whose blocks are the student's: the task's own loss is all that teaches them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods.classes.model import classifier_states, head_of_classifier, labelled
from methods.errors import MethodError
from methods.losses.divergences import check_fraction
from methods.modeling.core import blocks_of
from methods.registry import component
from methods.slots.features import uniform_layers
from methods.slots.rows import Rows
from methods.slots.term import FIRST, Term, Weight, Window
from methods.slots.terms.divergence import cross_entropy

FORMS = ("rising", "constant", "falling")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@component("term", "replaced-blocks")
class ReplacedBlocks(Term):
    """-log q(label) of the frozen teacher in which blocks of the student stand, each for its share of the teacher's.

    Before each step every block of the student is put in, or not, by a draw of its own: with the chance `rate` up to
    the share `until` of the training where `form` is "constant"; with one that grows in a line from `rate` to 1 there
    where it is "rising"; with 1 less that where it is "falling". Then the student learns alone. The hybrid is read as
    the student is, with dropout while it trains. At the beginning the student takes over what the teacher has outside
    its blocks, and with `copied` the teacher's first blocks too; what is outside stays so, but with `outside_learns` it
    learns once the student is alone.
    Source: BERT-of-Theseus, Xu et al., arXiv 2002.02925, equations 2, 3 and 6; `copied` and what stays as in its
    official code (run_glue.py); in the paper a student begins as blocks before fine-tuning, and what is outside is said
    to stay while blocks are replaced. Raises MethodError for models whose blocks cannot stand for each other.
    """

    reads = FIRST

    def __init__(
        self,
        rate: float = 0.3,
        *,
        until: float = 0.7,
        form: str = "rising",
        copied: bool = True,
        outside_learns: bool = False,
        weight: Weight = 1.0,
        seed: int | None = None,
    ):
        check_fraction("rate", rate)
        check_fraction("until", until)
        if form not in FORMS:
            raise MethodError(f"a rate is {', '.join(FORMS)}, not {form!r}")
        self.rate, self.until, self.form = rate, until, form
        self.copied, self.outside_learns = copied, outside_learns
        self.weight, self.seed = weight, seed
        self.replaced: list[bool] = []

    def prepare(self, trainer: Any) -> None:
        if not getattr(trainer, "sees_inside", False):
            raise MethodError("replaced-blocks is about encoders that classify texts or tag tokens")
        if not trainer.first_reads_the_same:
            raise MethodError("replaced-blocks needs a teacher that reads the student's tokens")
        student, self._teacher = trainer.models.student(), trainer.models.first_teacher()
        self._seed = int(trainer.args.seed if self.seed is None else self.seed)
        whole, own = blocks_of(self._teacher), blocks_of(student)
        ends = [last + 1 for _, last in uniform_layers(len(own), len(whole))]
        self._shares = [list(whole[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
        with torch.no_grad():
            for mine, theirs in _outside(student, self._teacher):
                mine.copy_(theirs)
                mine.requires_grad_(mine.requires_grad and self.outside_learns)
            if self.copied:
                for block, first in zip(own, whole, strict=False):
                    block.load_state_dict(first.state_dict())

    def rate_at(self, progress: float) -> float:
        """The chance that a block is put in, at some progress in [0, 1)."""
        if progress >= self.until:
            return 1.0
        if self.form == "constant":
            return self.rate
        grown = self.rate + (1 - self.rate) * progress / self.until
        return grown if self.form == "rising" else 1 - grown

    def begin_step(self, window: Window) -> None:
        # One draw a step, the same on every rank and whatever was drawn before: nothing for a checkpoint to keep.
        draws = torch.Generator().manual_seed((self._seed << 24) + int(window.trainer.state.global_step))
        chances = torch.rand(len(self._shares), generator=draws, dtype=torch.float64)
        self.replaced = (chances < self.rate_at(window.progress)).tolist()

    def total(self, rows: Rows) -> Tensor:
        if all(self.replaced):
            return cross_entropy(rows).total
        own, teacher = blocks_of(rows.core), self._teacher
        parts = zip(self.replaced, own, self._shares, strict=True)
        blocks = [block for put, mine, theirs in parts for block in ([mine] if put else theirs)]
        batch = {name: rows.batch[name] for name in INPUTS if name in rows.batch}
        with _in_their_place(teacher, blocks, training=rows.core.training):
            hidden, _ = classifier_states(teacher, batch, labelled(rows.batch["labels"]))
        return cross_entropy(replace(rows, hidden=hidden, head=head_of_classifier(teacher))).total


@contextmanager
def _in_their_place(model: Any, blocks: Sequence[nn.Module], *, training: bool) -> Iterator[None]:
    """Inside, the frozen model has these blocks in the place of its own."""
    whole = blocks_of(model)
    parent, name = next(
        (module, name)
        for module in model.modules()
        for name, child in module.named_children()
        if child is whole
    )
    setattr(parent, name, nn.ModuleList(blocks))
    try:
        model.train(training)
        yield
    finally:
        setattr(parent, name, whole)
        model.eval()


def _outside(student: Any, teacher: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of weights outside the blocks, the student's first. MethodError for models of two shapes."""
    inside = [{id(p) for p in blocks_of(model).parameters()} for model in (student, teacher)]
    ours, theirs = (
        {name: p for name, p in model.named_parameters() if id(p) not in own}
        for model, own in zip((student, teacher), inside, strict=True)
    )
    shapes = [{name: p.shape for name, p in side.items()} for side in (ours, theirs)]
    blocks = [{n: p.shape for n, p in blocks_of(m)[0].named_parameters()} for m in (student, teacher)]
    if shapes[0] != shapes[1] or blocks[0] != blocks[1]:
        raise MethodError("a student's blocks can stand in a teacher of the same kind and width alone")
    yield from ((ours[name], theirs[name]) for name in ours)
